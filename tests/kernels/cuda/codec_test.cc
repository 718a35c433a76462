// The device's codec against the reference, bit for bit: pages with every byte, radii, errors and ladders.
#include "kernels/cuda/codec.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/cuda/device_probe.h"
#include "tests/kernels/codec_heads.h"
#include "tests/kernels/cuda/codec_arrays.h"
#include "tests/skip.h"

namespace spherical::kernels::cuda {
namespace {

bool NoDevice() { return ProbeCudaDevices().devices.empty(); }

// Heads of every kind: plain and shaped, allotted and any widths, with the identity or a dense map.
std::vector<std::unique_ptr<Head>> DrawHeads(int32_t head_dim, Rng& random) {
  std::vector<std::unique_ptr<Head>> heads;
  for (int32_t i = 0; i < 6; ++i) {
    heads.push_back(std::make_unique<Head>(head_dim));
    Head& head = *heads.back();
    if (i > 1) head.DrawWidths(random);
    if (i % 2 == 1) DrawShaping(head, random, i == 5 ? 30 : 1);  // 30: corrections beyond any code
    const std::vector<float> map = Normal(int64_t{head_dim} * head_dim, random, 0.1), centre = Normal(head_dim, random, 3);
    std::copy(map.begin(), map.end(), head.map.begin());
    std::copy(centre.begin(), centre.end(), head.centre.begin());
  }
  return heads;
}

DeviceGeometry* PutGeometries(DeviceArrays& device, const std::vector<std::unique_ptr<Head>>& heads) {
  std::vector<DeviceGeometry> geometries;
  for (const std::unique_ptr<Head>& head : heads) {
    std::vector<float> packed(head->map.size());
    PackMap(head->geometry.head_dim, head->map.data(), packed.data());
    DeviceGeometry geometry = {.centre = device.Put(head->centre), .map = device.Put(packed), .importance = device.Put(head->importance),
                               .shaping = head->shaping.empty() ? nullptr : device.Put(head->shaping), .widths = {}};
    std::memcpy(geometry.widths, head->geometry.widths, sizeof geometry.widths);
    geometries.push_back(geometry);
  }
  return device.Put(geometries);
}

// Pages of every tier of every head, all with random bytes, one after the other.
struct Pages {
  int32_t head_dim, per_tier;
  std::vector<uint8_t> bytes;

  Pages(int32_t head_dim, size_t heads, int32_t per_tier, Rng& random) : head_dim(head_dim), per_tier(per_tier) {
    for (size_t i = 0; i < heads * kTierCount * static_cast<size_t>(per_tier); ++i) {
      const std::vector<uint8_t> page = RandomPage(head_dim, random);
      bytes.insert(bytes.end(), page.begin(), page.end());
    }
  }
  int64_t At(size_t head, Tier tier, int32_t page) const {
    return ((static_cast<int64_t>(head) * kTierCount + static_cast<int32_t>(tier)) * per_tier + page) * PageBytes(head_dim);
  }
};

// Where the first byte differs, in words that help.
std::string FirstDifference(const Pages& pages, const std::vector<uint8_t>& got, const std::vector<uint8_t>& want) {
  const auto [a, b] = std::mismatch(got.begin(), got.end(), want.begin());
  if (a == got.end()) return "";
  const int64_t at = a - got.begin(), page_bytes = PageBytes(pages.head_dim), page = at / page_bytes;
  const int64_t tier = page / pages.per_tier % kTierCount, head = page / pages.per_tier / kTierCount;
  const int32_t byte = static_cast<int32_t>(at % page_bytes);
  const TierLayout layout = LayoutOf(static_cast<Tier>(tier), pages.head_dim);
  const char* const part = byte < layout.values ? "key codes" : byte < layout.key_radii ? "value codes" : byte < layout.value_radii
                           ? "key radii" : byte < layout.utilities ? "value radii" : "utilities or beyond";
  int64_t wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) wrong += got[i] != want[i];
  return "D " + std::to_string(pages.head_dim) + " head " + std::to_string(head) + " tier " + std::to_string(tier) + " page " +
         std::to_string(page % pages.per_tier) + " byte " + std::to_string(byte) + " (" + part + "; values from " +
         std::to_string(layout.values) + ", radii from " + std::to_string(layout.key_radii) + "): got " + std::to_string(*a) + " want " +
         std::to_string(*b) + "; " + std::to_string(wrong) + " bytes of " + std::to_string(got.size()) + " differ";
}

bool SameFloat(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b)); }

