#ifndef SPHERICAL_ENGINE_STEP_LIST_ENTRIES_H_
#define SPHERICAL_ENGINE_STEP_LIST_ENTRIES_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/step/device_pages.h"
#include "engine/step/step_input.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// Brings new entries of page lists to the device.
class ListEntries {
 public:
  kernels::cuda::CudaStatus Create() { return input_.Create(kBytes); }

  // The stream has passed all that was sent.
  void Begin() {
    input_.Begin();
    sent_ = 0;
  }
  // lists: of the device. More entries than there is room for are sent in turns, waiting for each.
  kernels::cuda::CudaStatus Send(kernels::cuda::Stream stream, std::span<const DevicePages::Entry> entries, int32_t* lists) {
    using kernels::cuda::CudaStatus;
    CudaStatus status = CudaStatus::kOk;
    while (!entries.empty() && status == CudaStatus::kOk) {
      if (sent_ == kEntriesMax) {
        status = kernels::cuda::Synchronize(stream);
        Begin();
      }
      const size_t count = std::min(entries.size(), kEntriesMax - sent_);
      where_.clear();
      pages_.clear();
      for (const DevicePages::Entry& entry : entries.first(count)) {
        where_.push_back(entry.where);
        pages_.push_back(entry.page);
      }
      const int64_t* where = input_.Put(std::span<const int64_t>(where_));
      const int32_t* pages = input_.Put(std::span<const int32_t>(pages_));
      if (status == CudaStatus::kOk) status = input_.Send(stream);
      if (status == CudaStatus::kOk) status = kernels::cuda::EnterPages(stream, where, pages, static_cast<int32_t>(count), lists);
      entries = entries.subspan(count);
      sent_ += count;
    }
    return status;
  }

 private:
  static constexpr size_t kEntriesMax = 1 << 16;  // between two Begins
  // 12 bytes each; sent in more than one turn they take some alignment too.
  static constexpr int64_t kBytes = static_cast<int64_t>(kEntriesMax) * 12 + (int64_t{1} << 20);
  StepInput input_;
  size_t sent_ = 0;
  std::vector<int64_t> where_;
  std::vector<int32_t> pages_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_LIST_ENTRIES_H_
