// Cooperative groups: tiles, labelled and coalesced groups, their shuffles, votes, scans and reductions. Test kernel of
// the software GPU.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

constexpr int kResults = 20;

extern "C" __global__ void groups(const int* x, int* results) {
  const cg::thread_block block = cg::this_thread_block();
  const auto warp = cg::tiled_partition<32>(block);
  const auto tile = cg::tiled_partition<8>(warp);
  const int k = blockIdx.x * blockDim.x + threadIdx.x, value = x[k];
  int* out = results + k * kResults;
  out[0] = cg::reduce(warp, value, cg::plus<int>());
  out[1] = cg::reduce(tile, value, cg::greater<int>());
  out[2] = cg::inclusive_scan(tile, value);
  out[3] = cg::exclusive_scan(warp, value);
  out[4] = tile.shfl(value, 3);
  out[5] = tile.shfl_xor(value, 1);
  out[6] = warp.shfl_down(value, 5);
  out[7] = tile.shfl_up(value, 2);
  out[8] = static_cast<int>(tile.ballot(value & 1));
  out[9] = warp.any(value > 96);
  out[10] = tile.all(value > 5);
  out[11] = static_cast<int>(warp.match_any(value % 3));
  const auto labelled = cg::labeled_partition(warp, value % 3);
  out[12] = static_cast<int>(labelled.size());
  out[13] = cg::reduce(labelled, value, cg::plus<int>());
  out[14] = out[15] = out[16] = -1;
  if (value & 1) {
    const auto odd = cg::coalesced_threads();
    out[14] = static_cast<int>(odd.size());
    out[15] = cg::reduce(odd, value, cg::bit_xor<int>());
    out[16] = odd.shfl(value, 0);
  }
  out[17] = static_cast<int>(cg::reduce(warp, static_cast<float>(value), cg::plus<float>()));
  out[18] = static_cast<int>(__shfl_xor_sync(~0u, static_cast<double>(value), 7));
  out[19] = static_cast<int>(__shfl_sync(~0u, static_cast<long long>(value) << 33, 3, 16) >> 33);
}