std::vector<uint8_t> RandomExactPage(int32_t head_dim, Rng& random) {
  std::vector<uint8_t> page(PageBytes(head_dim));
  const std::vector<float> x = Normal(ExactBytesUsed(head_dim) / 2, random);
  for (size_t i = 0; i < x.size(); ++i) {
    const uint16_t half = random() % 2000 == 0 ? static_cast<uint16_t>(random()) : F32ToF16(x[i]);  // now and then anything at all
    std::memcpy(&page[2 * i], &half, sizeof half);
  }
  return page;
}

TEST_CASE("The device codes to the bits of the reference: all tiers, slots, sources, head dims and kinds of vectors") {
  if (NoDevice()) SPH_SKIP("no CUDA device");
  Rng random(1);
  for (const int32_t head_dim : kHeadDims) {
    DeviceArrays device;
    const auto heads = DrawHeads(head_dim, random);
    const DeviceGeometry* geometries = PutGeometries(device, heads);
    Pages pages(head_dim, heads.size(), 2, random);
    std::vector<uint8_t> want = pages.bytes;
    uint8_t* const arena = device.Put(pages.bytes);
    std::vector<EncodeItem> items;
    std::vector<CodingError> want_errors;
    CodingError* const errors = device.Put(std::vector<CodingError>(heads.size() * kTierCount * 2 * 128 * 2));
    for (size_t h = 0; h < heads.size(); ++h) {
      // Most slots of this head's pages, in any order.
      std::vector<CodedSlot> slots;
      for (const Tier tier : kTiers) {
        for (int32_t slot = 0; slot < 2 * TokensPerPage(tier, head_dim); ++slot) {
          if (random() % 4 == 0) continue;
          slots.push_back({.page = arena + pages.At(h, tier, slot / TokensPerPage(tier, head_dim)),
                           .slot = static_cast<int16_t>(slot % TokensPerPage(tier, head_dim)), .tier = tier,
                           .utility = static_cast<uint8_t>(random()), .noted = random() % 2 == 0});
        }
      }
      std::shuffle(slots.begin(), slots.end(), random);
      for (CodedSlot& slot : slots) {
        if (random() % 32 == 0) slot.page = nullptr;
      }
      for (size_t first = 0; first < slots.size();) {
        const int32_t rows = static_cast<int32_t>(std::min<size_t>(random() % 3 == 0 ? 1 + random() % 16 : 16, slots.size() - first));
        const int32_t some_codings = 1 + static_cast<int32_t>(random() % 4);
        const int32_t codings = first + static_cast<size_t>(rows * some_codings) <= slots.size() ? some_codings : 1;
        EncodeItem item = {.head = static_cast<int32_t>(h), .rows = rows, .codings = codings,
                           .source = static_cast<TokenSource>(random() % 3), .first = 0, .keys = nullptr, .values = nullptr,
                           .key_stride = head_dim + 16, .value_stride = head_dim + 4, .slots = nullptr,
                           .errors = errors + want_errors.size()};
        std::vector<float> z(rows * head_dim), v(rows * head_dim);
        if (item.source == TokenSource::kExactPage) {
          item.first = static_cast<int32_t>(random() % static_cast<uint64_t>(17 - rows));
          const std::vector<uint8_t> page = RandomExactPage(head_dim, random);
          item.keys = device.Put(page);
          std::vector<float> keys(rows * head_dim);
          Reference().read_exact(head_dim, page.data(), item.first, rows, keys.data(), v.data());
          Reference().map_keys(heads[h]->geometry, keys.data(), head_dim, rows, z.data());
          Reference().rotate_values(head_dim, v.data(), head_dim, rows, v.data());
        } else {
          std::vector<float> keys(rows * item.key_stride), values(rows * item.value_stride);
          const std::vector<float> some = Vectors(rows, head_dim, random), others = Vectors(rows, head_dim, random);
          for (int32_t r = 0; r < rows; ++r) {
            std::copy_n(&some[r * head_dim], head_dim, &keys[r * item.key_stride]);
            std::copy_n(&others[r * head_dim], head_dim, &values[r * item.value_stride]);
          }
          item.keys = device.Put(keys);
          item.values = device.Put(values);
          z = some;
          v = others;
          if (item.source == TokenSource::kRaw) {
            Reference().map_keys(heads[h]->geometry, some.data(), head_dim, rows, z.data());
            Reference().rotate_values(head_dim, others.data(), head_dim, rows, v.data());
          }
        }
        std::vector<uint8_t> scratch(PageBytes(head_dim));
        for (int32_t i = 0; i < codings * rows; ++i) {
          const int32_t r = i % rows;
          const CodedSlot& slot = slots[first + static_cast<size_t>(i)];
          uint8_t* const page = slot.page == nullptr ? scratch.data() : want.data() + (slot.page - arena);
          want_errors.emplace_back();
          Reference().encode(heads[h]->geometry, slot.tier, &z[r * head_dim], &v[r * head_dim], 1, slot.slot, page, &want_errors.back());
          if (slot.noted) page[LayoutOf(slot.tier, head_dim).utilities + slot.slot] = slot.utility;
        }
        item.slots = device.Put(std::vector<CodedSlot>(slots.begin() + first, slots.begin() + first + codings * rows));
        if (random() % 8 == 0) item.errors = nullptr;
        items.push_back(item);
        first += static_cast<size_t>(codings * rows);
      }
    }
    DeviceArrays::Check(Encode(device.stream(), head_dim, geometries, device.Put(items), static_cast<int32_t>(items.size())));
    const std::vector<uint8_t> got = device.Get(arena, pages.bytes.size());
    INFO(FirstDifference(pages, got, want));
    CHECK(got == want);
    const std::vector<CodingError> got_errors = device.Get(errors, want_errors.size());
    int32_t wrong = 0;
    for (const EncodeItem& item : items) {
      for (int32_t r = 0; r < item.codings * item.rows && item.errors != nullptr; ++r) {
        const size_t at = static_cast<size_t>(item.errors - errors) + static_cast<size_t>(r);
        if (SameFloat(got_errors[at].key, want_errors[at].key) && SameFloat(got_errors[at].value, want_errors[at].value)) continue;
        if (wrong++ != 0) continue;
        UNSCOPED_INFO("D " << head_dim << " head " << item.head << " source " << static_cast<int32_t>(item.source) << " coding " << r
                           << ": key error " << got_errors[at].key << " want " << want_errors[at].key << ", value error "
                           << got_errors[at].value << " want " << want_errors[at].value);
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("New tokens are coded to the bits of the reference, a few of a head together, wherever they go") {
  if (NoDevice()) SPH_SKIP("no CUDA device");
  Rng random(5);
  for (const int32_t head_dim : kHeadDims) {
    DeviceArrays device;
    const auto heads = DrawHeads(head_dim, random);
    const DeviceGeometry* geometries = PutGeometries(device, heads);
    Pages pages(head_dim, heads.size(), 1, random);
    std::vector<uint8_t> want = pages.bytes;
    uint8_t* const arena = device.Put(pages.bytes);
    std::vector<EncodeItem> items;
    for (size_t h = 0; h < heads.size(); ++h) {
      std::vector<CodedSlot> slots;  // of every tier: tokens of an item need not go to the same one
      for (const Tier tier : kTiers) {
        const int32_t page_tokens = TokensPerPage(tier, head_dim);
        for (int32_t i = 0; i < std::min(12, page_tokens); ++i) {
          const int16_t slot = static_cast<int16_t>((i + 5 * static_cast<int32_t>(h)) % page_tokens);
          slots.push_back({.page = arena + pages.At(h, tier, 0), .slot = slot, .tier = tier, .utility = static_cast<uint8_t>(random()),
                           .noted = random() % 2 == 0});
        }
      }
      std::shuffle(slots.begin(), slots.end(), random);
      for (size_t first = 0; first < slots.size();) {
        const int32_t rows = static_cast<int32_t>(std::min<size_t>(1 + random() % kAppendRows, slots.size() - first));
        const int64_t stride = head_dim * 3;  // as heads of a row lie
        std::vector<float> keys(rows * stride), values(rows * stride);
        const std::vector<float> some = Vectors(rows, head_dim, random), others = Vectors(rows, head_dim, random);
        std::vector<float> z(rows * head_dim), v(rows * head_dim);
        Reference().map_keys(heads[h]->geometry, some.data(), head_dim, rows, z.data());
        Reference().rotate_values(head_dim, others.data(), head_dim, rows, v.data());
        for (int32_t r = 0; r < rows; ++r) {
          std::copy_n(&some[r * head_dim], head_dim, &keys[r * stride]);
          std::copy_n(&others[r * head_dim], head_dim, &values[r * stride]);
          CodedSlot& slot = slots[first + static_cast<size_t>(r)];
          if (random() % 8 == 0) {
            slot.page = nullptr;  // a head that is not sealed
            continue;
          }
          uint8_t* const page = want.data() + (slot.page - arena);
          CodingError error;
          Reference().encode(heads[h]->geometry, slot.tier, &z[r * head_dim], &v[r * head_dim], 1, slot.slot, page, &error);
          if (slot.noted) page[LayoutOf(slot.tier, head_dim).utilities + slot.slot] = slot.utility;
        }
        items.push_back({.head = static_cast<int32_t>(h), .rows = rows, .codings = 1, .source = TokenSource::kRaw, .first = 0,
                         .keys = device.Put(keys), .values = device.Put(values), .key_stride = stride, .value_stride = stride,
                         .slots = device.Put(std::vector<CodedSlot>(slots.begin() + first, slots.begin() + first + rows)),
                         .errors = nullptr});
        first += static_cast<size_t>(rows);
      }
    }
    DeviceArrays::Check(Append(device.stream(), head_dim, geometries, device.Put(items), static_cast<int32_t>(items.size())));
    const std::vector<uint8_t> got = device.Get(arena, pages.bytes.size());
    INFO(FirstDifference(pages, got, want));
    CHECK(got == want);
  }
}

// All tokens of all pages coded.
Pages FullPages(const std::vector<std::unique_ptr<Head>>& heads, int32_t head_dim, int32_t per_tier, Rng& random) {
  Pages pages(head_dim, heads.size(), per_tier, random);
  for (size_t h = 0; h < heads.size(); ++h) {
    for (const Tier tier : kTiers) {
      for (int32_t page = 0; page < per_tier; ++page) {
        const int32_t n = TokensPerPage(tier, head_dim);
        const std::vector<float> z = Vectors(n, head_dim, random), v = Vectors(n, head_dim, random);
        BestCodec().encode(heads[h]->geometry, tier, z.data(), v.data(), n, 0, pages.bytes.data() + pages.At(h, tier, page), nullptr);
      }
    }
  }
  return pages;
}

TEST_CASE("The device demotes to the bits of the reference, between all tiers, for any tokens of a tile") {
  if (NoDevice()) SPH_SKIP("no CUDA device");
  Rng random(2);
  for (const int32_t head_dim : kHeadDims) {
    const auto heads = DrawHeads(head_dim, random);
    const Pages from = FullPages(heads, head_dim, 1, random);
    for (const Tier to : kTiers) {
      DeviceArrays device;
      Pages landed(head_dim, heads.size() * kTierCount, 1, random);  // by head and tier that tokens come from
      std::vector<uint8_t> want = landed.bytes;
      const uint8_t* const source = device.Put(from.bytes);
      uint8_t* const arena = device.Put(landed.bytes);
      std::vector<MoveItem> items;
      for (size_t h = 0; h < heads.size(); ++h) {
        for (const Tier tier : kTiers) {
          if (to < tier) continue;
          const int64_t page = landed.At(h * kTierCount + static_cast<size_t>(tier), to, 0);
          int32_t slot = static_cast<int32_t>(random() % 20);
          for (int32_t tile = 0; tile < TokensPerPage(tier, head_dim) / kTokenTile; ++tile) {
            const uint16_t which = static_cast<uint16_t>(random() % 3 == 0 ? 0xffff : random());
            const int32_t tokens = std::popcount(which);
            if (slot + tokens > TokensPerPage(to, head_dim)) break;
            items.push_back({.head = static_cast<int32_t>(h), .from = tier, .to = to, .which = which, .from_tile = tile, .to_slot = slot,
                             .from_page = source + from.At(h, tier, 0), .to_page = arena + page});
            Reference().demote_those(heads[h]->geometry, tier, from.bytes.data() + from.At(h, tier, 0), tile, which, to,
                                     want.data() + page, slot);
            slot += tokens + static_cast<int32_t>(random() % 3);
          }
        }
      }
      std::shuffle(items.begin(), items.end(), random);
      DeviceArrays::Check(Demote(device.stream(), head_dim, PutGeometries(device, heads), device.Put(items), nullptr,
                                 static_cast<int32_t>(items.size())));
      const std::vector<uint8_t> got = device.Get(arena, landed.bytes.size());
      INFO("to tier " << static_cast<int32_t>(to) << ", heads are head * 5 + tier from: " << FirstDifference(landed, got, want));
      CHECK(got == want);
    }
  }
}

TEST_CASE("A run of moves compacts a page in place, as the reference does one after the other") {
  if (NoDevice()) SPH_SKIP("no CUDA device");
  Rng random(3);
  for (const int32_t head_dim : kHeadDims) {
    DeviceArrays device;
    const auto heads = DrawHeads(head_dim, random);
    const Pages pages = FullPages(heads, head_dim, 2, random);
    std::vector<uint8_t> want = pages.bytes;
    uint8_t* const arena = device.Put(pages.bytes);
    std::vector<MoveItem> items;
    std::vector<MoveRun> runs;
    for (size_t h = 0; h < heads.size(); ++h) {
      for (const Tier tier : kTiers) {
        const int32_t n = TokensPerPage(tier, head_dim), first = static_cast<int32_t>(items.size());
        int32_t slot = 0;  // over both pages
        for (int32_t tile = 0; tile < 2 * n / kTokenTile; ++tile) {
          for (uint32_t which = static_cast<uint32_t>(random()) & 0xffff; which != 0;) {
            uint32_t now = which;  // as many as the page has room for
            while (std::popcount(now) > n - slot % n) now &= ~std::bit_floor(now);
            const int64_t from = pages.At(h, tier, tile * kTokenTile / n), to = pages.At(h, tier, slot / n);
            items.push_back({.head = static_cast<int32_t>(h), .from = tier, .to = tier, .which = static_cast<uint16_t>(now),
                             .from_tile = tile % (n / kTokenTile), .to_slot = slot % n, .from_page = arena + from, .to_page = arena + to});
            Reference().demote_those(heads[h]->geometry, tier, want.data() + from, tile % (n / kTokenTile), now, tier, want.data() + to,
                                     slot % n);
            slot += std::popcount(now);
            which &= ~now;
          }
        }
        runs.push_back({first, static_cast<int32_t>(items.size()) - first});
      }
    }
    DeviceArrays::Check(Demote(device.stream(), head_dim, PutGeometries(device, heads), device.Put(items), device.Put(runs),
                               static_cast<int32_t>(runs.size())));
    const std::vector<uint8_t> got = device.Get(arena, pages.bytes.size());
    INFO(FirstDifference(pages, got, want));
    CHECK(got == want);
  }
}

TEST_CASE("The device's ladders of coded tokens are the reference's") {
  if (NoDevice()) SPH_SKIP("no CUDA device");
  Rng random(4);
  for (const int32_t head_dim : kHeadDims) {
    DeviceArrays device;
    const auto heads = DrawHeads(head_dim, random);
    const Pages pages = FullPages(heads, head_dim, 1, random);
    const uint8_t* const arena = device.Put(pages.bytes);
    std::vector<CodedLosses> losses;
    for (const auto& head : heads) losses.push_back(CodedLossesOf(head->geometry, 0.1f));
    std::vector<LadderItem> items;
    std::vector<TileSteps> want;
    for (size_t h = 0; h < heads.size(); ++h) {
      for (const Tier tier : kTiers) {
        for (int32_t tile = 0; tile < TokensPerPage(tier, head_dim) / kTokenTile; ++tile) {
          items.push_back({.head = static_cast<int32_t>(h), .tier = tier, .tile = tile, .page = arena + pages.At(h, tier, 0)});
          want.emplace_back();
          Reference().ladders(losses[h], head_dim, tier, pages.bytes.data() + pages.At(h, tier, 0), tile, want.back());
        }
      }
    }
    TileSteps* const steps = device.Put(std::vector<TileSteps>(items.size()));
    DeviceArrays::Check(Ladders(device.stream(), head_dim, device.Put(losses), device.Put(items), static_cast<int32_t>(items.size()),
                                steps));
    const std::vector<TileSteps> got = device.Get(steps, items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      INFO("D " << head_dim << " head " << items[i].head << " tier " << static_cast<int32_t>(items[i].tier) << " tile " << items[i].tile);
      CHECK(std::memcmp(&got[i], &want[i], sizeof(TileSteps)) == 0);
    }
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
