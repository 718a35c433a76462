// The keys and values of a few sequences in the open: pages that a test may share, copy, rewrite, and count.
//
//   KvStore::Handle prefix = store->Begin();                // the forward pass enters tokens: Lend before, Record after
//   KvStore::Handle again = store->Share(*prefix);          // reads the prefix's pages, continues in pages of its own
//   KvStore::Handle other = store->Copy(*prefix);           // for Rewrite
//   KvStore::Handle coded = store->Seal(*prefix, geometry, tier);
//
// Thread: one caller. A Handle gives its pages back; the store outlives it.
#ifndef SPHERICAL_TESTS_QUALITY_KV_STORE_H_
#define SPHERICAL_TESTS_QUALITY_KV_STORE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/budget/reservation_size.h"
#include "engine/host_memory.h"
#include "engine/intake/submission.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/page_table.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/measure_run.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"
#include "tests/quality/device_forward.h"

namespace spherical::quality {

// One sequence's KV.
struct Kv {
  explicit Kv(const engine::KvShape& shape, engine::QuerySampling sampling = {})
      : pages(shape.layers, shape.kv_heads, sampling, shape.windows) {}
  engine::PageTable pages;
  engine::SequenceId sequence = 0;
  int32_t tokens = 0;             // entered
  std::vector<double> energy;     // [layers] of sampled sequences: Forward::EnergyOf, summed
  int64_t energy_rows = 0;
  std::vector<float> residuals;   // [layers] once priced: means of them
  int32_t price = 0;              // priced: at which new tokens are settled
  bool live = false;              // priced: they are
  bool chunks = false;            // scored many tokens at a time, on a device too
  int32_t borrowed = 0;           // f16 pages at the front of every head that belong to another sequence
  const engine::ModelGeometry* geometry = nullptr;  // of coded pages; null: all is f16
};

// What a sequence costs, in bits per element of K and V of the tokens entered (design, glossary), of local heads of those in the window.
// Counted from its pages.
struct KvRate {
  double bits = 0;       // codes, radii and metadata of the tokens held, T8 tokens included; f16: the numbers
  double real_bits = 0;  // pages held, open ones and what pages leave unused included
};

class KvStore {
 public:
  struct GiveBack {
    KvStore* store;
    void operator()(Kv* kv) const { store->End(kv); }
  };
  using Handle = std::unique_ptr<Kv, GiveBack>;

  // From now on pages lie on the device, which outlives this: nothing is in any of them yet. What looks into pages here (Copy, Rewrite)
  // is then not to be had.
  void MoveTo(DeviceForward& device) { device_ = &device; }
  PageCount exact_pages() const { return exact_.pool->pages(); }
  PageCount coded_pages() const { return coded_.pool->pages(); }

  // Room for three sequences of that many tokens in f16, two of them coded. Memory that is not used is not taken.
  static absl::StatusOr<std::unique_ptr<KvStore>> Make(const engine::KvShape& shape, TokenCount tokens_max, engine::ThreadPool& threads);
  KvStore(const engine::KvShape& shape, engine::ThreadPool& threads) : shape_(shape), threads_(threads) {}  // for Make: no memory yet
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;
  ~KvStore();

  // sampling: for SealPriced.   group: query heads per kv head
  Handle Begin(engine::QuerySampling sampling = {}, int32_t group = 0);
  Handle Share(const Kv& kv);  // kv is f16, outlives the result and is not written meanwhile
  Handle Copy(const Kv& kv);   // kv is f16
  // Codes what was entered: the first tokens and the newest (engine/kv/retier.h) to T8, the others to `tier`. The geometry outlives it.
  Handle Seal(const Kv& kv, const engine::ModelGeometry& geometry, kernels::Tier tier);
  // Codes it as the controller would that may spend `rate` bits per element. kv was begun with sampling.
  Handle SealPriced(const Kv& kv, const engine::MeasureContext& context, double rate);

  // Where tokens of a priced sequence that are new no more go; to be asked after every one.
  void Settle(Kv& kv, const engine::MeasureContext& context);

  // What pressing does to a priced sequence: looks at all its codes, and moves them so that it takes `rate` bits per element.
  std::vector<engine::RateCurve> Look(const Kv& kv, const engine::MeasureContext& context);
  void Reprice(Kv& kv, const engine::MeasureContext& context, double rate);

  // Pages for `tokens` more tokens; what was entered into them; what was entered from `tokens` on, forgotten.
  void Lend(Kv& kv, int32_t tokens);
  void Record(Kv& kv, int32_t tokens);
  void Rewind(Kv& kv, int32_t tokens);

  // Shows every token of every head, and keeps what is made of it, as f16. From several threads at once.   key, value [D]
  using Rewriter = absl::FunctionRef<void(int32_t head, int32_t position, std::span<float> key, std::span<float> value)>;
  void Rewrite(Kv& kv, Rewriter rewrite);

  KvRate RateOf(const Kv& kv) const;
  engine::KvArenas arenas();

 private:
  struct Arena {
    engine::HostMemory memory;
    std::unique_ptr<engine::KvPool> pool;
    engine::Reservation room;
  };
  static absl::Status Allocate(PageCount pages, ByteCount page_bytes, Arena& arena);
  void End(Kv* kv);
  // Here or on the device.
  std::vector<engine::RateCurve> Measure(const engine::MeasureContext& context, std::span<const engine::MeasureItem> questions);
  void Retier(const engine::ModelGeometry& geometry, float attention_scale, std::span<const engine::RetierItem> items);
  void RunReprice(Kv& kv, const engine::MeasureContext& context, std::span<engine::RetierItem> items);
  Handle SealAs(const Kv& kv, const engine::ModelGeometry& geometry, std::span<engine::RetierItem> items, Handle result);
  // Of f16 tokens, those that coding begins with: local heads leave out what has left their window.
  static void Borrow(const Kv& kv, int32_t head, engine::HeadPages& to);
  // What is left of a rate for tokens that are not protected.
  int64_t BytesFor(const Kv& kv, double rate) const;
  Handle MakeKv(engine::QuerySampling sampling = {}) {
    auto kv = std::make_unique<Kv>(shape_, sampling);
    kv->sequence = next_sequence_++;
    return Handle(kv.release(), GiveBack{this});
  }
  void CopyPage(PageId from, PageId to);  // f16
  uint8_t* ExactPage(PageId page) { return exact_.memory.data() + page * shape_.page_bytes.value(); }
  int64_t TokensPerPage(kernels::Tier tier) const { return kernels::TokensPerPage(tier, shape_.head_dim); }
  void LendTier(engine::HeadPages& head, kernels::Tier tier, int32_t tokens);

  const engine::KvShape shape_;
  engine::ThreadPool& threads_;
  DeviceForward* device_ = nullptr;     // null: pages lie here
  engine::SequenceId next_sequence_ = 1;
  Arena exact_, coded_;
};

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_KV_STORE_H_
