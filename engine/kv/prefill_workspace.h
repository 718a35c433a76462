// PrefillWorkspace lends f16 pages to prompts in the coded modes: a prompt's chunks attend to the exact keys and values of those before
// them, and are coded once it is complete. Apart from the pool, not charged to tenants.
//
// Local heads let go of what has left their window, so their part of a room does not grow with the prompt, and they never seal early.
//
// A prompt gets its room whole before its first chunk, so nobody stops half-way. Rooms come from two lanes, so that a long prompt never
// keeps short ones waiting: four fifths for any, one fifth for short ones alone (at most a twentieth each). A prompt longer than the large
// lane keeps a window of it: when the window is full, its oldest quarter is sealed early.
//
// Sealing goes head by head, a fixed number of heads between two decoding steps of the sequence (SealHeadsPerStep): which keys a token
// meets exact and which coded depends on the sequence alone, never on who else is served.
//
// In mode `rdr` a room also has pages for a prompt's sampled queries and for the notes of what measuring found (engine/kv/head_notes.h).
//
// Thread: the engine thread only.
#ifndef SPHERICAL_ENGINE_KV_PREFILL_WORKSPACE_H_
#define SPHERICAL_ENGINE_KV_PREFILL_WORKSPACE_H_

#include <cstdint>
#include <optional>

#include "engine/kv/kv_pool.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// Coordinates (token x head x head dim) that one sequence seals between two of its steps: some ten milliseconds of one core, of an H200.
inline constexpr int64_t kSealCoordinatesPerStep = int64_t{1} << 20;
inline constexpr int64_t kCudaSealCoordinatesPerStep = int64_t{1} << 28;

// What a prompt may use. Default: nothing, as before its first chunk and after its last head is sealed.
struct WorkspaceRoom {
  Reservation pages;
  bool large = false;       // the lane
  int32_t window = 0;       // exact tokens of the prompt at once, in global heads; at least 32, or the whole prompt
  bool granted() const { return window > 0; }
};

class PrefillWorkspace {
 public:
  struct Shape {
    int32_t heads = 0;  // layers * kv_heads
    int32_t head_dim = 0;
    int32_t group = 0;  // query heads per kv head whose queries are sampled; 0: none are
    int32_t local_heads = 0;  // of the heads, those of layers with a window:
    int32_t window = 0;       // the largest. They hold what is in it and a step's rows, however long the prompt
    int64_t seal_coordinates = kSealCoordinatesPerStep;  // of one sequence, between two of its steps
  };
  // `tokens`: f16 tokens that fit, of all heads, samples and notes counted as the tokens that their pages would hold; 0 in mode `exact`.
  PrefillWorkspace(const Shape& shape, TokenCount tokens);
  // F16 pages of a workspace of so many tokens: what the device allocates.
  static PageCount PagesFor(int32_t heads, TokenCount tokens);

  bool IsLarge(int32_t prompt_tokens) const { return NeedOf(prompt_tokens).large; }
  // The room of a prompt, or nullopt: others have it now.
  [[nodiscard]] std::optional<WorkspaceRoom> Grant(int32_t prompt_tokens);
  [[nodiscard]] PageId Acquire(WorkspaceRoom& room) { return pages_.Acquire(room.pages); }
  void Release(PageId page, WorkspaceRoom& room) { pages_.Release(page, room.pages); }
  void TakeBack(WorkspaceRoom room);  // every page was released before

  // Pages of each head that a prompt's sampled queries take.
  int32_t SamplePagesFor(int32_t prompt_tokens) const { return SamplePagesFor(shape_, prompt_tokens); }
  // Heads to measure between two steps of the room's sequence: measuring takes several times as long as sealing.
  int32_t MeasureHeadsPerStep(const WorkspaceRoom& room) const;
  // Heads to seal between two steps of the room's sequence: the same from first to last.
  int32_t SealHeadsPerStep(const WorkspaceRoom& room) const;
  // Tokens of a full window that are sealed early: a multiple of 16.
  static int32_t EarlyTokens(int32_t window) { return window / 4 / 16 * 16 > 0 ? window / 4 / 16 * 16 : 16; }

  const KvPool& pages() const { return pages_; }

  // The least that serves a context: 4/5 of it take a chunk of `chunk` tokens, or the context if that is shorter, and what decodes while
  // its heads are sealed.
  static TokenCount Least(const Shape& shape, int32_t context, int32_t chunk);
  // Enough for a whole context without sealing early.
  static TokenCount ForContext(const Shape& shape, int32_t context);

 private:
  struct Need {
    bool large;
    int32_t window;
    PageCount pages;
  };
  Need NeedOf(int32_t prompt_tokens) const;
  static int32_t SamplePagesFor(const Shape& shape, int32_t prompt_tokens);
  static int64_t PagesOfHead(const Shape& shape, int64_t prompt_tokens, int64_t window, int64_t held);
  static int64_t PagesOfRoom(const Shape& shape, int64_t prompt_tokens, int64_t window);
  // Tokens of all heads that make four fifths of them so many pages.
  static TokenCount TokensFor(const Shape& shape, int64_t pages);
  PageCount LaneOf(bool large) const { return large ? large_pages_ : small_pages_; }

  const Shape shape_;
  KvPool pages_;
  const PageCount large_pages_, small_pages_;  // of the two lanes
  PageCount large_, small_;                    // reserved of each lane
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_PREFILL_WORKSPACE_H_
