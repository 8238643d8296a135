// Runs any command with the software GPU in place of the CUDA driver:
//
//   npm run softgpu -- [--cc 9.0] [--order latest|earliest|random:SEED] [--report FILE] COMMAND…
//
// Options end at COMMAND; the rest is passed on untouched. Prints nothing after the command's own output unless a fault
// was found. The status is the command's, or 1 when it was 0 and there was a fault.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build, buildFolder } from './build.mjs';

const variables = { '--cc': 'SOFTGPU_CC', '--order': 'SOFTGPU_ORDER', '--report': 'SOFTGPU_REPORT' };

function parse(words) {
  const env = {};
  let at = 0;
  for (; at < words.length && words[at].startsWith('-'); at += 1) {
    const [name, inline] = words[at].split(/=(.*)/s);
    if (!(name in variables)) throw new Error(`unknown option ${name}; there are --cc, --order and --report`);
    const value = inline ?? words[++at];
    if (value === undefined) throw new Error(`${name} needs a value`);
    env[variables[name]] = name === '--report' ? resolve(value) : value;
  }
  if (at >= words.length)
    throw new Error('no command; usage: npm run softgpu -- [--cc 9.0] [--order random:7] [--report FILE] COMMAND…');
  return { env, command: words[at], rest: words.slice(at + 1) };
}

/** The faults in what a report file gained since `from`. */
function faultsIn(path, from) {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path).subarray(from).toString().split('\n').filter(Boolean);
  return lines.flatMap((line) => JSON.parse(line).faults ?? []);
}

async function main() {
  const { env, command, rest } = parse(process.argv.slice(2));
  build();
  const scratch = env.SOFTGPU_REPORT ? undefined : mkdtempSync(join(tmpdir(), 'softgpu-'));
  const report = env.SOFTGPU_REPORT ?? join(scratch, 'report.jsonl');
  const from = existsSync(report) ? statSync(report).size : 0;
  const libraries = [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const child = spawn(command, rest, {
    stdio: 'inherit',
    env: { ...process.env, ...env, SOFTGPU_REPORT: report, LD_LIBRARY_PATH: libraries },
  });
  const status = await new Promise((done) => {
    child.on('error', (error) => {
      console.error(`${command}: ${error.message}`);
      done(127);
    });
    child.on('exit', (code, signal) => done(code ?? 128 + constants.signals[signal]));
  });
  const faults = faultsIn(report, from);
  if (scratch) rmSync(scratch, { recursive: true });
  if (faults.length > 0) {
    const names = [...new Set(faults.map((f) => f.fault))].join(', ');
    console.error(`softgpu: ${faults.length} fault${faults.length === 1 ? '' : 's'} found (${names})`);
  }
  return status !== 0 ? status : faults.length > 0 ? 1 : 0;
}

main().then(
  (status) => process.exit(status),
  (error) => {
    console.error(`softgpu: ${error.message}`);
    process.exit(2);
  },
);
