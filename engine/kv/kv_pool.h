// KvPool lends the pages of the KV arena. It knows page numbers, not bytes' addresses: the arena itself belongs to the device
// (engine/step/stepper.h), allocated once at start.
//
// Life of a page: reserved -> acquired -> released. Admission reserves a count, and what is promised is never more than there is. A
// reservation may hold more than it was promised, as long as the rest of every other promise stays free ("borrowing"); so a new promise
// may find its pages lent. It is secured once they are back: from then on they are set aside, and no step can run out of pages half-way.
//
//     pages = held by someone | owed: secured and not yet held | spare: to borrow, or to secure more promises with
//
//   std::optional<Reservation> room = pool.Reserve(pages);   // nullopt: no room now, ask again next tick
//   if (!room->secured()) ... pool.Secure(*room);            // false: others hold its pages still
//   PageId page = pool.Acquire(*room);                       // cannot fail within the promise; beyond it takes a spare page
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
  bool secured() const { return secured_; }
  PageCount borrowed() const { return held_ > promised_ ? held_ - promised_ : PageCount(0); }

 private:
  friend class KvPool;
  PageCount owed() const { return secured_ && held_ < promised_ ? promised_ - held_ : PageCount(0); }

  PageCount promised_;
  PageCount held_;
  bool secured_ = false;
};

class KvPool {
 public:
  KvPool(PageCount pages, ByteCount page_bytes);

  [[nodiscard]] std::optional<Reservation> Reserve(PageCount pages);
  // Sets its pages aside, if there are as many to spare. True: they are, now or before.
  bool Secure(Reservation& room);
  // Of a secured reservation. Beyond its promise: only while there is a page to spare (checked).
  [[nodiscard]] PageId Acquire(Reservation& room);
  void Release(PageId page, Reservation& room);
  void Cancel(Reservation room);

  PageCount pages() const { return PageCount(static_cast<int64_t>(acquired_.size())); }
  PageCount reserved() const { return reserved_; }  // promised to someone, whether acquired yet or not
  PageCount held() const { return held_; }          // acquired now
  PageCount owed() const { return owed_; }          // set aside for promises
  PageCount spare() const { return pages() - held_ - owed_; }
  ByteCount page_bytes() const { return page_bytes_; }

  // Recounts everything from the pages themselves and stops the process if a sum is wrong. For tests and simulation.
  void CheckInvariants() const;

 private:
  const ByteCount page_bytes_;
  std::vector<PageId> free_;     // a stack: the page released last is the warmest
  std::vector<bool> acquired_;   // [pages]
  PageCount reserved_;
  PageCount held_;
  PageCount owed_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_KV_POOL_H_
