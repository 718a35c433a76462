// Pages of a coded tier, written bit by bit from the picture in page_layout.h: an independent check of the format, and a source of codes
// that no encoder would make.
#ifndef SPHERICAL_TESTS_FAKES_CODED_PAGES_H_
#define SPHERICAL_TESTS_FAKES_CODED_PAGES_H_

#include <cstdint>
#include <vector>

#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// The tokens of one (kv head, tier): random codes and radii, in pages that lie anywhere in an arena full of ones. Bytes of slots that
// hold no token stay ones: codes of all ones, radii NaN.
struct CodedPages {
  int32_t head_dim;
  Tier tier;
  std::vector<uint8_t> widths;          // [D/16]
  int32_t tokens;
  std::vector<int32_t> key_codes;       // [tokens, D], -2^(w-1) to 2^(w-1) - 1; 0 under width 0
  std::vector<int32_t> value_codes;
  std::vector<float> key_radii, value_radii;  // [tokens]
  std::vector<uint8_t> arena;
  std::vector<PageId> pages;

  CodedPages(int32_t head_dim, Tier tier, std::vector<uint8_t> widths, int32_t tokens, uint64_t seed);

  // Writes codes and radii, the latter rounded to f16 here as well.
  void Write();
  double Key(int32_t t, int32_t d) const;    // (c + 1/2) step, without the radius
  double Value(int32_t t, int32_t d) const;
};

// Random widths of 0 to 6 and 8 bits whose sum is what the tier's keys may take; T8: 8 everywhere.
std::vector<uint8_t> RandomWidths(int32_t head_dim, Tier tier, uint64_t seed);

}  // namespace spherical::kernels

#endif  // SPHERICAL_TESTS_FAKES_CODED_PAGES_H_
