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
using MatrixF32 = Eigen::MatrixXf;
using RowMajorF32 = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr double kRidge = 1e-3;   // of the mean diagonal
constexpr double kFloor = 1e-12;  // where that is nothing
// Within a group no direction counts for less than this part of the most important one: errors must not weigh on each other so much that
// corrections leave the codes' range. Rank-deficient statistics would have them do so.
constexpr double kWeightFloor = 1e-3;

Matrix Regularised(const std::vector<double>& moments, Eigen::Index d) {
  Matrix s = Eigen::Map<const Matrix>(moments.data(), d, d);
  s.diagonal().array() += kRidge * s.diagonal().mean() + kFloor;
  return s;
}

// How a group's coordinates are mixed, and what their errors then weigh on each other.
struct Mixing {
  Matrix turn;    // [16, 16] orthonormal: mixed coordinates = turn * coordinates
  Matrix upper;   // [16, 16] unit upper triangular: U
  double weight;  // geometric mean of the group's lambda
};

// The geometric mean decomposition: of all rotations of diagonal variances lambda, one after which the metric's triangular factor has equal
// diagonals, so that nearest-plane rounding leaves the geometric mean of lambda as error where mixing alone would leave the arithmetic
// mean. One Givens rotation from each side per coordinate (Jiang, Hager and Li 2005).
Mixing MixGroup(const Vector& lambda) {
  const Eigen::Index n = lambda.size();
  const double mean = std::exp(lambda.array().log().mean() / 2);  // of the singular values
  Matrix factor = lambda.cwiseSqrt().asDiagonal();
  Matrix turn = Matrix::Identity(n, n);
  for (Eigen::Index k = 0; k + 1 < n; ++k) {
    // A value on the other side of the mean than that at k comes next to it.
    Eigen::Index other = k + 1;
    for (Eigen::Index i = k + 2; i < n; ++i) {
      if (factor(k, k) >= mean ? factor(i, i) < factor(other, other) : factor(i, i) > factor(other, other)) other = i;
    }
    factor.row(k + 1).swap(factor.row(other));
    factor.col(k + 1).swap(factor.col(other));
    turn.col(k + 1).swap(turn.col(other));
    const double a = factor(k, k), b = factor(k + 1, k + 1), spread = a * a - b * b;
    const double c = std::abs(spread) > 1e-12 * a * a ? std::sqrt(std::clamp((mean * mean - b * b) / spread, 0.0, 1.0)) : 1.0;
    const double s = std::sqrt(1 - c * c);
    Eigen::Matrix2d left, right;
    right << c, -s, s, c;
    left << c * a, s * b, -s * b, c * a;
    left /= std::hypot(c * a, s * b);  // the mean, up to rounding
    factor.middleCols(k, 2) = (factor.middleCols(k, 2) * right).eval();
    turn.middleCols(k, 2) = (turn.middleCols(k, 2) * right).eval();
    factor.middleRows(k, 2) = (left * factor.middleRows(k, 2)).eval();
  }
  Matrix upper = factor.triangularView<Eigen::Upper>();
  for (Eigen::Index i = 0; i < n; ++i) upper.row(i) /= upper(i, i);
  return {.turn = turn.transpose(), .upper = upper, .weight = mean * mean};
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

  Matrix keys = size.cwiseInverse().asDiagonal() * turned * h, queries = size.asDiagonal() * turned * h_inverse;
  for (Eigen::Index first = 0; first < d; first += kernels::kGroup) {
    const Mixing mixing = MixGroup(lambda.segment(first, kernels::kGroup).cwiseMax(lambda[first] * kWeightFloor));
    keys.middleRows(first, kernels::kGroup) = (mixing.turn * keys.middleRows(first, kernels::kGroup)).eval();
    queries.middleRows(first, kernels::kGroup) = (mixing.turn * queries.middleRows(first, kernels::kGroup)).eval();
    geometry.importance(head)[static_cast<size_t>(first / kernels::kGroup)] = static_cast<float>(mixing.weight);
    Eigen::Map<MatrixF32>(geometry.shaping(head).data() + first * kernels::kGroup, kernels::kGroup, kernels::kGroup) =
        mixing.upper.cast<float>();
  }
  std::copy(moments.key_mean.begin(), moments.key_mean.end(), geometry.centre(head).begin());
  Eigen::Map<RowMajorF32>(geometry.map(head).data(), d, d) = keys.cast<float>();
  Eigen::Map<RowMajorF32>(geometry.query_map(head).data(), d, d) = queries.cast<float>();
}

absl::StatusOr<ModelGeometry> SolveGeometry(const KeyStatistics& statistics, const ModelPositions& positions, ThreadPool& pool) {
  const KeyStatistics::Shape& shape = statistics.shape();
  ModelGeometry geometry({.layers = shape.layers, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim});
  pool.Run(geometry.heads(), [&](Shard shard) {
    SolveHead(Average(statistics.head(shard.index), positions.at(shard.index / shape.kv_heads)), shard.index, geometry);
  });
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    if (AllFinite(geometry.centre(head)) && AllFinite(geometry.map(head)) && AllFinite(geometry.query_map(head)) &&
        AllFinite(geometry.importance(head)) && AllFinite(geometry.shaping(head))) {
      continue;
    }
    return absl::InternalError(fmt::format("the keys or queries of layer {}, kv head {} are not finite, or too large to be coded",
                                           head / shape.kv_heads, head % shape.kv_heads));
  }
  geometry.AllotWidths();
  return geometry;
}

}  // namespace spherical::engine
