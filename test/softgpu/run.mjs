// Runs any command with the software GPU in place of the CUDA driver:
//
//   npm run softgpu -- [--cc 9.0] [--order latest|earliest|random:SEED] [--report FILE] COMMAND…
//
// Options end at COMMAND; the rest is passed on untouched. Prints nothing after the command's own output unless a fault
// was found. The status is the command's, or 1 when that was 0 and there was a fault; as in a shell 128 and the signal's
// number when it was killed, 127 when there is no such command, 126 when it cannot be run; 2 when nothing was run.
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, statSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build, buildFolder } from './build.mjs';
import { faultsIn } from './faults.mjs';

const usage = 'npm run softgpu -- [--cc 9.0] [--order latest|earliest|random:SEED] [--report FILE] COMMAND…';
const options = {
  '--cc': { variable: 'SOFTGPU_CC', pattern: /^([5-9]|[1-9]\d)\.\d$/, expected: 'a compute capability such as 9.0' },
  '--order': {
    variable: 'SOFTGPU_ORDER',
    pattern: /^(latest|earliest|random:\d{1,19})$/,
    expected: 'latest, earliest or random:SEED',
  },
  '--report': { variable: 'SOFTGPU_REPORT', pattern: /^[^-]/, expected: 'a file' },
};

function parse(words) {
  const env = {};
  let at = 0;
  for (; at < words.length && words[at].startsWith('-'); at += 1) {
    if (words[at] === '--') {
      at += 1;
      break;
    }
    const [name, inline] = words[at].split(/=(.*)/s);
    if (!Object.hasOwn(options, name))
      throw new Error(`unknown option ${name}; there are ${Object.keys(options).join(', ')}\nusage: ${usage}`);
    const { variable, pattern, expected } = options[name];
    const value = inline ?? words[++at];
    if (value === undefined) throw new Error(`${name} needs a value: ${expected}`);
    if (!pattern.test(value)) throw new Error(`${name} must be ${expected}; it is '${value}'`);
    env[variable] = value;
  }
  if (!words[at]) throw new Error(`no command\nusage: ${usage}`);
  return { env, command: words[at], rest: words.slice(at + 1) };
}

/** A report that cannot be written would hide faults. */
function prepareReport(path) {
  try {
    closeSync(openSync(path, 'a'));
  } catch (error) {
    throw new Error(`--report ${path}: ${error.message}`);
  }
  return statSync(path).size;
}

function execute(command, words, env) {
  let child;
  // Listened to before there is a child: one that signals at once would end this process and be left alone. The terminal
  // sends Ctrl-C to both: the command decides what it does with it, and its faults are told all the same.
  process.on('SIGINT', () => {});
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child = spawn(command, words, { stdio: 'inherit', env });
  return new Promise((done) => {
    child.on('error', (error) => {
      const why = error.code === 'ENOENT' ? 'command not found' : error.message;
      console.error(`softgpu: ${command}: ${why}`);
      done(error.code === 'ENOENT' ? 127 : 126);
    });
    child.on('exit', (code, signal) => done(code ?? 128 + constants.signals[signal]));
  });
}

async function main() {
  const { env, command, rest } = parse(process.argv.slice(2));
  const asked = env.SOFTGPU_REPORT ?? process.env.SOFTGPU_REPORT;
  const scratch = asked ? undefined : mkdtempSync(join(tmpdir(), 'softgpu-'));
  try {
    const report = asked ? resolve(asked) : join(scratch, 'report.jsonl');
    const from = prepareReport(report);
    build();
    const libraries = [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
    const status = await execute(command, rest, {
      ...process.env,
      ...env,
      SOFTGPU_REPORT: report,
      LD_LIBRARY_PATH: libraries,
    });
    const faults = faultsIn(report, from);
    if (faults.length > 0) {
      const names = [...new Set(faults.map((f) => f.fault))].join(', ');
      console.error(`softgpu: ${faults.length} fault${faults.length === 1 ? '' : 's'} found (${names})`);
    }
    return status !== 0 ? status : faults.length > 0 ? 1 : 0;
  } finally {
    if (scratch) rmSync(scratch, { recursive: true });
  }
}

main().then(
  (status) => process.exit(status),
  (error) => {
    console.error(`softgpu: ${error.message}`);
    process.exit(2);
  },
);
