// Runs commands for the tests that look at the package from outside, as a user would.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

interface Options {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Called with all of the standard error so far; `interrupt` sends Ctrl-C's signal. */
  onStderr?(text: string, interrupt: () => void): void;
}

export function run(command: string, args: string[], { cwd = root, env = process.env, onStderr }: Options = {}) {
  return new Promise<Outcome>((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const outcome: Outcome = { code: null, stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      outcome.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      outcome.stderr += text;
      onStderr?.(outcome.stderr, () => child.kill('SIGINT'));
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ ...outcome, code }));
  });
}

/** The same, where anything but success is a failure of the test. */
export async function succeed(command: string, args: string[], options?: Options): Promise<Outcome> {
  const outcome = await run(command, args, options);
  if (outcome.code === 0) return outcome;
  throw new Error(
    `${command} ${args.join(' ')} ended with ${outcome.code}\n${outcome.stdout.slice(-4000)}\n${outcome.stderr.slice(-4000)}`,
  );
}
