// Before a file of the CUDA suites opens a device: where the software GPU writes what it finds in this process; and where
// there is no CUDA, each test is skipped with the reason.
import { join } from 'node:path';
import { beforeEach } from 'vitest';
import { cudaSkipped } from './devices.js';

if (cudaSkipped) beforeEach(({ skip }) => skip(cudaSkipped));

const folder = process.env.SWITCHYARD_TEST_REPORTS;
if (folder) process.env.SOFTGPU_REPORT ??= join(folder, `${process.pid}.jsonl`);
