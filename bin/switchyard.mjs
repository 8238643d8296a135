#!/usr/bin/env node
// The command `switchyard`: builds the native addon (also as this package's install script) and says what is wrong
// when it cannot. Plain JavaScript, because it runs before anything has been compiled.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join, sep } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, styleText } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const manifest = require('../package.json');
const buildFolder = join(root, 'build');
const logFile = join(buildFolder, 'build.log');

const usage = `Usage: switchyard <command>

  build [--if-missing] [--debug] [--verbose]
           Compile the native addon. --if-missing does nothing when one that loads is there, --debug makes a
           Debug build in place of the Release one, --verbose shows the compiler at work.
  doctor   Check everything the addon needs to build and to run. Exits 0 only if the package is usable.
`;

// ---------------------------------------------------------------- what a build needs

const atLeast = (version, minimum) => {
  const [a, b] = [version, minimum].map((text) => text.split('.').map(Number));
  for (let i = 0; i < b.length; i++) if ((a[i] ?? 0) !== b[i]) return (a[i] ?? 0) > b[i];
  return true;
};

const run = (command, args, options) => spawnSync(command, args, { encoding: 'utf8', ...options });

const onPath = (name) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => folder !== '' && existsSync(join(folder, name)));

function checkNode() {
  const minimum = manifest.engines.node.replace('>=', '');
  const ok = atLeast(process.versions.node, minimum);
  return { name: 'Node', ok, found: process.versions.node, need: `${minimum} or later` };
}

function checkCMake() {
  const found = run('cmake', ['--version']).stdout?.match(/version (\d[\d.]*)/)?.[1];
  return {
    name: 'CMake',
    ok: found !== undefined && atLeast(found, '3.22'),
    found: found ?? 'not found',
    need: '3.22 or later',
    tool: 'cmake',
  };
}

function checkMake() {
  const found = ['ninja', 'make'].find(onPath);
  return {
    name: 'Build tool',
    ok: found !== undefined,
    found: found ?? 'not found',
    need: 'make or ninja',
    tool: 'make',
  };
}

/** Preprocesses a small source with the compiler: that finds an old standard library as well as an old version. */
function inspectCompiler(command) {
  const [program, ...flags] = command.split(/\s+/);
  const source = `#include <atomic>
#include <concepts>
#include <span>
#ifndef __cpp_lib_atomic_wait
#error std::atomic<T>::wait is missing
#endif
_V_ __apple_build_version__ __clang_major__ __GNUC__
`;
  const result = run(program, [...flags, '-std=c++20', '-E', '-P', '-x', 'c++', '-'], { input: source });
  if (result.error) return { found: 'not found', ok: false };
  const macros = result.stdout.match(/_V_ (\S+) (\S+) (\S+)/);
  if (result.status !== 0 || !macros) return { found: 'knows no C++20 or lacks its standard library', ok: false };
  const [apple, clang, gnu] = macros.slice(1).map(Number);
  if (apple) return { found: `Apple clang ${clang}`, ok: clang >= 13 };
  return clang ? { found: `clang ${clang}`, ok: clang >= 13 } : { found: `g++ ${gnu}`, ok: gnu >= 11 };
}

function checkCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++'];
  const tried = candidates.map((command) => ({ command, ...inspectCompiler(command) }));
  const best = tried.find(({ ok }) => ok) ?? tried.find(({ found }) => found !== 'not found') ?? tried[0];
  return {
    name: 'C++ compiler',
    ok: best.ok,
    found: best.found === 'not found' ? best.found : `${best.command} (${best.found})`,
    need: `g++ 11 or clang 13, or later${process.env.CXX ? `; CXX is set to ${process.env.CXX}` : ''}`,
    tool: 'compiler',
    command: best.command,
  };
}

const managers = {
  'apt-get': { command: 'apt-get install', compiler: 'g++' },
  dnf: { command: 'dnf install', compiler: 'gcc-c++' },
  apk: { command: 'apk add', compiler: 'g++' },
  brew: { command: 'brew install' },
};

/** What to type for the tools that are missing, with the package manager that is there. */
function advice(missing) {
  let tools = missing.map(({ tool }) => tool).filter(Boolean);
  const lines = [];
  if (process.env.CXX && tools.includes('compiler')) {
    lines.push('unset CXX   (or set it to such a compiler)');
    tools = tools.filter((tool) => tool !== 'compiler');
  }
  if (tools.length > 0) {
    const present = Object.keys(managers).filter(onPath);
    for (const name of present.length > 0 ? present.slice(0, 1) : Object.keys(managers)) {
      const { command, compiler } = managers[name];
      if (name === 'brew' && tools.includes('compiler')) lines.push('xcode-select --install');
      const packages = tools.map((tool) => (tool === 'compiler' ? compiler : tool)).filter(Boolean);
      if (packages.length === 0) continue;
      // Alpine splits the C library's headers off.
      if (name === 'apk' && tools.includes('compiler')) packages.push('musl-dev', 'linux-headers');
      const sudo = name !== 'brew' && process.getuid?.() !== 0 ? 'sudo ' : '';
      lines.push(`${sudo}${command} ${packages.join(' ')}`);
    }
  }
  if (missing.some(({ name, found }) => name === 'CMake' && found !== 'not found'))
    lines.push('(if that CMake is still too old: https://cmake.org/download, or pip install cmake)');
  if (missing.some(({ name }) => name === 'Node')) lines.push('a newer Node: https://nodejs.org');
  return lines;
}

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
  return [
    `CPU: ${addon.configuration} build by ${compiler}${sets ? `, for ${sets}` : ''}; this machine uses ${cpu.isa}`,
    `CUDA: ${build.cuda ? 'built' : `not built: ${build.cudaReason}`}`,
  ];
}

