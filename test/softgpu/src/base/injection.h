// Failures that a program asks for by an environment variable, to see what it makes of them.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

#include "base/types.h"

namespace softgpu {

// "3" is the third event, "3+" the third and all after it, "0" none.
struct Injection {
  u64 first = 0;
  bool following = false;

  // False for a text that is none of these.
  bool parse(std::string_view text);
};

// Counts the events of one kind. The variable is looked up at every event, so that a program can change it while it
// runs; a new value counts from one.
class Injector {
 public:
  explicit Injector(const char* variable) : variable_(variable) {}

  // Whether the event that happens now is one of those.
  bool strikes();

 private:
  const char* const variable_;
  std::mutex mutex_;
  std::string text_;
  Injection injection_;
  u64 events_ = 0;
};

}  // namespace softgpu
