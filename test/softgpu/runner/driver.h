// Checks of the driver API beyond launches: what a backend relies on.
#pragma once

#include <cstdint>

#include "gpu.h"

namespace runner {

// Prints one line per promise; 0 when all are kept.
int checkDriver();
// What a program finds out before it uses a device, one line per call, with the name of its result.
int probe(const std::string& image);
// One allocation of each kind, one line per call.
int allocate();
// A fixed sequence of calls of every kind between two marks, for the test of the counts.
int makeCalls();

// ---- For the parts below.

// step: x[0] = x[0] · 3 + k. Not commutative, so that the order of steps shows. count: adds 1 to x[0].
extern const char* const kDriverPtx;

void expect(const char* what, bool right);
// The name of a result, for messages.
std::string nameOf(CUresult result);

class Stream {
 public:
  explicit Stream(unsigned flags = CU_STREAM_NON_BLOCKING) { CHECK(cuStreamCreate(&stream_, flags)); }
  ~Stream() { cuStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator CUstream() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};
class Event {
 public:
  explicit Event(unsigned flags = 0) { CHECK(cuEventCreate(&event_, flags)); }
  ~Event() { cuEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator CUevent() const { return event_; }

 private:
  CUevent event_ = nullptr;
};

void step(CUfunction f, CUstream stream, CUdeviceptr x, uint32_t k);

void checkStreams(const Module& module);
void checkHostFunctions(const Module& module);
void checkGraphs(const Module& module);
void checkMemory();
void checkCopies();
void checkModules();
void checkLaunches(const Module& module);
void checkHandles();

}  // namespace runner
