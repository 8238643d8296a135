#!/usr/bin/env node
// The command `switchyard`: builds the native addon (also as this package's install script) and says what is wrong
// when it cannot. Plain JavaScript, because it runs before anything has been compiled.
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join, sep } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, styleText } from 'node:util';
import { advice, atLeast, checkCMake, checkCompiler, checkMake, checkNode, run } from './requirements.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const manifest = require('../package.json');
const buildFolder = join(root, 'build');
const logFile = join(buildFolder, 'build.log');

const usage = `Usage: switchyard <command>

  build    Compile the native addon.
             --if-missing   do nothing when one that loads is there
             --jobs N       compile N files at a time (default: by cores and memory)
             --debug        a Debug build in place of the Release one
             --verbose      show the compiler at work
  doctor   Check everything the addon needs to build and to run. Exits 0 only if the package is usable.
`;

/** What is still to do where the build failed. */
const again = (ifMissing) =>
  // npm removes a dependency whose install script failed: there is no such command then, nor a log.
  ifMissing && root.includes(`${sep}node_modules${sep}`)
    ? 'and then install again. (npm removes what it could not build; "npm install --ignore-scripts" keeps it.)'
    : 'and then: npx switchyard build';

// ---------------------------------------------------------------- the addon

/** Loads the addon in a process of its own, so that one made for another machine cannot take this one down. */
function probe(configuration = existsSync(join(buildFolder, 'Debug', 'switchyard.node')) ? 'Debug' : 'Release') {
  const file = join(buildFolder, configuration, 'switchyard.node');
  if (!existsSync(file)) return { ok: false, reason: 'not built' };
  const script =
    'const a = require(process.argv[1]); console.log(JSON.stringify({ build: a.build, cpu: a.cpuInfo() }))';
  const result = run(process.execPath, ['-e', script, file]);
  if (result.status === 0) return { ok: true, configuration, ...JSON.parse(result.stdout) };
  const reason =
    result.stderr.match(/^\w*Error: .*/m)?.[0] ?? `loading it ended with ${result.signal ?? result.status}`;
  return { ok: false, reason };
}

function summary(addon) {
  const { build, cpu } = addon;
  // GCC calls itself by its bare version.
  const compiler = build.compiler.replace(/^(?=\d)/, 'g++ ');
  const sets = existsSync(logFile) ? readFileSync(logFile, 'utf8').match(/instruction sets: (.*)/)?.[1] : undefined;
  return {
    cpu: `${addon.configuration} build by ${compiler}${sets ? `, for ${sets}` : ''}; this machine uses ${cpu.isa}`,
    cuda: build.cuda ? 'built' : `not built: ${build.cudaReason}`,
  };
}

/** Two installs into the same folder must not run two compilers over one build tree. */
async function lock() {
  mkdirSync(buildFolder, { recursive: true });
  const file = join(buildFolder, '.lock');
  for (let waits = 0; ; waits++) {
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' });
      process.on('exit', () => rmSync(file, { force: true }));
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (!isAlive(file)) rmSync(file, { force: true });
    else if (waits === 10) console.error(`switchyard: waiting for another build. If there is none, delete ${file}`);
    await sleep(200);
  }
}

