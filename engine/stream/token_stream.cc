#include "engine/stream/token_stream.h"

#include <utility>

#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

bool IsLast(const TokenEvent& event) {
  return std::holds_alternative<Finished>(event) || std::holds_alternative<Refusal>(event) || std::holds_alternative<Failed>(event);
}

}  // namespace

TokenStream::TokenStream(int32_t capacity, std::function<void()> on_event, std::function<void()> on_room)
    : capacity_(capacity), on_event_(std::move(on_event)), on_room_(std::move(on_room)) {
  SPH_CHECK(capacity >= 2);
}

void TokenStream::Put(TokenEvent event) {
  {
    MutexLock lock(mutex_);
    if (abandoned_) return;
    SPH_CHECK(static_cast<int32_t>(events_.size()) < capacity_ || IsLast(event));
    events_.push_back(std::move(event));
  }
  if (on_event_) on_event_();
}

bool TokenStream::HasRoom() const {
  MutexLock lock(mutex_);
  return abandoned_ || static_cast<int32_t>(events_.size()) < capacity_;
}

bool TokenStream::abandoned() const {
  MutexLock lock(mutex_);
  return abandoned_;
}

std::optional<TokenEvent> TokenStream::Take() {
  std::optional<TokenEvent> event;
  bool was_full = false;
  {
    MutexLock lock(mutex_);
    if (events_.empty()) return std::nullopt;
    was_full = static_cast<int32_t>(events_.size()) >= capacity_;
    event = std::move(events_.front());
    events_.pop_front();
  }
  if (was_full && on_room_) on_room_();
  return event;
}

void TokenStream::Abandon() {
  {
    MutexLock lock(mutex_);
    abandoned_ = true;
    events_.clear();
  }
  if (on_room_) on_room_();
}

}  // namespace spherical::engine
