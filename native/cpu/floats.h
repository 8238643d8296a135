// The CPU backend computes in float32: operations of that dtype, seen as what they are.
#pragma once

namespace moe::cpu {

inline const float* floats(const void* data) { return static_cast<const float*>(data); }
inline float* floats(void* data) { return static_cast<float*>(data); }

}  // namespace moe::cpu
