// What happens on the host once the device has come so far: one thread per device that waits for events in the order in
// which they were recorded. Not callbacks on the stream, which are never called once a device is lost.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
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

  /// Set, and told by wake(), by the stream itself.
  using Passed = std::shared_ptr<const std::atomic<bool>>;

  /// Calls `then` when everything given to the stream so far is done, with how that went. Where nobody waits for that,
  /// `passed` spares the call of the driver that would.
  void after(std::function<void(CUresult)> then, Passed passed = nullptr);
  void wake();
  /// Returns when every function has been called.
  void waitIdle();

 private:
  struct Item {
    CUevent event;
    std::function<void(CUresult)> then;
    Passed passed;
  };

  void work();

  const CUcontext context_;
  const CUstream stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  std::vector<CUevent> spare_;
  bool running_ = false, closing_ = false;
  int waiting_ = 0;
  std::thread thread_;
};

}  // namespace moe::cuda
