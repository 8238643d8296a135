// Devices, tensors and reads.
#include <algorithm>

#include "../core/host-floats.h"
#include "../core/modules.h"
#include "../cpu/backend.h"
#include "../cuda/backend.h"
#include "guard.h"

namespace moe::binding {

namespace {

// ------------------------------------------------------------------------------------------------ devices

Napi::Value adopted(Napi::Env env, std::unique_ptr<Backend> backend, double memoryLimit) {
  const auto limit = static_cast<size_t>(std::clamp(memoryLimit, 0.0, 9e18));
  auto device = std::make_shared<Device>(std::move(backend), limit);
  Environment::of(env).adopt(device);
  return wrap(env, std::move(device));
}

Napi::Value cpuOpen(const Napi::CallbackInfo& info) {
  return adopted(info.Env(), std::make_unique<cpu::CpuBackend>(integer(info[0])), number(info[1]));
}

Napi::Value cudaOpen(const Napi::CallbackInfo& info) {
  return adopted(info.Env(), std::make_unique<cuda::CudaBackend>(integer(info[0])), number(info[1]));
}

Napi::Value deviceClose(const Napi::CallbackInfo& info) {
  unwrap<Device>(info[0])->close();
  return info.Env().Undefined();
}

Napi::Value deviceMemory(const Napi::CallbackInfo& info) {
  const MemoryUse use = unwrap<Device>(info[0])->pool().use();
  Napi::Array result = Napi::Array::New(info.Env(), 3);
  uint32_t index = 0;
  for (const size_t bytes : {use.allocated, use.peak, use.reserved}) result.Set(index++, static_cast<double>(bytes));
  return result;
}

Napi::Value deviceResetPeak(const Napi::CallbackInfo& info) {
  unwrap<Device>(info[0])->pool().resetPeak();
  return info.Env().Undefined();
}

Napi::Value deviceMostExperts(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->checkOpen();
  return Napi::Number::New(info.Env(), device->backend().mostExperts());
}

Napi::Value deviceSynchronize(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->checkReadable("synchronize()");
  auto pending = Environment::of(info.Env()).expect(info.Env(), [](Napi::Env env) { return env.Undefined(); });
  device->synchronize(std::move(pending.completion));
  return pending.promise;
}

Napi::Value deviceMeasureLimits(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->checkReadable("measureLimits()");
  auto limits = std::make_shared<DeviceLimits>();
  auto pending = Environment::of(info.Env()).expect(info.Env(), [limits](Napi::Env env) {
    Napi::Object result = Napi::Object::New(env);
    result.Set("flopsPerSecond", limits->flopsPerSecond);
    result.Set("bfloat16FlopsPerSecond", limits->bfloat16FlopsPerSecond);
    result.Set("readBytesPerSecond", limits->readBytesPerSecond);
    return result;
  });
  device->enqueue("measureLimits", {}, [limits](Backend& backend) { *limits = backend.measureLimits(); });
  device->synchronize(std::move(pending.completion));
  return pending.promise;
}

Napi::Value deviceTimeKernels(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->refuseRecording("profile()");
  device->enqueue("profile", {}, [](Backend& backend) { backend.timeKernels(); });
  return info.Env().Undefined();
}

Napi::Value deviceKernelTimes(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->checkReadable("profile()");
  auto times = std::make_shared<std::vector<KernelTime>>();
  auto pending = Environment::of(info.Env()).expect(info.Env(), [times](Napi::Env env) {
    Napi::Array result = Napi::Array::New(env);
    for (const KernelTime& time : *times) {
      Napi::Object object = Napi::Object::New(env);
      object.Set("kernel", time.kernel);
      object.Set("milliseconds", time.milliseconds);
      result.Set(result.Length(), object);
    }
    return result;
  });
  device->enqueue("profile", {}, [times](Backend& backend) { *times = backend.kernelTimes(); });
  device->synchronize(std::move(pending.completion));
  return pending.promise;
}

// ------------------------------------------------------------------------------------------------ graphs

Napi::Value graphBegin(const Napi::CallbackInfo& info) {
  const auto graph = std::make_shared<Graph>(unwrap<Device>(info[0]));
  graph->begin();
  return wrap(info.Env(), graph);
}

Napi::Value graphEnd(const Napi::CallbackInfo& info) {
  unwrap<Graph>(info[0])->end();
  return info.Env().Undefined();
}

Napi::Value graphReplay(const Napi::CallbackInfo& info) {
  unwrap<Graph>(info[0])->replay();
  return info.Env().Undefined();
}

// ------------------------------------------------------------------------------------------------ tensors

/// The elements of a typed array.
struct HostArray {
  void* data;
  DType dtype;
};

/// A Uint16Array is the bits of either 16-bit float.
DType dtypeOf(const Napi::TypedArray& array, DType tensor) {
  switch (array.TypedArrayType()) {
    case napi_float32_array:
      return DType::Float32;
    case napi_int32_array:
      return DType::Int32;
    case napi_uint16_array:
      return tensor == DType::Float16 ? DType::Float16 : DType::BFloat16;
    default:
      throw Error(ErrorCode::Internal, "a native function was called with a typed array of the wrong kind");
  }
}

/// `value` must be a typed array that a tensor of that dtype and size can be read into and written from. Its memory may
/// be a SharedArrayBuffer's.
HostArray hostArray(const Napi::Value& value, DType dtype, int64_t size) {
  const auto array = value.As<Napi::TypedArray>();
  const DType hostDType = dtypeOf(array, dtype);
  if (!isHostDType(hostDType, dtype))
    throw Error(ErrorCode::DType,
                std::string("data must fit ") + dtypeName(dtype) + ", got an array of " + dtypeName(hostDType));
  if (static_cast<int64_t>(array.ElementLength()) != size)
    throw Error(ErrorCode::Shape,
                "data must have " + std::to_string(size) + " elements, got " + std::to_string(array.ElementLength()));
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
    throw Error(ErrorCode::InvalidArgument, "data must be an array whose memory can be read");
  return {data, hostDType};
}

HostArray hostArray(const Napi::Value& value, const Tensor& tensor) {
  return hostArray(value, tensor.dtype(), tensor.size());
}

Napi::Value tensorFrom(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  const auto dtype = static_cast<DType>(integer(info[1]));
  const auto size = static_cast<int64_t>(info[2].As<Napi::TypedArray>().ElementLength());
  const HostArray host = hostArray(info[2], dtype, size);
  const TensorPtr tensor = device->empty(dtype, size);
  device->write(tensor, host.data, host.dtype);
  return wrapTensor(info.Env(), tensor);
}

Napi::Value tensorZeros(const Napi::CallbackInfo& info) {
  return wrapTensor(info.Env(), unwrap<Device>(info[0])->zeros(static_cast<DType>(integer(info[1])), count(info[2])));
}

Napi::Value tensorNormal(const Napi::CallbackInfo& info) {
  constexpr uint32_t purpose = 0;  // parameters use numbers from 1
  return wrapTensor(info.Env(), randomNormal(*unwrap<Device>(info[0]), static_cast<DType>(integer(info[1])),
                                             count(info[2]), seedOf(info[3]), purpose, real(info[4])));
}

// The alias does not count as external memory: its owner already does.
Napi::Value tensorAlias(const Napi::CallbackInfo& info) { return wrap(info.Env(), unwrap<Tensor>(info[0])); }

Napi::Value tensorRead(const Napi::CallbackInfo& info) {
  const TensorPtr tensor = unwrap<Tensor>(info[0]);
  const HostArray host = hostArray(info[1], *tensor);
  tensor->device().checkReadable("reading a tensor");
  // The reference keeps the array's memory alive until the copy is done.
  auto array = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info[1].As<Napi::Object>()));
  auto pending = Environment::of(info.Env()).expect(info.Env(), [array](Napi::Env env) { return env.Undefined(); });
  tensor->device().read(tensor, host.data, host.dtype, std::move(pending.completion));
  return pending.promise;
}

