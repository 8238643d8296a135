// The in-order queue of one device: jobs are pushed by the thread that owns the device and run, one after the other, on
// the queue's own thread. Bounded: pushing to a full queue waits until a job has finished.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

namespace moe {

class Job {
 public:
  virtual ~Job() = default;
  virtual void run() noexcept = 0;
};

class Queue {
 public:
  static constexpr uint32_t capacity = 1024;

  Queue();
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  void push(std::unique_ptr<Job> job);
  /// Returns when everything pushed so far has run.
  void waitIdle();
  /// Drops the jobs that have not started, waits for the one that runs, and ends the thread. Later pushes are dropped.
  void close();

 private:
  void work();

  std::array<std::unique_ptr<Job>, capacity> ring_;
  std::atomic<uint32_t> pushed_{0};    // jobs ever pushed, modulo 2³²
  std::atomic<uint32_t> finished_{0};  // jobs ever finished
  std::atomic<bool> closing_{false};
  bool closed_ = false;  // the owner's
  std::thread thread_;
};

}  // namespace moe
