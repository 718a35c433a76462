#ifndef SPHERICAL_ENGINE_CALIBRATE_KEY_STATISTICS_H_
#define SPHERICAL_ENGINE_CALIBRATE_KEY_STATISTICS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/step/thread_pool.h"

namespace spherical::engine {

// What one kv head's attention was shown, BEFORE rotary positions: sums of keys and of products, in double.   D = head_dim
struct HeadMoments {
  explicit HeadMoments(int32_t head_dim);
  int64_t keys = 0;
  int64_t queries = 0;                 // of all query heads of the group
  std::vector<double> key_sum;         // [D]      sum of k
  std::vector<double> key_products;    // [D, D]   sum of k k'; symmetric
  std::vector<double> query_products;  // [D, D]   sum of q q'; symmetric
};

// The moments of every (layer, kv head) of a model.
//
// Thread: one caller; the pool's workers inside, a head's keys by one of them, so that the sums do not depend on how many there are.
class KeyStatistics {
 public:
  struct Shape {
    int32_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  };
  explicit KeyStatistics(const Shape& shape);

  // Some tokens of one layer. A key whose position in its sample is below kKeysSkipped is left out: the first tokens take the attention
  // that nobody needs, look like no other, and are kept at T8 anyway.
  static constexpr int32_t kKeysSkipped = 4;
  struct Rows {  // M tokens
    std::span<const int32_t> positions;  // [M]               in their samples
    const float* query;                  // [M, heads, D]     before rotary positions
    const float* key;                    // [M, kv_heads, D]  before rotary positions
  };
  void Add(int32_t layer, const Rows& rows, ThreadPool& pool);

  const Shape& shape() const { return shape_; }
  int32_t heads() const { return shape_.layers * shape_.kv_heads; }  // head = layer * kv_heads + kv head, as in ModelGeometry
  const HeadMoments& head(int32_t head) const { return heads_[static_cast<size_t>(head)]; }

 private:
  void AddKeys(int32_t kv_head, const Rows& rows, HeadMoments& moments) const;
  void AddQueries(int32_t kv_head, const Rows& rows, HeadMoments& moments) const;

  Shape shape_;
  std::vector<HeadMoments> heads_;  // [layers * kv_heads]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_KEY_STATISTICS_H_
