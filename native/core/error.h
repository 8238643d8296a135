// The one exception of the native code. It knows nothing of JavaScript; binding/guard.h turns it into a MoEError.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace moe {

enum class ErrorCode {
  InvalidArgument,
  Shape,
  DType,
  DeviceMismatch,
  Disposed,
  StalePass,
  NonFinite,
  OutOfMemory,
  DeviceUnavailable,
  DeviceLost,
  Unsupported,
  Internal,
};

/// The stable code of the public contract, 'ERR_…'.
inline const char* errorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument:
      return "ERR_INVALID_ARGUMENT";
    case ErrorCode::Shape:
      return "ERR_SHAPE";
    case ErrorCode::DType:
      return "ERR_DTYPE";
    case ErrorCode::DeviceMismatch:
      return "ERR_DEVICE_MISMATCH";
    case ErrorCode::Disposed:
      return "ERR_DISPOSED";
    case ErrorCode::StalePass:
      return "ERR_STALE_PASS";
    case ErrorCode::NonFinite:
      return "ERR_NON_FINITE";
    case ErrorCode::OutOfMemory:
      return "ERR_OUT_OF_MEMORY";
    case ErrorCode::DeviceUnavailable:
      return "ERR_DEVICE_UNAVAILABLE";
    case ErrorCode::DeviceLost:
      return "ERR_DEVICE_LOST";
    case ErrorCode::Unsupported:
      return "ERR_UNSUPPORTED";
    case ErrorCode::Internal:
      return "ERR_INTERNAL";
  }
  return "ERR_INTERNAL";
}

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string hint = {})
      : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

  ErrorCode code() const { return code_; }
  /// What to do about it; empty where there is nothing to do.
  const std::string& hint() const { return hint_; }

 private:
  ErrorCode code_;
  std::string hint_;
};

}  // namespace moe
