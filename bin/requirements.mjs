// What building the addon needs: what is there, whether it will do, and what to type for what is not.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));

export const atLeast = (version, minimum) => {
  const [a, b] = [version, minimum].map((text) => text.split('.').map(Number));
  for (let i = 0; i < b.length; i++) if ((a[i] ?? 0) !== b[i]) return (a[i] ?? 0) > b[i];
  return true;
};

export const run = (command, args, options) => spawnSync(command, args, { encoding: 'utf8', ...options });

const onPath = (name) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => folder !== '' && existsSync(join(folder, name)));

export function checkNode() {
  const minimum = manifest.engines.node.replace('>=', '');
  const ok = atLeast(process.versions.node, minimum);
  return { name: 'Node', ok, found: process.versions.node, need: `${minimum} or later` };
}

export function checkCMake() {
  const found = run('cmake', ['--version']).stdout?.match(/version (\d[\d.]*)/)?.[1];
  return {
    name: 'CMake',
    ok: found !== undefined && atLeast(found, '3.22'),
    found: found ?? 'not found',
    need: '3.22 or later',
    tool: 'cmake',
  };
}

export function checkMake() {
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

export function checkCompiler() {
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
  'apt-get': { update: 'apt-get update', install: 'apt-get install', compiler: 'g++', os: 'linux' },
  dnf: { install: 'dnf install', compiler: 'gcc-c++', os: 'linux' },
  apk: { install: 'apk add', compiler: 'g++', os: 'linux' },
  // The compiler of macOS comes with Xcode's command-line tools, and make with it.
  brew: { install: 'brew install', os: 'darwin' },
};

function installing(name, tools) {
  const { update, install, compiler } = managers[name];
  const packages = tools.map((tool) => (tool === 'compiler' ? compiler : tool)).filter(Boolean);
  // Alpine splits the C library's headers off.
  if (name === 'apk' && tools.includes('compiler')) packages.push('musl-dev', 'linux-headers');
  if (packages.length === 0) return undefined;
  const sudo = name !== 'brew' && process.getuid?.() !== 0 ? 'sudo ' : '';
  return [...(update ? [update] : []), `${install} ${packages.join(' ')}`].map((line) => sudo + line).join(' && ');
}

/** What to type for the tools that are missing, with the package manager that is there. */
export function advice(missing) {
  let tools = missing.map(({ tool }) => tool).filter(Boolean);
  const lines = [];
  if (process.env.CXX && tools.includes('compiler')) {
    lines.push('unset CXX   (or set it to such a compiler)');
    tools = tools.filter((tool) => tool !== 'compiler');
  }
  if (process.platform === 'darwin' && tools.some((tool) => tool === 'compiler' || tool === 'make')) {
    lines.push('xcode-select --install');
    tools = tools.filter((tool) => tool !== 'make');
  }
  if (tools.length > 0) {
    const usual = Object.keys(managers).filter((name) => managers[name].os === process.platform);
    const present = usual.find(onPath);
    const commands = (present ? [present] : usual).map((name) => installing(name, tools)).filter(Boolean);
    if (commands.length > 1) lines.push('one of these, whichever package manager is yours:');
    lines.push(...commands);
  }
  if (missing.some(({ name, found }) => name === 'CMake' && found !== 'not found'))
    lines.push('(if that CMake is still too old: https://cmake.org/download, or pip install cmake)');
  if (missing.some(({ name }) => name === 'Node')) lines.push('a newer Node: https://nodejs.org');
  return lines;
}
