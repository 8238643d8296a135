// The code that a page of docs says is run.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run } from './command.js';

const page = readFileSync(new URL('../docs/experts.md', import.meta.url), 'utf8');
const blocks = [...page.matchAll(/^## ([^\n:]*).*?(?=^## |$(?![\s\S]))/gms)].flatMap(([section, title]) =>
  [...section.matchAll(/^<!-- run -->\n+```ts\n(.*?)^```$/gms)].map(([, code]) => [title!, code!] as const),
);

/** The last line that each prints. */
const expected: Record<string, RegExp> = {
  Presets: /^\[ 16, 64 \] 8$/,
  Schedules: /^60 2 20 0\.01\d\d$/,
  'More experts': /^10( \d+){4}$/,
  'Fine-tuning': /^router\.weight$/,
};

describe('docs/experts.md', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(root, 'build', 'docs-'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('has a block in each section that is expected to have one', () => {
    expect(blocks.map(([title]) => title)).toEqual(Object.keys(expected));
  });

  it.each(blocks)('%s', async (title, code) => {
    const file = join(folder, `${title.replaceAll(' ', '-')}.ts`);
    writeFileSync(file, code);
    const { code: status, stdout, stderr } = await run(process.execPath, ['--import', 'tsx', file]);
    expect(status, stderr).toBe(0);
    expect(stdout.trimEnd().split('\n').at(-1)).toMatch(expected[title]!);
  });
});
