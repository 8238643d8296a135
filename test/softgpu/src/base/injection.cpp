#include "base/injection.h"

#include <charconv>
#include <cstdlib>

namespace softgpu {

bool Injection::parse(std::string_view text) {
  following = text.ends_with('+');
  if (following) text.remove_suffix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), first);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool Injector::strikes() {
  std::lock_guard lock(mutex_);
  const char* value = std::getenv(variable_);
  if (const std::string_view now = value ? value : ""; now != text_) {
    text_ = now;
    injection_ = {};
    injection_.parse(text_);
    events_ = 0;
  }
  ++events_;
  return injection_.first != 0 && (events_ == injection_.first || (injection_.following && events_ > injection_.first));
}

}  // namespace softgpu
