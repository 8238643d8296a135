// Objects that the API hands out as pointers. Every handle that comes back is looked up, so that a wrong or destroyed
// one is an error and never a crash.
#pragma once

#include <map>
#include <memory>
#include <mutex>

namespace softgpu {

template <class T>
class Handles {
 public:
  T* add(std::unique_ptr<T> object) {
    std::lock_guard lock(mutex_);
    T* handle = object.get();
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  bool has(const T* handle) {
    std::lock_guard lock(mutex_);
    return objects_.contains(handle);
  }
  // Null when there is no such object.
  std::unique_ptr<T> take(const T* handle) {
    std::lock_guard lock(mutex_);
    auto it = objects_.find(handle);
    if (it == objects_.end()) return nullptr;
    std::unique_ptr<T> object = std::move(it->second);
    objects_.erase(it);
    return object;
  }
  template <class Visit>
  void forEach(Visit visit) {
    std::lock_guard lock(mutex_);
    for (auto& [handle, object] : objects_) visit(*object);
  }
  void clear() {
    std::map<const T*, std::unique_ptr<T>> gone;
    std::lock_guard lock(mutex_);
    gone.swap(objects_);
  }

 private:
  std::mutex mutex_;
  std::map<const T*, std::unique_ptr<T>> objects_;
};

}  // namespace softgpu
