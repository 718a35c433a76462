// How the prefill workspace's pages hold what mode `rdr` keeps of a head until it is sealed, beside its exact tokens:
//
//   samples   queries after rotary positions, f16 [32][D] a page: query g of sampled slot s is vector s * G + g of the list
//   notes     of each exact token, from exact_begin on: the prices at which it leaves each rung, and its utility byte
//             | u16 [4][N] | u8 [N] |     N tokens a page
#ifndef SPHERICAL_ENGINE_KV_HEAD_NOTES_H_
#define SPHERICAL_ENGINE_KV_HEAD_NOTES_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {

inline constexpr int32_t kSampleVectorsPerPage = 2 * kernels::kExactTokensPerPage;
constexpr int32_t SamplePages(int32_t positions, int32_t group) {
  return static_cast<int32_t>(CeilDiv(int64_t{positions} * group, kSampleVectorsPerPage));
}

inline constexpr int32_t kNoteBytes = 2 * kernels::kLadderTiers + 1;
constexpr int32_t NotesPerPage(int32_t head_dim) {
  return kernels::ExactBytesUsed(head_dim) / kNoteBytes / kernels::kTokenTile * kernels::kTokenTile;
}
constexpr int32_t NotePages(int32_t tokens, int32_t head_dim) { return static_cast<int32_t>(CeilDiv(tokens, NotesPerPage(head_dim))); }

// One token's note on its page.
class NotesPage {
 public:
  NotesPage(uint8_t* page, int32_t head_dim) : page_(page), tokens_(NotesPerPage(head_dim)) {}

  void Write(int32_t slot, const kernels::LadderSteps& steps, uint8_t utility) {
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
      page_[2 * (r * tokens_ + slot)] = static_cast<uint8_t>(steps.leaves[r]);
      page_[2 * (r * tokens_ + slot) + 1] = static_cast<uint8_t>(steps.leaves[r] >> 8);
    }
    page_[2 * kernels::kLadderTiers * tokens_ + slot] = utility;
  }
  kernels::LadderSteps StepsOf(int32_t slot) const {
    kernels::LadderSteps steps;
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
      const uint8_t* at = page_ + 2 * (r * tokens_ + slot);
      steps.leaves[r] = static_cast<uint16_t>(at[0] | at[1] << 8);
    }
    return steps;
  }
  uint8_t UtilityOf(int32_t slot) const { return page_[2 * kernels::kLadderTiers * tokens_ + slot]; }

 private:
  uint8_t* page_;
  int32_t tokens_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_HEAD_NOTES_H_
