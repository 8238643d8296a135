// A point in a stream whose time can be asked for.
#pragma once

#include "driver.h"

namespace moe::cuda {

class Event {
 public:
  Event() { MOE_CUDA(cuEventCreate, &event_, CU_EVENT_BLOCKING_SYNC); }
  ~Event() {
    if (event_) driver().cuEventDestroy_v2(event_);
  }
  Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
  Event& operator=(Event&&) = delete;

  void record(CUstream stream) const { MOE_CUDA(cuEventRecord, event_, stream); }
  void synchronize() const { MOE_CUDA(cuEventSynchronize, event_); }
  double millisecondsSince(const Event& earlier) const {
    float milliseconds = 0;
    MOE_CUDA(cuEventElapsedTime, &milliseconds, earlier.event_, event_);
    return milliseconds;
  }

 private:
  CUevent event_ = nullptr;
};

}  // namespace moe::cuda
