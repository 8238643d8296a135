// Before a file of the CUDA suites opens a device: where the software GPU writes what it finds in this process.
import { join } from 'node:path';

const folder = process.env.SWITCHYARD_TEST_REPORTS;
if (folder) process.env.SOFTGPU_REPORT ??= join(folder, `${process.pid}.jsonl`);
