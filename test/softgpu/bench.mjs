// How fast the software GPU is, with all its checks on: npm run bench:softgpu
//
// The median of five runs each, in processor time of the one core that it uses.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { build, buildFolder, compileToPtx, cudaTool, home, runner } from './build.mjs';

if (!cudaTool('nvcc')) {
  console.error('bench:softgpu: nvcc was not found (set CUDA_HOME, or put it on PATH)');
  process.exit(1);
}
build();
const kernels = ['gemm', 'topk'].map((name) => compileToPtx(join(home, 'kernels', `${name}.cu`)));
const { status } = spawnSync(runner, ['bench', ...kernels], {
  stdio: 'inherit',
  env: { ...process.env, LD_LIBRARY_PATH: buildFolder },
});
process.exitCode = status ?? 1;
