// KvPool lends the pages of the KV arena. It knows page numbers, not bytes' addresses: the arena itself belongs to the device
// (engine/step/stepper.h), allocated once at start.
//
// Life of a page: reserved -> acquired -> released. Admission reserves a count; a reservation always covers its acquires, so no
// step can run out of pages half-way.
//
//   std::optional<Reservation> room = pool.Reserve(pages);   // nullopt: no room now, ask again next tick
//   PageId page = pool.Acquire(*room);                       // cannot fail: room was promised
//   pool.Release(page, *room);                               // back to the free list; the reservation may acquire again
//   pool.Cancel(std::move(*room));                           // gives back what is reserved; every page was released before
//
// Thread: the engine thread only; no locks.
#ifndef SPHERICAL_ENGINE_KV_KV_POOL_H_
#define SPHERICAL_ENGINE_KV_KV_POOL_H_

#include <optional>
#include <vector>

#include "kernels/base/units.h"

namespace spherical::engine {

class KvPool;

// A promise of pages. Move only; must be given back with KvPool::Cancel before it dies (checked).
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  PageCount promised() const { return promised_; }
  PageCount held() const { return held_; }

 private:
  friend class KvPool;
  PageCount promised_;
  PageCount held_;
};

class KvPool {
 public:
  KvPool(PageCount pages, ByteCount page_bytes);

  [[nodiscard]] std::optional<Reservation> Reserve(PageCount pages);
  [[nodiscard]] PageId Acquire(Reservation& room);
  void Release(PageId page, Reservation& room);
  void Cancel(Reservation room);

  PageCount pages() const { return PageCount(static_cast<int64_t>(acquired_.size())); }
  PageCount reserved() const { return reserved_; }  // promised to someone, whether acquired yet or not
  PageCount held() const { return held_; }          // acquired now
  ByteCount page_bytes() const { return page_bytes_; }

  // Recounts everything from the pages themselves and stops the process if a sum is wrong. For tests and simulation.
  void CheckInvariants() const;

 private:
  const ByteCount page_bytes_;
  std::vector<PageId> free_;     // a stack: the page released last is the warmest
  std::vector<bool> acquired_;   // [pages]
  PageCount reserved_;
  PageCount held_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_KV_POOL_H_
