#include "engine/calibrate/key_statistics.h"

#include <eigen3/Eigen/Core>

namespace spherical::engine {
namespace {

using Columns = Eigen::MatrixXd;  // a vector per column

// products += x x', both triangles.
void AddProducts(const Columns& x, std::vector<double>& products) {
  Eigen::Map<Eigen::MatrixXd> sum(products.data(), x.rows(), x.rows());
  sum.selfadjointView<Eigen::Lower>().rankUpdate(x);
  sum.triangularView<Eigen::StrictlyUpper>() = sum.transpose();
}

}  // namespace

HeadMoments::HeadMoments(int32_t head_dim)
    : key_sum(static_cast<size_t>(head_dim)),
      key_products(key_sum.size() * key_sum.size()),
      query_products(key_sum.size() * key_sum.size()) {}

KeyStatistics::KeyStatistics(const Shape& shape)
    : shape_(shape), heads_(static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.kv_heads), HeadMoments(shape.head_dim)) {}

void KeyStatistics::Add(int32_t layer, const Rows& rows, ThreadPool& pool) {
  pool.Run(2 * shape_.kv_heads, [&](Shard shard) {
    const int32_t kv_head = shard.index / 2;
    HeadMoments& moments = heads_[static_cast<size_t>(layer) * static_cast<size_t>(shape_.kv_heads) + static_cast<size_t>(kv_head)];
    if (shard.index % 2 == 0) {
      AddQueries(kv_head, rows, moments);
    } else {
      AddKeys(kv_head, rows, moments);
    }
  });
}

void KeyStatistics::AddKeys(int32_t kv_head, const Rows& rows, HeadMoments& moments) const {
  const int64_t d = shape_.head_dim;
  Columns keys(d, static_cast<Eigen::Index>(rows.positions.size()));
  Eigen::Index count = 0;
  for (size_t row = 0; row < rows.positions.size(); ++row) {
    if (rows.positions[row] < kKeysSkipped) continue;
    const float* key = rows.key + (static_cast<int64_t>(row) * shape_.kv_heads + kv_head) * d;
    keys.col(count++) = Eigen::Map<const Eigen::VectorXf>(key, d).cast<double>();
  }
  if (count == 0) return;
  keys.conservativeResize(Eigen::NoChange, count);
  moments.keys += count;
  Eigen::Map<Eigen::VectorXd>(moments.key_sum.data(), d) += keys.rowwise().sum();
  AddProducts(keys, moments.key_products);
}

void KeyStatistics::AddQueries(int32_t kv_head, const Rows& rows, HeadMoments& moments) const {
  const int64_t d = shape_.head_dim, group = shape_.heads / shape_.kv_heads, m = static_cast<int64_t>(rows.positions.size());
  Columns queries(d, m * group);
  for (int64_t row = 0; row < m; ++row) {
    const float* query = rows.query + (row * shape_.heads + kv_head * group) * d;
    queries.middleCols(row * group, group) = Eigen::Map<const Eigen::MatrixXf>(query, d, group).cast<double>();
  }
  moments.queries += m * group;
  AddProducts(queries, moments.query_products);
}

}  // namespace spherical::engine
