/** The published tarball, installed where nothing else is: it builds, is typed, and computes. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run, succeed } from './command.js';
import { lossesIn, readmeLoop } from './readme.js';

describe('the npm package', () => {
  let folder: string;
  let project: string;
  let env: NodeJS.ProcessEnv;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'switchyard package '));
    project = join(folder, 'an empty project');
    const home = join(folder, 'home');
    for (const path of [project, home]) mkdirSync(path);
    writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
    // npm hands its own settings down to what it runs; a user's shell has none of them, but the registry stays.
    const kept = Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name) || name === 'npm_config_registry');
    // The kernels are compiled, and all is optimised, by the build under test: here a build for the CPU says that it is one.
    env = { ...Object.fromEntries(kept), HOME: home, SWITCHYARD_CUDA: 'OFF', CXXFLAGS: '-O0' };
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('builds from its tarball, passes tsc --strict, and trains', { timeout: 15 * 60_000 }, async () => {
    const packed = await succeed('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder]);
    const [{ filename, files }] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
    const paths = files.map(({ path }) => path);
    for (const path of [
      'dist/index.js',
      'dist/index.d.ts',
      'bin/switchyard.mjs',
      'CMakeLists.txt',
      'cuda/kernels.cmake',
      'LICENSE',
    ])
      expect(paths).toContain(path);
    expect(paths.filter((path) => /^(test|bench|examples|node_modules|build)\/|\.node$/.test(path))).toEqual([]);

    const inProject = { cwd: project, env };
    await succeed('npm', ['install', '--no-audit', '--no-fund', join(folder, filename)], inProject);
    // Where npm has run the install script this finds the addon and does nothing.
    await succeed('npx', ['--no-install', 'switchyard', 'build', '--if-missing'], inProject);
    const doctor = await run('npx', ['--no-install', 'switchyard', 'doctor'], inProject);
    expect(doctor.code, doctor.stdout).toBe(0);
    expect(doctor.stdout).toContain('switchyard is usable');
    expect(doctor.stdout).toMatch(
      /^note {2}CUDA kernels {2}not built: switchyard was built with SWITCHYARD_CUDA=OFF$/m,
    );
    const listed = "import('switchyard').then(({ listDevices }) => console.log(JSON.stringify(listDevices()[1])))";
    expect(JSON.parse((await succeed(process.execPath, ['-e', listed], inProject)).stdout)).toMatchObject({
      kind: 'cuda',
      usable: false,
      reason:
        'switchyard was built with SWITCHYARD_CUDA=OFF. "npx switchyard build" makes the kernels where it finds the CUDA toolkit.',
    });

    writeFileSync(join(project, 'loop.ts'), readmeLoop());
    const compilerOptions = {
      target: 'ES2022',
      module: 'NodeNext',
      lib: ['ES2022', 'DOM'],
      types: [],
      strict: true,
      exactOptionalPropertyTypes: true,
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['loop.ts'] }));
    await succeed(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', project]);
    const { stdout } = await succeed(process.execPath, ['loop.js'], inProject);
    const losses = lossesIn(stdout);
    expect(losses.at(-1)).toBeLessThan(0.6 * losses[0]!);
  });

  it('says what is missing, and what to type, where there is no compiler', async () => {
    const script = join(root, 'bin', 'switchyard.mjs');
    const { code, stderr } = await run(process.execPath, [script, 'build'], { env: { PATH: folder } });
    expect(code).toBe(1);
    for (const text of ['CMake: not found', 'C++ compiler: not found', 'g++', 'cmake']) expect(stderr).toContain(text);
    expect(stderr).toContain('and then: npx switchyard build');
  });

  it.each([
    [['build', '--jobs', 'many'], '--jobs: expected an integer from 1 to 9999, got "many"'],
    [['build', '--fast'], "Unknown option '--fast'\n"],
    [['bild'], 'unknown command "bild"'],
  ])('rejects %j', async (args, message) => {
    const { code, stderr } = await run(process.execPath, [join(root, 'bin', 'switchyard.mjs'), ...args]);
    expect(code).toBe(1);
    expect(stderr).toContain(message);
  });

  describe('installed without its addon', () => {
    let installed: string;

    beforeAll(() => {
      const modules = join(folder, 'without addon', 'node_modules');
      installed = join(modules, 'switchyard');
      for (const part of ['dist', 'bin', 'package.json'])
        cpSync(join(root, part), join(installed, part), { recursive: true });
      for (const name of ['bindings', 'file-uri-to-path'])
        cpSync(join(root, 'node_modules', name), join(modules, name), { recursive: true });
    });

    it('says on import why, and what to type', async () => {
      const cwd = join(folder, 'without addon');
      const { code, stderr } = await run(process.execPath, ['-e', "import('switchyard')"], { cwd });
      expect(code).toBe(1);
      expect(stderr).toContain('MoEError: The native addon of switchyard is not built');
      for (const text of ['npx switchyard build', 'npm approve-scripts switchyard', 'npx switchyard doctor'])
        expect(stderr).toContain(text);
      expect(stderr).not.toContain('Could not locate the bindings file');
    });

    it('does not send a user to a command that npm removes when the install script fails', async () => {
      const script = join(installed, 'bin', 'switchyard.mjs');
      const { code, stderr } = await run(process.execPath, [script, 'build', '--if-missing'], {
        env: { PATH: folder },
      });
      expect(code).toBe(1);
      expect(stderr).toContain('and then install again.');
      expect(stderr).not.toContain('npx switchyard');
    });
  });
});
