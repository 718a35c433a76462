#ifndef SPHERICAL_TESTS_BENCH_MEDIAN_H_
#define SPHERICAL_TESTS_BENCH_MEDIAN_H_

#include <algorithm>
#include <cstddef>
#include <vector>

namespace spherical {

// Of repeated measurements, at least one; of an even number the upper of the two in the middle.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace spherical

#endif  // SPHERICAL_TESTS_BENCH_MEDIAN_H_
