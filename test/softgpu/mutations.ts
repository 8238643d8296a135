// Faults to inject into the kernels of kernels/: the fault that must be found, or that nothing but the result can tell.
import type { Patch } from './harness.js';

export type Mutation = [name: string, fault: string, ...patches: Patch[]];

export const change = (from: string, to: string): Patch => ({ from, to });
export const wrongAnswer = 'wrong answer';

export const mutations: Record<string, Mutation[]> = {
  neighbours: [
    ['a barrier removed', 'shared-race', change('__syncthreads();', '')],
    ['a barrier replaced by one of the warp', 'shared-race', change('__syncthreads();', '__syncwarp();')],
    [
      'a barrier only some lanes reach',
      'divergent-barrier',
      change('__syncthreads()', 'if (threadIdx.x % 2) __syncthreads()'),
    ],
    [
      'an exit before the barrier',
      'divergent-barrier',
      change('__syncthreads()', 'if (threadIdx.x == 5) return; __syncthreads()'),
    ],
    [
      'an exit of what lies beyond the end',
      'divergent-barrier',
      change('tile[threadIdx.x] = k', 'if (k >= n) return; tile[threadIdx.x] = k'),
    ],
    ['a read guard removed', 'out-of-bounds', change('k < n ? x[k] : 0.0f', 'x[k]')],
    ['a read guard off by one', 'out-of-bounds', change('k < n ? x[k]', 'k <= n ? x[k]')],
    ['a write guard removed', 'out-of-bounds', change('if (k < n) y[k]', 'y[k]')],
    [
      'shared memory written only in part',
      'uninitialised-shared',
      change('tile[threadIdx.x] = k', 'if (threadIdx.x != 9) tile[threadIdx.x] = k'),
    ],
    ['a tile one word too small', 'out-of-bounds', change('tile[64]', 'tile[63]')],
    ['a shared index too large', 'out-of-bounds', change('(threadIdx.x + 1) % 64', 'threadIdx.x + 1')],
    ['a shared index of the wrong period', wrongAnswer, change('(threadIdx.x + 1) % 64', '(threadIdx.x + 1) % 63')],
    ['a misaligned pointer', 'misaligned', change('y[k] = sum', '*(float*)((char*)y + 4 * k + 1) = sum')],
    [
      'a spin on what nobody writes',
      'deadlock',
      change('__syncthreads();', 'while (((volatile float*)tile)[threadIdx.x] != -7.0f) {}'),
    ],
    ['a trap', 'trap', change('__syncthreads();', '__trap();')],
    ['blocks that overlap', 'global-race', change('if (k < n) y[k] = sum', 'if (k < n) y[k - blockIdx.x] = sum')],
    ['bounds of fewer threads', 'invalid-launch', change('__global__ void', '__global__ void __launch_bounds__(32)')],
  ],
  gemm: [
    ['one wait too few', 'async-copy-not-waited', change('waitGroup<kStages - 2>()', 'waitGroup<kStages - 1>()')],
    [
      'a wait for the first stages alone',
      'async-copy-not-waited',
      change('waitGroup<kStages - 2>();', 'if (step < kStages) waitGroup<kStages - 2>();'),
    ],
    [
      'the wait behind the barrier',
      'async-copy-not-waited',
      change('waitGroup<kStages - 2>();\n    __syncthreads();', '__syncthreads();\n    waitGroup<kStages - 2>();'),
    ],
    ['no wait at all', 'async-copy-not-waited', change('waitGroup<kStages - 2>();', '')],
    [
      'no commit in the loop',
      'async-copy-not-waited',
      change('step + kStages - 1);\n    commitGroup();', 'step + kStages - 1);'),
    ],
    ['no commit before the loop', 'async-copy-not-waited', change('load(s, s);\n    commitGroup();', 'load(s, s);')],
    ['no barrier between stages', 'shared-race', change('__syncthreads();', '')],
    ['a barrier of the warp between stages', 'shared-race', change('__syncthreads();', '__syncwarp();')],
    [
      'a barrier once per round of stages',
      'shared-race',
      change('__syncthreads();', 'if (step % kStages == 0) __syncthreads();'),
    ],
    [
      'a barrier in the first round of stages alone',
      'shared-race',
      change('__syncthreads();', 'if (step < kStages) __syncthreads();'),
    ],
    [
      'a copy into the stage that is read',
      'shared-race',
      change('load((step + kStages - 1) % kStages,', 'load((step + kStages) % kStages,'),
    ],
    ['a copy nobody waits for', 'async-copy-at-exit', change('waitGroup<0>();', 'load(0, 0);')],
    [
      'stages beyond the shared memory',
      'out-of-bounds',
      change('stage * kStageBytes + placeOf(row, part), B', '(stage + 1) * kStageBytes + placeOf(row, part), B'),
    ],
    ['the guard of a ragged edge removed', 'out-of-bounds', change('firstRow + row < M && k < K', 'k < K')],
    [
      'the guard of a ragged depth removed',
      'out-of-bounds',
      change('const bool inB = firstColumn + row < N && k < K', 'const bool inB = firstColumn + row < N'),
      change('const bool inA = firstRow + row < M && k < K', 'const bool inA = firstRow + row < M && k < K + 8'),
    ],
    ['the guard of a store removed', 'out-of-bounds', change('row < M && column < N', 'column < N')],
    [
      'a column guard of a store removed',
      'global-race',
      change('row < M && column < N', 'row < M && row * N + column < M * N'),
    ],
    [
      'zero fill forgotten',
      wrongAnswer,
      change('A + offsetA, inA ? 16 : 0', 'A + offsetA, 16'),
      change('B + offsetB, inB ? 16 : 0', 'B + offsetB, 16'),
    ],
    [
      'ldmatrix by half a warp',
      'diverged-aligned',
      change('loadMatrices(fragmentA[i],', 'if (lane < 16) loadMatrices(fragmentA[i],'),
    ],
    ['ldmatrix of the wrong rows', wrongAnswer, change('i * 16 + (lane & 15)', 'i * 16 + (lane & 7)')],
    [
      'ldmatrix between rows',
      'misaligned',
      change('loadMatrices(fragmentA[i], a +', 'loadMatrices(fragmentA[i], a + 8 +'),
    ],
    [
      'a swizzle that only the copies have',
      wrongAnswer,
      change('b + placeOf(row, part + ((lane >> 3) & 1))', 'b + row * 64 + (part + ((lane >> 3) & 1)) * 16'),
    ],
    [
      'fragments of B swapped',
      wrongAnswer,
      change(
        'fragmentB[j >> 1][(j & 1) * 2], fragmentB[j >> 1][(j & 1) * 2 + 1]',
        'fragmentB[j >> 1][(j & 1) * 2 + 1], fragmentB[j >> 1][(j & 1) * 2]',
      ),
    ],
    [
      'a warp alone waits',
      'async-copy-not-waited',
      change('waitGroup<kStages - 2>();', 'if (warp == 0) waitGroup<kStages - 2>();'),
    ],
    [
      'a commit before its copies',
      'async-copy-not-waited',
      change(
        'if (step + kStages - 1 < steps) load((step + kStages - 1) % kStages, step + kStages - 1);\n    commitGroup();',
        'commitGroup();\n    if (step + kStages - 1 < steps) load((step + kStages - 1) % kStages, step + kStages - 1);',
      ),
    ],
    ['a source between elements', 'misaligned', change('A + offsetA, inA', 'A + offsetA + 1, inA')],
    ['a row guard of a store off by one', 'out-of-bounds', change('row < M && column < N', 'row <= M && column < N')],
    [
      'a guard of the depth off by one',
      'out-of-bounds',
      change('firstRow + row < M && k < K', 'firstRow + row < M && k <= K'),
    ],
    [
      'a stage that never wraps',
      'out-of-bounds',
      change('load((step + kStages - 1) % kStages,', 'load(step + kStages - 1,'),
    ],
    [
      'mma without one lane',
      'diverged-aligned',
      change('          multiplyAdd(sums', '          if (lane != 31) multiplyAdd(sums'),
    ],
    [
      'a step too few',
      wrongAnswer,
      change('step < steps; ++step) {\n    waitGroup', 'step < steps - 1; ++step) {\n    waitGroup'),
    ],
    [
      'fragments of A permuted',
      wrongAnswer,
      change('"r"(a[0]), "r"(a[1]), "r"(a[2])', '"r"(a[0]), "r"(a[2]), "r"(a[1])'),
    ],
  ],
  permute: [
    ['a carry not zeroed', 'uninitialised-shared', change('if (threadIdx.x == 0) carry = 0;', '')],
    [
      'a barrier of some threads',
      'divergent-barrier',
      change('      __syncthreads();\n    }\n  }\n}', '      if (threadIdx.x < 100) __syncthreads();\n    }\n  }\n}'),
    ],
    ['a histogram not zeroed', 'uninitialised-shared', change('local[e] = 0;', '{}')],
    ['no barrier after zeroing', 'shared-race', change('local[e] = 0;\n  __syncthreads();', 'local[e] = 0;')],
    ['a histogram without atomics', 'shared-race', change('atomicAdd(&local[ids[k]], 1)', 'local[ids[k]] += 1')],
    ['totals without atomics', 'global-race', change('atomicAdd(&totals[e], local[e])', 'totals[e] += local[e]')],
    [
      'totals by atomics of the block',
      'global-race',
      change('atomicAdd(&totals[e], local[e])', 'atomicAdd_block(&totals[e], local[e])'),
    ],
    [
      'counts written only where there are any',
      'uninitialised-global',
      change(
        'counts[blockIdx.x * experts + e] = local[e];\n    if (local[e]) atomicAdd',
        'if (local[e]) counts[blockIdx.x * experts + e] = local[e];\n    if (local[e]) atomicAdd',
      ),
    ],
    [
      'no barrier after the sums of the warps',
      'shared-race',
      change('if (lane == 31) warpSums[warp] = sum;\n    __syncthreads();', 'if (lane == 31) warpSums[warp] = sum;'),
    ],
    [
      'no barrier before the carry',
      'shared-race',
      change('__syncthreads();\n    if (threadIdx.x == 0) carry += all;', 'if (threadIdx.x == 0) carry += all;'),
    ],
    ['an inclusive scan', 'out-of-bounds', change('int before = carry + sum - own', 'int before = carry + sum')],
    [
      'a match over lanes that are not there',
      'deadlock',
      change('__match_any_sync(active, id)', '__match_any_sync(~0u, id)'),
    ],
    [
      'a shuffle from a lane of another group',
      'wrong-member-mask',
      change('__shfl_sync(same, first, leader)', '__shfl_sync(same, first, (leader + 1) % 32)'),
    ],
    [
      'a leader without a group',
      'uninitialised-copy',
      change('atomicAdd(&next[id], __popc(same))', 'atomicAdd(&next[id], 1)'),
    ],
    ['turns without a barrier', wrongAnswer, change('      __syncthreads();\n    }\n  }\n}', '    }\n  }\n}')],
    [
      'turns and the counter without atomics',
      'shared-race',
      change('      __syncthreads();\n    }\n  }\n}', '    }\n  }\n}'),
      change('first = atomicAdd(&next[id], __popc(same))', '{ first = next[id]; next[id] += __popc(same); }'),
    ],
  ],
  topk: [
    [
      'a lane outside its own mask',
      'wrong-member-mask',
      change('__shfl_xor_sync(~0u, highest', '__shfl_xor_sync(0xffffu, highest'),
    ],
    [
      'half a warp that shuffles with all',
      'deadlock',
      change(
        'for (int step = 16; step > 0; step /= 2) highest =',
        'if (lane < 16) for (int step = 16; step > 0; step /= 2) highest =',
      ),
    ],
    ['ties for the higher index', wrongAnswer, change('otherIndex < index', 'otherIndex > index')],
    [
      'a reduction that starts too low',
      wrongAnswer,
      change('float best', 'float best = 0; int unused = 0; best'),
      change('for (int step = 16; step > 0; step /= 2) {', 'for (int step = 8; step > 0; step /= 2) {'),
    ],
    ['a row guard removed', 'out-of-bounds', change('if (row >= rows) return;', '')],
    [
      'all lanes store',
      'global-race',
      change('if (lane < kTop) {', 'if (lane < 2 * kTop && row * kTop + lane < rows * kTop) {'),
    ],
  ],
  reduce: [
    ['a ticket by atomics of the block', 'global-race', change('atomicInc(ticket', 'atomicInc_block(ticket')],
    ['partial sums of one block too many', 'out-of-bounds', change('b < gridDim.x; b', 'b <= gridDim.x; b')],
    ['a tail by vectors', 'out-of-bounds', change('k < n / 4; k += threads', 'k < (n + 3) / 4; k += threads')],
    ['a tail forgotten', wrongAnswer, change('k = n / 4 * 4 + thread', 'k = n + thread')],
    [
      'vectors that start anywhere',
      'misaligned',
      change('reinterpret_cast<const float4*>(x)', 'reinterpret_cast<const float4*>(x + 1)'),
    ],
    [
      'no barrier before the last warp',
      'shared-race',
      change('shared[warp] = v;\n  __syncthreads();', 'shared[warp] = v;'),
    ],
    [
      'a warp that sums what no warp left',
      'uninitialised-shared',
      change('threadIdx.x < blockDim.x / 32 ? shared[lane] : 0', 'lane < 8 ? shared[min(lane, 7)] : 0'),
      change('if (lane == 0) shared', 'if (lane == 0 && warp < 7) shared'),
    ],
    ['no fence before the ticket', 'global-race', change('__threadfence();', '')],
    ['a fence of the block before the ticket', 'global-race', change('__threadfence();', '__threadfence_block();')],
    [
      'the fence behind the ticket',
      'global-race',
      change('__threadfence();\n', ''),
      change('gridDim.x - 1;\n  }', 'gridDim.x - 1;\n    __threadfence();\n  }'),
    ],
    ['a ticket without atomics', 'global-race', change('atomicInc(ticket, gridDim.x - 1)', '(*ticket)++')],
    ['a ticket that does not wrap', wrongAnswer, change('atomicInc(ticket, gridDim.x - 1)', 'atomicAdd(ticket, 1u)')],
    [
      'fences of the block by all before the ticket',
      'global-race',
      change(
        `__threadfence();
    isLast`,
        `}
  __threadfence_block();
  __syncthreads();
  if (threadIdx.x == 32) {
    isLast`,
      ),
    ],
    ['a verdict without a barrier', 'shared-race', change('__syncthreads();\n  if (!isLast)', 'if (!isLast)')],
    ['every block the last', 'global-race', change('if (!isLast) return;', '')],
    [
      'results of every block',
      'global-race',
      change('if (threadIdx.x == 0) *result = v;', ''),
      change('if (threadIdx.x == 0) {\n    partial', 'if (threadIdx.x == 0) {\n    *result = v;\n    partial'),
    ],
    ['partial sums by the read-only path', 'global-race', change('__ldcg(&partial[b])', '__ldg(&partial[b])')],
  ],
  stages: [
    ['a stage announced to nobody', 'deadlock', change('arrive(full(tile));', 'if (tile != 5) arrive(full(tile));')],
    [
      'one stage too few between producers and consumers',
      'deadlock',
      change('if (tile >= kStages) wait(empty(tile));', ''),
    ],
    ['a consumer that does not wait', 'shared-race', change('wait(full(tile));', '')],
    ['a stage never handed back', 'deadlock', change('if (tile + kStages < tiles) arrive(empty(tile));', '')],
    [
      'a stage handed back before it is read',
      'shared-race',
      change('wait(full(tile));\n', 'wait(full(tile));\n      if (tile + kStages < tiles) arrive(empty(tile));\n'),
      change('      if (tile + kStages < tiles) arrive(empty(tile));\n      y', '      y'),
    ],
    [
      'a stage announced before it is full',
      'shared-race',
      change(
        'stage[tile % kStages][column] = x[tile * kThreads + column];\n      arrive(full(tile));',
        'arrive(full(tile));\n      stage[tile % kStages][column] = x[tile * kThreads + column];',
      ),
    ],
    ['one barrier for two stages', 'deadlock', change('return 1 + tile % kStages', 'return 1 + tile % kStages / 2')],
    ['counts that differ', 'invalid-barrier', change('bar.sync %0, 128', 'bar.sync %0, 96')],
    [
      'a count of the consumers alone',
      'shared-race',
      change('bar.sync %0, 128', 'bar.sync %0, 64'),
      change('bar.arrive %0, 128', 'bar.arrive %0, 64'),
    ],
    [
      'too many stages for the barriers',
      'out-of-bounds',
      change('stage[kStages][kThreads]', 'stage[kStages - 1][kThreads]'),
    ],
  ],
  transpose: [
    ['a barrier removed', 'shared-race', change('__syncthreads();', '')],
    [
      'a barrier for whole tiles alone',
      'divergent-barrier',
      change('__syncthreads();', 'if (column < columns) __syncthreads();'),
    ],
    [
      'rows and columns swapped at the edge',
      'out-of-bounds',
      change('row < rows && column < columns', 'row < columns && column < columns'),
    ],
    [
      'a tile read where nobody wrote',
      'uninitialised-shared',
      change('outRow < columns && outColumn < rows', 'outRow < columns && outRow * rows + outColumn < rows * columns'),
    ],
    ['tile indices swapped', 'uninitialised-shared', change('tile[threadIdx.x][k];', 'tile[k][threadIdx.x];')],
    ['no barrier of the warp', 'shared-race', change('__syncwarp();\n    y', 'y')],
    [
      'no barrier of the warp before the next round',
      'shared-race',
      change('own[31 - lane];\n    __syncwarp();', 'own[31 - lane];'),
    ],
    [
      'a barrier of each half of the warp',
      'shared-race',
      change('__syncwarp();\n    y', '__syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);\n    y'),
    ],
    [
      'a barrier of half the warp',
      'shared-race',
      change('__syncwarp();\n    y', 'if (lane < 16) __syncwarp();\n    y'),
    ],
    [
      'words of the wrong warp',
      'shared-race',
      change('words + threadIdx.x / 32 * 32', 'words + threadIdx.x / 64 * 32'),
    ],
  ],
  grid: [
    ['no barrier of the grid', 'global-race', change('grid.sync();', '')],
    ['a barrier of the block instead', 'global-race', change('grid.sync();', '__syncthreads();')],
    [
      'a barrier of the grid that a block leaves out',
      'deadlock',
      change('grid.sync();', 'if (blockIdx.x != 3) grid.sync();'),
    ],
    [
      'sums that only some blocks write',
      'uninitialised-global',
      change('if (threadIdx.x == 0) sums', 'if (threadIdx.x == 0 && blockIdx.x != 4) sums'),
    ],
  ],
};
