#include "environment.h"

#include <utility>

namespace moe::binding {

namespace {

FailurePtr disposedFailure() {
  static const FailurePtr failure = std::make_shared<Failure>(
      ErrorCode::Disposed, "the device was disposed before this read or synchronisation was done", "");
  return failure;
}

/// Posts exactly one letter, however the completion ends.
class Ticket {
 public:
  Ticket(std::shared_ptr<Mailbox> mailbox, uint64_t number) : mailbox_(std::move(mailbox)), number_(number) {}
  ~Ticket() {
    if (!used_) mailbox_->post({number_, disposedFailure()});
  }
  void use(FailurePtr failure) {
    used_ = true;
    mailbox_->post({number_, std::move(failure)});
  }

 private:
  std::shared_ptr<Mailbox> mailbox_;
  const uint64_t number_;
  bool used_ = false;
};

}  // namespace

void Mailbox::open(napi_threadsafe_function wake) {
  std::lock_guard lock(mutex_);
  wake_ = wake;
}

void Mailbox::close() {
  std::lock_guard lock(mutex_);
  wake_ = nullptr;
  letters_.clear();
}

void Mailbox::post(Letter letter) {
  std::lock_guard lock(mutex_);
  if (!wake_) return;
  letters_.push_back(std::move(letter));
  if (letters_.size() == 1) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

std::vector<Mailbox::Letter> Mailbox::take() {
  std::lock_guard lock(mutex_);
  return std::exchange(letters_, {});
}

Environment::Environment(Napi::Env env) {
  napi_value name;
  napi_create_string_utf8(env, "switchyard", NAPI_AUTO_LENGTH, &name);
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, deliver, &wake_) !=
      napi_ok)
    throw Napi::Error::New(env, "switchyard could not attach to the event loop");
  napi_unref_threadsafe_function(env, wake_);
  mailbox_->open(wake_);
  // Runs before the environment is torn down, with queues possibly full.
  napi_add_env_cleanup_hook(
      env, [](void* self) { static_cast<Environment*>(self)->shutDown(); }, this);
}

Environment::~Environment() = default;

void Environment::shutDown() {
  mailbox_->close();
  for (const std::weak_ptr<Device>& device : devices_)
    if (const std::shared_ptr<Device> open = device.lock()) open->close();
  napi_release_threadsafe_function(wake_, napi_tsfn_abort);
}

Napi::Error Environment::makeError(Napi::Env env, ErrorCode code, const std::string& message,
                                   const std::string& hint) const {
  if (errorClass_.IsEmpty()) return Napi::Error::New(env, message);
  const Napi::Value hintValue = hint.empty() ? env.Undefined() : Napi::String::New(env, hint);
  const Napi::Object error =
      errorClass_.New({Napi::String::New(env, errorCodeName(code)), Napi::String::New(env, message), hintValue});
  return Napi::Error(env, error);
}

Environment::Pending Environment::expect(Napi::Env env, std::function<Napi::Value(Napi::Env)> result) {
  const uint64_t number = nextTicket_++;
  Napi::Promise::Deferred deferred(env);
  if (waiting_.empty()) napi_ref_threadsafe_function(env, wake_);
  waiting_.emplace(number, Waiting{deferred, std::move(result)});
  auto ticket = std::make_shared<Ticket>(mailbox_, number);
  return {deferred.Promise(), [ticket](FailurePtr failure) { ticket->use(std::move(failure)); }};
}

void Environment::deliver(napi_env rawEnv, napi_value, void* context, void*) {
  if (!rawEnv) return;  // the environment is going away
  Napi::Env env(rawEnv);
  Napi::HandleScope scope(env);
  auto& self = *static_cast<Environment*>(context);
  for (const Mailbox::Letter& letter : self.mailbox_->take()) {
    const auto found = self.waiting_.find(letter.ticket);
    if (found == self.waiting_.end()) continue;
    const Waiting waiting = std::move(found->second);
    self.waiting_.erase(found);
    try {
      if (letter.failure)
        waiting.deferred.Reject(
            self.makeError(env, letter.failure->code, letter.failure->message, letter.failure->hint).Value());
      else
        waiting.deferred.Resolve(waiting.result(env));
    } catch (const Napi::Error&) {
      // Only an environment that is being terminated refuses this: nobody is left to be told.
    }
  }
  if (self.waiting_.empty()) napi_unref_threadsafe_function(env, self.wake_);
}

}  // namespace moe::binding
