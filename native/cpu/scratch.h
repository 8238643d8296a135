// A block of memory that one stage keeps between calls, and the carver that lays buffers out in it. It belongs to the
// thread that runs the queue; what a worker needs for itself is carved for every worker beforehand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe::cpu {

/// Hands out neighbouring buffers from `base`; over a null base it only counts. So one function both sizes and carves.
class Carver {
 public:
  explicit Carver(float* base = nullptr) : base_(base) {}

  /// Word: of the size of a float.
  template <class Word = float>
  Word* take(int64_t words) {
    static_assert(sizeof(Word) == sizeof(float));
    const int64_t at = used_;
    used_ += (words + 15) / 16 * 16;
    return base_ ? reinterpret_cast<Word*>(base_ + at) : nullptr;
  }

  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// At least that many floats, aligned to 64 bytes, contents undefined, valid until the next call. Throws
  /// std::bad_alloc.
  float* reserve(int64_t floats);

  /// Runs `carve` once to count and once on the block.
  template <class Carve>
  void layOut(Carve&& carve) {
    Carver counter;
    carve(counter);
    Carver carver(reserve(counter.used()));
    carve(carver);
  }

 private:
  void release();

  float* block_ = nullptr;
  int64_t floats_ = 0;
};

}  // namespace moe::cpu
