// What happens on the host once the device has come so far: one thread per device that waits for events in the order in
// which they were recorded. Not callbacks on the stream, which are never called once a device is lost.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "driver.h"

namespace moe::cuda {

class Completions {
 public:
  Completions(CUcontext context, CUstream stream);
  ~Completions();
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  /// Calls `then` when everything given to the stream so far is done, with how that went.
  void after(std::function<void(CUresult)> then);
  /// Returns when every function has been called.
  void waitIdle();

 private:
  struct Item {
    CUevent event;
    std::function<void(CUresult)> then;
  };

  void work();

  const CUcontext context_;
  const CUstream stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  std::vector<CUevent> spare_;
  bool running_ = false, closing_ = false;
  std::thread thread_;
};

}  // namespace moe::cuda
