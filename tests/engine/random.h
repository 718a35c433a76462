#ifndef SPHERICAL_TESTS_ENGINE_RANDOM_H_
#define SPHERICAL_TESTS_ENGINE_RANDOM_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace spherical::testing {

// Seeded numbers (splitmix64): the same on every machine, so that a seed in a failed test is the test.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  uint64_t Below(uint64_t n) { return Next() % n; }  // n > 0; the bias does not matter here

 private:
  uint64_t state_;
};

// `bytes` with one to four things wrong: a bit, a byte, eight bytes of a large or small number, a cut, a piece twice, a piece gone.
inline std::string Damage(std::string_view bytes, uint64_t seed) {
  Random random(seed);
  std::string bad(bytes);
  for (uint64_t times = 1 + random.Below(4); times > 0 && bad.size() > 8; --times) {
    const size_t at = random.Below(bad.size() - 8);
    switch (random.Below(7)) {
      case 0: bad[at] = static_cast<char>(bad[at] ^ 1 << random.Below(8)); break;
      case 1: bad[at] = static_cast<char>(random.Next()); break;
      case 2:
      case 3: {
        const uint64_t number = random.Below(2) == 0 ? random.Below(4096) : ~uint64_t{0} >> random.Below(64);
        std::memcpy(bad.data() + at, &number, random.Below(2) == 0 ? 8 : 4);
        break;
      }
      case 4: bad.resize(at); break;
      case 5: bad.insert(at, bad.substr(random.Below(bad.size()), random.Below(64))); break;
      default: bad.erase(at, 1 + random.Below(32)); break;
    }
  }
  return bad;
}

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_ENGINE_RANDOM_H_