Napi::Value tensorReadSync(const Napi::CallbackInfo& info) {
  const TensorPtr tensor = unwrap<Tensor>(info[0]);
  const HostArray host = hostArray(info[1], *tensor);
  tensor->device().readSync(tensor, host.data, host.dtype);
  return info.Env().Undefined();
}

Napi::Value tensorWrite(const Napi::CallbackInfo& info) {
  const TensorPtr tensor = unwrap<Tensor>(info[0]);
  const HostArray host = hostArray(info[1], *tensor);
  tensor->device().write(tensor, host.data, host.dtype);
  return info.Env().Undefined();
}

Napi::Value tensorClone(const Napi::CallbackInfo& info) {
  return wrapTensor(info.Env(), clone(unwrap<Tensor>(info[0])));
}

Napi::Value tensorConvert(const Napi::CallbackInfo& info) {
  return wrapTensor(info.Env(), convert(unwrap<Tensor>(info[0]), static_cast<DType>(integer(info[1]))));
}

Napi::Value tensorTransfer(const Napi::CallbackInfo& info) {
  return wrapTensor(info.Env(), unwrap<Device>(info[1])->transfer(unwrap<Tensor>(info[0])));
}

// ------------------------------------------------------------------------------------------------ parameters

Napi::Value parameterCreate(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->refuseRecording("making a parameter");
  const auto dtype = static_cast<DType>(integer(info[1]));
  const int64_t size = count(info[2]);
  const auto init = info[3].As<Napi::Object>();
  const float std = real(init.Get("std"));
  const TensorPtr value = std > 0 ? randomNormal(*device, dtype, size, seedOf(init.Get("seed")),
                                                 init.Get("purpose").As<Napi::Number>().Uint32Value(), std)
                                  : filled(*device, dtype, size, real(init.Get("mean")));
  const auto bytes = static_cast<int64_t>(value->bytes());
  return wrap(info.Env(), std::make_shared<Parameter>(value), bytes);
}

