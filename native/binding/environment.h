// What the addon keeps per JavaScript environment (main thread or worker): the class of its errors, its open devices,
// and the way back from a device's queue to the event loop. Nothing here is static, so environments never see each
// other.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/device.h"

namespace moe::binding {

/// Where queues leave results for the event loop. Outlives both sides.
class Mailbox {
 public:
  struct Letter {
    uint64_t ticket;
    FailurePtr failure;
  };

  void open(napi_threadsafe_function wake);
  /// Later letters are thrown away.
  void close();
  /// Any thread.
  void post(Letter letter);
  std::vector<Letter> take();

 private:
  std::mutex mutex_;
  std::vector<Letter> letters_;
  napi_threadsafe_function wake_ = nullptr;
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  void setErrorClass(Napi::Function errorClass) { errorClass_ = Napi::Persistent(errorClass); }
  Napi::Error makeError(Napi::Env env, ErrorCode code, const std::string& message, const std::string& hint) const;

  void adopt(const std::shared_ptr<Device>& device) {
    std::erase_if(devices_, [](const std::weak_ptr<Device>& old) { return old.expired(); });
    devices_.push_back(device);
  }

  /// A promise, and the completion that settles it on the event loop: with `result()`, or with the failure. The process
  /// stays alive until then. A completion that is dropped uncalled rejects with ERR_DISPOSED.
  struct Pending {
    Napi::Promise promise;
    Completion completion;
  };
  Pending expect(Napi::Env env, std::function<Napi::Value(Napi::Env)> result);

 private:
  struct Waiting {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> result;
  };

  static void deliver(napi_env env, napi_value, void* context, void*);
  void shutDown();

  Napi::FunctionReference errorClass_;
  std::vector<std::weak_ptr<Device>> devices_;
  std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  napi_threadsafe_function wake_ = nullptr;
  std::map<uint64_t, Waiting> waiting_;
  uint64_t nextTicket_ = 1;
};

}  // namespace moe::binding