function isAlive(file) {
  try {
    const owner = Number(readFileSync(file, 'utf8'));
    // Empty: its owner is between making and filling it.
    if (owner > 0) process.kill(owner, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function cmakeJs(command, options, verbose) {
  const log = openSync(logFile, 'a');
  const output = verbose ? 'inherit' : log;
  const script = require.resolve('cmake-js/bin/cmake-js');
  const child = spawn(process.execPath, [script, command, '--directory', root, ...options], {
    stdio: ['ignore', output, output],
    // A process group of its own: whoever ends this process ends CMake and the compilers too.
    detached: true,
  });
  const end = () => {
    if (child.pid) process.kill(-child.pid, 'SIGTERM');
    process.exit(1);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.on(signal, end);
  return new Promise((resolve) => {
    child.on('error', () => resolve(false));
    child.on('exit', (code) => resolve(code === 0));
  }).finally(() => {
    for (const signal of signals) process.removeListener(signal, end);
    closeSync(log);
  });
}

/** CMake refuses a cache that was made in another folder or for another generator. */
function dropCache() {
  if (!existsSync(join(buildFolder, 'CMakeCache.txt'))) return false;
  for (const name of ['CMakeCache.txt', 'CMakeFiles'])
    rmSync(join(buildFolder, name), { recursive: true, force: true });
  return true;
}

const failure = /\berror\b|fatal|undefined reference|Killed|exhausted|cannot allocate|no space left/i;

/** The compiler's errors with what follows each, or else the end of the log. */
function relevantLines() {
  const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n');
  const wanted = new Set();
  lines.forEach((line, i) => {
    if (failure.test(line) && !/^ERR(OR|!) /.test(line))
      for (let j = i; j < Math.min(i + 4, lines.length); j++) wanted.add(j);
  });
  const picked = wanted.size > 0 ? lines.filter((_, i) => wanted.has(i)) : lines;
  return picked.slice(-30).map((line) => `  ${line}`);
}

/** One of the larger files takes its compiler 360 MB. */
const memoryPerJob = 2 ** 29;

function jobsFor(asked) {
  if (asked !== undefined) return /^[1-9]\d{0,3}$/.test(asked) ? Number(asked) : undefined;
  const memory = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.max(1, Math.min(availableParallelism(), Math.floor(memory / memoryPerJob)));
}

async function build({ 'if-missing': ifMissing, jobs: askedJobs, debug, verbose }) {
  const jobs = jobsFor(askedJobs);
  if (jobs === undefined) {
    console.error(`switchyard: --jobs: expected an integer from 1 to 9999, got "${askedJobs}"`);
    return 1;
  }
  if (ifMissing && probe().ok) return 0;
  const compiler = checkCompiler();
  const missing = [checkNode(), checkCMake(), compiler, checkMake()].filter(({ ok }) => !ok);
  if (missing.length > 0) {
    console.error('switchyard: the native addon cannot be built here. Missing:');
    for (const { name, found, need } of missing) console.error(`  ${name}: ${found}; needed: ${need}`);
    console.error('Type:');
    for (const line of advice(missing)) console.error(`  ${line}`);
    console.error(again(ifMissing));
    return 1;
  }

  await lock();
  if (ifMissing && probe().ok) return 0;
  rmSync(logFile, { force: true });
  const configuration = debug ? 'Debug' : 'Release';
  const plural = jobs === 1 ? '' : 's';
  console.error(`switchyard: compiling the native addon (${configuration}, ${jobs} job${plural}; log: ${logFile})`);
  const options = ['--config', configuration];
  // A CXX with arguments ("ccache g++") is CMake's to split; cmake-js would quote it whole.
  if (!compiler.command.includes(' ')) options.push('--cc', compiler.command, '--cxx', compiler.command);
  const configure = () => cmakeJs('configure', options, verbose);
  const done =
    ((await configure()) || (dropCache() && (await configure()))) &&
    (await cmakeJs('build', [...options, '--parallel', String(jobs)], verbose));
  if (!done) {
    console.error('switchyard: the build failed.');
    if (verbose) return 1;
    console.error(`${relevantLines().join('\n')}\nThe whole log: ${logFile}`);
    if (/Killed|exhausted|cannot allocate/i.test(readFileSync(logFile, 'utf8')))
      console.error('The compiler ran out of memory: npx switchyard build --jobs 1');
    return 1;
  }
  // `bindings` looks into Debug before Release: an old one there would hide the new build.
  rmSync(join(buildFolder, debug ? 'Release' : 'Debug', 'switchyard.node'), { force: true });
  const addon = probe(configuration);
  if (!addon.ok) {
    console.error(`switchyard: the addon was built but does not load: ${addon.reason}`);
    return 1;
  }
  const { cpu, cuda } = summary(addon);
  console.error(`CPU: ${cpu}\nCUDA: ${cuda}`);
  return 0;
}

// ---------------------------------------------------------------- doctor

/** npm 12 runs a dependency's install script only where the project's package.json allows it. */
function checkNpm() {
  const version = run('npm', ['--version']).stdout?.trim();
  if (!version) return { name: 'npm', ok: true, found: 'not found; not needed to run' };
  const found = (text) => ({ name: 'npm', ok: true, found: `${version}; ${text}` });
  if (run('npm', ['config', 'get', 'ignore-scripts']).stdout?.trim() === 'true')
    return found('ignore-scripts is set: after each install run "npx switchyard build"');
  const marker = `${sep}node_modules${sep}`;
  if (!atLeast(version, '12') || !root.includes(marker)) return found('install scripts run');
  const project = join(root.slice(0, root.indexOf(marker)), 'package.json');
  const allowed = existsSync(project) ? (JSON.parse(readFileSync(project, 'utf8')).allowScripts ?? {}) : {};
  const key = Object.keys(allowed).find((name) => name === manifest.name || name.startsWith(`${manifest.name}@`));
  if (key && allowed[key] !== false) return found(`install script allowed in ${project}`);
  return found(
    `install script not allowed in ${dirname(project)}: "npm approve-scripts switchyard", or "npx switchyard build"`,
  );
}

async function doctor() {
  const addon = probe();
  const tools = [checkCMake(), checkCompiler(), checkMake()];
  const { cpu, cuda } = addon.ok ? summary(addon) : {};
  const checks = [
    { name: 'Package', ok: true, found: `${manifest.name} ${manifest.version} in ${root}` },
    checkNode(),
    checkNpm(),
    // With an addon that loads, the tools matter to the next build only.
    ...tools.map((check) => ({ ...check, optional: addon.ok })),
    {
      name: 'Addon',
      ok: addon.ok,
      found: cpu ?? addon.reason,
      need: 'npx switchyard build',
    },
  ];
  if (addon.ok) {
    checks.push({ name: 'CUDA kernels', ok: addon.build.cuda, optional: true, found: cuda });
    checks.push(await checkDevices(addon.build.cuda));
  }
  for (const { name, ok, optional, found, need } of checks) {
    const mark = ok ? styleText('green', 'ok  ') : optional ? styleText('yellow', 'note') : styleText('red', 'FAIL');
    console.log(`${mark}  ${name.padEnd(12)}  ${found}${ok || !need ? '' : `; needed: ${need}`}`);
  }
  const missing = tools.filter(({ ok }) => !ok);
  if (missing.length > 0) console.log(`\nFor what is missing, type:\n  ${advice(missing).join('\n  ')}`);
  const usable = checks.every(({ ok, optional }) => ok || optional);
  console.log(usable ? '\nswitchyard is usable.' : '\nswitchyard is not usable yet.');
  return usable ? 0 : 1;
}

async function checkDevices(withCuda) {
  const name = 'Devices';
  try {
    const { listDevices } = await import('../dist/index.js');
    const devices = listDevices();
    const found = devices
      .filter(({ kind }) => withCuda || kind === 'cpu')
      .map(({ kind, name, usable, reason }) => (usable ? `${kind}: ${name}` : `${kind}: not usable: ${reason}`))
      .join('; ');
    return { name, ok: devices.some((device) => device.usable), found, need: 'one that is usable' };
  } catch (error) {
    return { name, ok: false, found: error.message, need: 'dist/, made by "npm run build" in a clone' };
  }
}

// ---------------------------------------------------------------- command line

async function main() {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        'if-missing': { type: 'boolean' },
        jobs: { type: 'string' },
        debug: { type: 'boolean' },
        verbose: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    // Node goes on with advice on arguments that begin with a dash: there are none here.
    console.error(`switchyard: ${error.message.replace(/\. To specify.*/s, '')}\n\n${usage}`);
    return 1;
  }
  const { positionals, values } = parsed;
  if (values.help) {
    console.log(usage);
    return 0;
  }
  if (positionals.length === 1 && positionals[0] === 'build') return build(values);
  if (positionals.length === 1 && positionals[0] === 'doctor') return doctor();
  console.error(
    positionals.length === 0 ? usage : `switchyard: unknown command "${positionals.join(' ')}"\n\n${usage}`,
  );
  return 1;
}

process.exitCode = await main();
