#ifndef SPHERICAL_ENGINE_STEP_KV_ARENAS_H_
#define SPHERICAL_ENGINE_STEP_KV_ARENAS_H_

#include <cstdint>

namespace spherical::engine {

// Where the pages of a PageTable lie. In mode `exact` the f16 pages are the pool's and there are no coded ones; in the coded modes the f16
// pages are the prefill workspace's, packed without what a pool page leaves unused.
struct KvArenas {
  uint8_t* exact = nullptr;
  int64_t exact_page_bytes = 0;  // distance between pages
  uint8_t* coded = nullptr;
  int64_t coded_page_bytes = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_KV_ARENAS_H_
