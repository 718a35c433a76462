#include "engine/kv/kv_pool.h"

#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {

Reservation::Reservation(Reservation&& other) noexcept
    : promised_(std::exchange(other.promised_, PageCount(0))),
      held_(std::exchange(other.held_, PageCount(0))),
      secured_(std::exchange(other.secured_, false)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  SPH_CHECK(this != &other && promised_ == PageCount(0));
  promised_ = std::exchange(other.promised_, PageCount(0));
  held_ = std::exchange(other.held_, PageCount(0));
  secured_ = std::exchange(other.secured_, false);
  return *this;
}

Reservation::~Reservation() { SPH_CHECK(promised_ == PageCount(0) && held_ == PageCount(0)); }

KvPool::KvPool(PageCount pages, ByteCount page_bytes) : page_bytes_(page_bytes) {
  SPH_CHECK(pages >= PageCount(0) && pages <= PageCount(INT32_MAX));
  acquired_.resize(pages.value(), false);
  free_.reserve(pages.value());
  for (PageId page = static_cast<PageId>(pages.value()); page-- > 0;) free_.push_back(page);  // page 0 on top
}

std::optional<Reservation> KvPool::Reserve(PageCount pages) {
  SPH_CHECK(pages >= PageCount(0));
  if (reserved_ + pages > this->pages()) return std::nullopt;
  reserved_ += pages;
  Reservation room;
  room.promised_ = pages;
  Secure(room);
  return room;
}

bool KvPool::Secure(Reservation& room) {
  if (room.secured_) return true;
  if (room.promised_ > spare()) return false;
  room.secured_ = true;
  owed_ += room.promised_;
  return true;
}

PageId KvPool::Acquire(Reservation& room) {
  SPH_CHECK(room.secured_);
  if (room.held_ < room.promised_) {
    owed_ -= PageCount(1);
  } else {
    SPH_CHECK(spare() > PageCount(0));
  }
  const PageId page = free_.back();
  free_.pop_back();
  SPH_CHECK(!acquired_[page]);
  acquired_[page] = true;
  room.held_ += PageCount(1);
  held_ += PageCount(1);
  return page;
}

void KvPool::Release(PageId page, Reservation& room) {
  SPH_CHECK(page >= 0 && PageCount(page) < pages() && acquired_[page]);
  SPH_CHECK(room.held_ > PageCount(0));
  acquired_[page] = false;
  free_.push_back(page);
  room.held_ -= PageCount(1);
  held_ -= PageCount(1);
  if (room.held_ < room.promised_) owed_ += PageCount(1);
}

void KvPool::Cancel(Reservation room) {
  SPH_CHECK(room.held_ == PageCount(0) && room.promised_ <= reserved_);
  owed_ -= room.owed();
  room.secured_ = false;
  reserved_ -= std::exchange(room.promised_, PageCount(0));
}

void KvPool::CheckInvariants() const {
  std::vector<bool> seen(acquired_.size(), false);
  for (const PageId page : free_) {
    SPH_CHECK(page >= 0 && PageCount(page) < pages() && !acquired_[page] && !seen[page]);
    seen[page] = true;
  }
  int64_t acquired = 0;
  for (const bool a : acquired_) acquired += a;
  SPH_CHECK(PageCount(acquired) == held_);
  SPH_CHECK(PageCount(static_cast<int64_t>(free_.size())) + held_ == pages());
  SPH_CHECK(reserved_ <= pages() && PageCount(0) <= owed_ && PageCount(0) <= spare());
}

}  // namespace spherical::engine