Napi::Value parameterValue(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), unwrap<Parameter>(info[0])->value());
}

Napi::Value parameterGrad(const Napi::CallbackInfo& info) {
  return wrap(info.Env(), unwrap<Parameter>(info[0])->grad());
}

Napi::Value parameterSetTrainable(const Napi::CallbackInfo& info) {
  const auto parameter = unwrap<Parameter>(info[0]);
  parameter->value()->device().checkOpen();
  parameter->trainable = boolean(info[1]);
  return info.Env().Undefined();
}

Napi::Value parameterZeroGrad(const Napi::CallbackInfo& info) {
  unwrap<Parameter>(info[0])->zeroGrad();
  return info.Env().Undefined();
}

}  // namespace

void exposeTensors(Napi::Object exports) {
  expose<cpuOpen>(exports, "cpuOpen");
  expose<cudaOpen>(exports, "cudaOpen");
  expose<deviceClose>(exports, "deviceClose");
  expose<deviceMemory>(exports, "deviceMemory");
  expose<deviceResetPeak>(exports, "deviceResetPeak");
  expose<deviceMostExperts>(exports, "deviceMostExperts");
  expose<deviceSynchronize>(exports, "deviceSynchronize");
  expose<deviceMeasureLimits>(exports, "deviceMeasureLimits");
  expose<graphBegin>(exports, "graphBegin");
  expose<graphEnd>(exports, "graphEnd");
  expose<graphReplay>(exports, "graphReplay");
  expose<release<Graph>>(exports, "graphRelease");
  expose<deviceTimeKernels>(exports, "deviceTimeKernels");
  expose<deviceKernelTimes>(exports, "deviceKernelTimes");
  expose<tensorFrom>(exports, "tensorFrom");
  expose<tensorZeros>(exports, "tensorZeros");
  expose<tensorNormal>(exports, "tensorNormal");
  expose<tensorAlias>(exports, "tensorAlias");
  expose<release<Tensor>>(exports, "tensorRelease");
  expose<tensorRead>(exports, "tensorRead");
  expose<tensorReadSync>(exports, "tensorReadSync");
  expose<tensorWrite>(exports, "tensorWrite");
  expose<tensorClone>(exports, "tensorClone");
  expose<tensorConvert>(exports, "tensorConvert");
  expose<tensorTransfer>(exports, "tensorTransfer");
  expose<parameterCreate>(exports, "parameterCreate");
  expose<parameterValue>(exports, "parameterValue");
  expose<parameterGrad>(exports, "parameterGrad");
  expose<parameterSetTrainable>(exports, "parameterSetTrainable");
  expose<parameterZeroGrad>(exports, "parameterZeroGrad");
  expose<release<Parameter>>(exports, "parameterRelease");
}

}  // namespace moe::binding
