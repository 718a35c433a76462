#include "engine/calibrate/geometry_solver.h"

#include <algorithm>
#include <cmath>

#include <eigen3/Eigen/Eigenvalues>
#include <fmt/format.h>

#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using Matrix = Eigen::MatrixXd;
using Vector = Eigen::VectorXd;
using RowMajorF32 = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr double kRidge = 1e-3;   // of the mean diagonal
constexpr double kFloor = 1e-12;  // where that is nothing

Matrix Regularised(const std::vector<double>& moments, Eigen::Index d) {
  Matrix s = Eigen::Map<const Matrix>(moments.data(), d, d);
  s.diagonal().array() += kRidge * s.diagonal().mean() + kFloor;
  return s;
}

// Sylvester's Hadamard matrix, orthonormal and symmetric.
Matrix Mixing() {
  Matrix mixing = Matrix::Constant(1, 1, 1 / std::sqrt(double{kernels::kGroup}));
  while (mixing.rows() < kernels::kGroup) {
    const Eigen::Index n = mixing.rows();
    Matrix twice(2 * n, 2 * n);
    twice << mixing, mixing, mixing, -mixing;
    mixing = twice;
  }
  return mixing;
}

// Mixes each group of rows.
Matrix Mixed(Matrix rows) {
  static const Matrix mixing = Mixing();
  for (Eigen::Index g = 0; g < rows.rows(); g += kernels::kGroup) {
    rows.middleRows(g, kernels::kGroup) = (mixing * rows.middleRows(g, kernels::kGroup)).eval();
  }
  return rows;
}

void Divide(std::vector<double>& sums, int64_t count) {
  for (double& sum : sums) sum = count == 0 ? 0 : sum / static_cast<double>(count);
}

bool AllFinite(std::span<const float> values) { return kernels::AllFinite(values.data(), static_cast<int64_t>(values.size())); }

}  // namespace

ServedMoments Average(const HeadMoments& moments, const ServedPositions& positions) {
  ServedMoments served{.key_mean = moments.key_sum, .key_covariance = moments.key_products, .query_products = moments.query_products};
  Divide(served.key_mean, moments.keys);
  Divide(served.key_covariance, moments.keys);
  Divide(served.query_products, moments.queries);
  positions.AverageMean(served.key_mean);
  positions.AverageProducts(served.key_covariance);
  positions.AverageProducts(served.query_products);
  const Eigen::Index d = positions.head_dim();
  const Eigen::Map<const Vector> mean(served.key_mean.data(), d);
  Eigen::Map<Matrix>(served.key_covariance.data(), d, d) -= mean * mean.transpose();
  return served;
}

void SolveHead(const ServedMoments& moments, int32_t head, ModelGeometry& geometry) {
  const Eigen::Index d = geometry.shape().head_dim;
  const Eigen::SelfAdjointEigenSolver<Matrix> query(Regularised(moments.query_products, d));
  const Matrix h = query.operatorSqrt(), h_inverse = query.operatorInverseSqrt();
  Matrix logits = h * Regularised(moments.key_covariance, d) * h;
  logits = (logits + logits.transpose()).eval() / 2;
  const Eigen::SelfAdjointEigenSolver<Matrix> solved(logits);

  // Eigen sorts upwards. Rounding may leave the least below zero.
  const double least = std::max(solved.eigenvalues()[d - 1] * 1e-12, kFloor * kFloor);
  const Vector lambda = solved.eigenvalues().reverse().cwiseMax(least);
  const Matrix turned = solved.eigenvectors().rowwise().reverse().transpose();  // U'
  const Vector size = lambda.cwiseSqrt();

  std::copy(moments.key_mean.begin(), moments.key_mean.end(), geometry.centre(head).begin());
  Eigen::Map<RowMajorF32>(geometry.map(head).data(), d, d) = Mixed(size.cwiseInverse().asDiagonal() * turned * h).cast<float>();
  Eigen::Map<RowMajorF32>(geometry.query_map(head).data(), d, d) = Mixed(size.asDiagonal() * turned * h_inverse).cast<float>();
  for (Eigen::Index g = 0; g < d / kernels::kGroup; ++g) {
    geometry.importance(head)[static_cast<size_t>(g)] = static_cast<float>(lambda.segment(g * kernels::kGroup, kernels::kGroup).mean());
  }
}

absl::StatusOr<ModelGeometry> SolveGeometry(const KeyStatistics& statistics, const ServedPositions& positions, ThreadPool& pool) {
  const KeyStatistics::Shape& shape = statistics.shape();
  ModelGeometry geometry({.layers = shape.layers, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim});
  pool.Run(geometry.heads(),
           [&](Shard shard) { SolveHead(Average(statistics.head(shard.index), positions), shard.index, geometry); });
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    if (AllFinite(geometry.centre(head)) && AllFinite(geometry.map(head)) && AllFinite(geometry.query_map(head)) &&
        AllFinite(geometry.importance(head))) {
      continue;
    }
    return absl::InternalError(fmt::format("the keys or queries of layer {}, kv head {} are not finite, or too large to be coded",
                                           head / shape.kv_heads, head % shape.kv_heads));
  }
  geometry.AllotWidths();
  return geometry;
}

}  // namespace spherical::engine