/** Two installs into the same folder must not run two compilers over one build tree. */
async function lock() {
  mkdirSync(buildFolder, { recursive: true });
  const file = join(buildFolder, '.lock');
  for (;;) {
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' });
      process.on('exit', () => rmSync(file, { force: true }));
      for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (!isAlive(file)) rmSync(file, { force: true });
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
  });
  return new Promise((resolve) => {
    child.on('error', () => resolve(false));
    child.on('exit', (code) => resolve(code === 0));
  }).finally(() => closeSync(log));
}

/** CMake refuses a cache that was made in another folder or for another generator. */
function dropCache() {
  if (!existsSync(join(buildFolder, 'CMakeCache.txt'))) return false;
  for (const name of ['CMakeCache.txt', 'CMakeFiles'])
    rmSync(join(buildFolder, name), { recursive: true, force: true });
  return true;
}

/** The compiler's errors with what follows each, or else the end of the log. */
function relevantLines() {
  const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n');
  const wanted = new Set();
  lines.forEach((line, i) => {
    if (/\berror\b|fatal|undefined reference|CMake Error|Killed/i.test(line) && !/^ERR(OR|!) /.test(line))
      for (let j = i; j < Math.min(i + 4, lines.length); j++) wanted.add(j);
  });
  const picked = wanted.size > 0 ? lines.filter((_, i) => wanted.has(i)) : lines;
  return picked.slice(-30).map((line) => `  ${line}`);
}

async function build({ 'if-missing': ifMissing, debug, verbose }) {
  if (ifMissing && probe().ok) return 0;
  const compiler = checkCompiler();
  const missing = [checkNode(), checkCMake(), compiler, checkMake()].filter(({ ok }) => !ok);
  if (missing.length > 0) {
    console.error('switchyard: the native addon cannot be built here. Missing:');
    for (const { name, found, need } of missing) console.error(`  ${name}: ${found}; needed: ${need}`);
    console.error('Type:');
    for (const line of advice(missing)) console.error(`  ${line}`);
    console.error('and then: npx switchyard build');
    return 1;
  }

  await lock();
  if (ifMissing && probe().ok) return 0;
  rmSync(logFile, { force: true });
  const configuration = debug ? 'Debug' : 'Release';
  const jobs = availableParallelism();
  console.error(`switchyard: compiling the native addon (${configuration}, ${jobs} jobs; log: ${logFile})`);
  const options = ['--config', configuration];
  // A CXX with arguments ("ccache g++") is CMake's to split; cmake-js would quote it whole.
  if (!compiler.command.includes(' ')) options.push('--cc', compiler.command, '--cxx', compiler.command);
  const configure = () => cmakeJs('configure', options, verbose);
  const done =
    ((await configure()) || (dropCache() && (await configure()))) &&
    (await cmakeJs('build', [...options, '--parallel', String(jobs)], verbose));
  if (!done) {
    console.error('switchyard: the build failed.');
    if (!verbose) console.error(`${relevantLines().join('\n')}\nThe whole log: ${logFile}`);
    return 1;
  }
  // `bindings` looks into Debug before Release: an old one there would hide the new build.
  rmSync(join(buildFolder, debug ? 'Release' : 'Debug', 'switchyard.node'), { force: true });
  const addon = probe(configuration);
  if (!addon.ok) {
    console.error(`switchyard: the addon was built but does not load: ${addon.reason}`);
    return 1;
  }
  console.error(summary(addon).join('\n'));
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
  const checks = [
    checkNode(),
    checkNpm(),
    // With an addon that loads, the tools matter to the next build only.
    ...tools.map((check) => ({ ...check, optional: addon.ok })),
    {
      name: 'Addon',
      ok: addon.ok,
      found: addon.ok ? summary(addon).join('; ') : addon.reason,
      need: 'npx switchyard build',
    },
  ];
  if (addon.ok) checks.push(await checkDevices());
  for (const { name, ok, optional, found, need } of checks) {
    const mark = ok ? styleText('green', 'ok  ') : optional ? styleText('yellow', 'note') : styleText('red', 'FAIL');
    console.log(`${mark}  ${name.padEnd(12)}  ${found}${ok ? '' : `; needed: ${need}`}`);
  }
  const missing = tools.filter(({ ok }) => !ok);
  if (missing.length > 0) console.log(`\nFor what is missing, type:\n  ${advice(missing).join('\n  ')}`);
  const usable = checks.every(({ ok, optional }) => ok || optional);
  console.log(usable ? '\nswitchyard is usable.' : '\nswitchyard is not usable yet.');
  return usable ? 0 : 1;
}

async function checkDevices() {
  const name = 'Devices';
  try {
    const { listDevices } = await import('../dist/index.js');
    const devices = listDevices();
    const found = devices.map((d) => `${d.kind} ${d.name}${d.usable ? '' : ` (not usable: ${d.reason})`}`).join('; ');
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
        debug: { type: 'boolean' },
        verbose: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    console.error(`switchyard: ${error.message}\n\n${usage}`);
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
