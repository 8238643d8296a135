// Between JavaScript values and C++: opaque handles, plain conversions, and the one guard that turns C++ exceptions
// into MoEErrors. lib/ has validated what arrives here; the checks below are those that memory safety needs.
#pragma once

#include <napi.h>

#include <memory>
#include <new>
#include <string>
#include <utility>

#include "../core/plan.h"
#include "environment.h"

namespace moe::binding {

/// A hint to the collector; never fails, because finalizers cannot.
inline void adjustExternalMemory(napi_env env, int64_t change) {
  int64_t total;
  napi_adjust_external_memory(env, change, &total);
}

/// What an external points to. `tag` tells the types apart, so that a wrong handle is an error and not a crash.
template <class T>
struct Holder {
  static inline const char tagOf = 0;
  const void* tag = &tagOf;
  std::shared_ptr<T> value;
  int64_t externalBytes = 0;

  /// V8 collects sooner when it knows what its small objects hold.
  void release(Napi::Env env) {
    if (!value) return;
    value.reset();
    if (externalBytes > 0) adjustExternalMemory(env, -externalBytes);
    externalBytes = 0;
  }
};

template <class T>
Napi::Value wrap(Napi::Env env, std::shared_ptr<T> value, int64_t externalBytes = 0) {
  auto* holder = new Holder<T>;
  holder->value = std::move(value);
  holder->externalBytes = externalBytes;
  if (externalBytes > 0) adjustExternalMemory(env, externalBytes);
  return Napi::External<Holder<T>>::New(env, holder, [](Napi::Env env, Holder<T>* held) {
    held->release(env);
    delete held;
  });
}

inline Napi::Value wrapTensor(Napi::Env env, const TensorPtr& tensor) {
  return wrap(env, tensor, static_cast<int64_t>(tensor->bytes()));
}

inline Napi::Value wrapTensorOrNull(Napi::Env env, const TensorPtr& tensor) {
  return tensor ? wrapTensor(env, tensor) : Napi::Value(env.Null());
}

template <class T>
Holder<T>& holderOf(const Napi::Value& value) {
  if (value.IsExternal()) {
    auto* holder = value.As<Napi::External<Holder<T>>>().Data();
    if (holder && holder->tag == &Holder<T>::tagOf) return *holder;
  }
  throw Error(ErrorCode::Internal, "a native function was called with a handle of the wrong kind");
}

template <class T>
std::shared_ptr<T> unwrap(const Napi::Value& value) {
  std::shared_ptr<T>& held = holderOf<T>(value).value;
  if (!held) throw Error(ErrorCode::Disposed, "the object is disposed");
  return held;
}

/// Null for null and undefined.
template <class T>
std::shared_ptr<T> unwrapOptional(const Napi::Value& value) {
  return value.IsNull() || value.IsUndefined() ? nullptr : unwrap<T>(value);
}

inline void checkSameDevice(const Device& device, std::initializer_list<TensorPtr> tensors) {
  for (const TensorPtr& tensor : tensors)
    if (tensor && &tensor->device() != &device)
      throw Error(ErrorCode::DeviceMismatch, "all tensors of a call must be on the same device");
}

template <class T>
Napi::Value release(const Napi::CallbackInfo& info) {
  holderOf<T>(info[0]).release(info.Env());
  return info.Env().Undefined();
}

inline double number(const Napi::Value& value) { return value.As<Napi::Number>().DoubleValue(); }
inline int integer(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }
inline int64_t count(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }
inline bool boolean(const Napi::Value& value) { return value.As<Napi::Boolean>().Value(); }
inline float real(const Napi::Value& value) { return static_cast<float>(number(value)); }

inline uint64_t seedOf(const Napi::Value& value) {
  bool lossless = true;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

/// Runs F; whatever C++ throws becomes the environment's MoEError.
template <Napi::Value (*F)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto fail = [&](ErrorCode code, const char* message, const std::string& hint) {
    return Environment::of(env).makeError(env, code, message, hint);
  };
  try {
    return F(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& error) {
    throw fail(error.code(), error.what(), error.hint());
  } catch (const std::bad_alloc&) {
    throw fail(ErrorCode::OutOfMemory, "out of host memory", {});
  } catch (const std::exception& error) {
    throw fail(ErrorCode::Internal, error.what(), {});
  }
}

template <Napi::Value (*F)(const Napi::CallbackInfo&)>
void expose(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<F>>(exports.Env(), name));
}

void exposeTensors(Napi::Object exports);
void exposeLayer(Napi::Object exports);
void exposeModules(Napi::Object exports);
void exposeOps(Napi::Object exports);

// Option structs, shared by the layer and the ops.
RouterOptions toRouterOptions(Napi::Object object);
CapacityRule toCapacityRule(Napi::Object object);

}  // namespace moe::binding
