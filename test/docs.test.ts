// The code that pages of docs say is run.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, run } from './command.js';

/** The sections of a page that have code, and the last line that it prints. */
const pages: [string, Record<string, RegExp>][] = [
  [
    'experts',
    {
      Presets: /^\[ 16, 64 \] 8$/,
      Schedules: /^60 2 20 0\.01\d\d$/,
      'More experts': /^10( \d+){4}$/,
      'Fine-tuning': /^router\.weight$/,
    },
  ],
  ['routing', { Detours: /^19 0$/ }],
];

function blocksOf(page: string): (readonly [title: string, code: string])[] {
  const text = readFileSync(new URL(`../docs/${page}.md`, import.meta.url), 'utf8');
  return [...text.matchAll(/^## ([^\n:]*).*?(?=^## |$(?![\s\S]))/gms)].flatMap(([section, title]) =>
    [...section.matchAll(/^<!-- run -->\n+```ts\n(.*?)^```$/gms)].map(([, code]) => [title!, code!] as const),
  );
}

describe.each(pages)('docs/%s.md', (page, expected) => {
  const blocks = blocksOf(page);
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
