// `npm run bench -- --help`
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import cliProgress from 'cli-progress';
import { listDevices, openDevice } from '../lib/index.js';
import { countTable } from './count-table.js';
import { explain } from './explain.js';
import { benchGemm } from './gemm.js';
import { timeTable } from './gpu.js';
import { benchLayer } from './layers.js';
import { fail, type Options, readOptions } from './options.js';
import { benchPeers } from './peers.js';
import { roofline } from './plot.js';
import { json, type Row, tableHead, tableLine } from './report.js';
import { runStudies, studyLine } from './studies.js';
import { countedWorkloads, workloads } from './workloads.js';

const all = [...workloads, ...countedWorkloads];

async function onCuda({ workloads: chosen, milliseconds }: Options) {
  const gpu = listDevices().find(({ kind }) => kind === 'cuda');
  if (!gpu?.usable)
    fail(`no GPU can be used: ${gpu?.reason}\nnpm run softgpu -- npm run bench -- --device cuda counts.`);
  if (gpu.name.startsWith('Software GPU')) {
    const counted = chosen.length === 0 ? countedWorkloads : all.filter(({ name }) => chosen.includes(name));
    for (const workload of counted) console.log(countTable(workload));
    return;
  }
  using device = openDevice('cuda');
  for (const workload of all.filter(({ name }) => chosen.length === 0 || chosen.includes(name)))
    console.log(await timeTable(device, workload, milliseconds));
}

async function study({ workloads: chosen, passes, dtypes, studies, milliseconds, ...options }: Options) {
  const threads = options.threads ?? availableParallelism();
  const layers = all.filter(({ name, forwardOnly }) =>
    chosen.length > 0 ? chosen.includes(name) : name.startsWith('S') && !forwardOnly,
  );
  const jobs = layers.flatMap((workload) =>
    passes
      .filter((pass) => pass === 'forward' || !workload.forwardOnly)
      .flatMap((pass) => dtypes.map((dtype) => ({ workload, pass, dtype, threads, milliseconds }))),
  );
  const unmeasured = [...chosen.filter((name) => name === 'gemm'), ...options.ofLayersAlone];
  if (unmeasured.length > 0) fail(`${unmeasured.join(', ')}: of no study`);
  if (jobs.length === 0 && studies.some((name) => name !== 'latency')) fail('decoding has a forward alone');
  for await (const row of runStudies(studies, jobs, { threads, milliseconds }))
    console.log(options.json ? JSON.stringify(row) : studyLine(row));
}

async function onCpu(options: Options) {
  const { workloads: chosen, passes, dtypes, stages: parts, milliseconds } = options;
  const threads = options.threads ?? availableParallelism();
  using device = openDevice({ kind: 'cpu', threads });
  const bar = new cliProgress.SingleBar({
    format: '{bar} {value}/{total}  {now}',
    clearOnComplete: true,
    noTTYOutput: false,
    stream: process.stderr,
  });
  const rows: Row[] = [];
  const say = (row: Row) => {
    rows.push(row);
    // The bar is drawn over by what is printed, and drawn again.
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[2K');
    console.log(options.json ? json(row) : tableLine(row));
  };

  const wanted = (name: string, byDefault: boolean) => (chosen.length === 0 ? byDefault : chosen.includes(name));
  const measured = [...workloads, ...countedWorkloads.filter(({ name }) => wanted(name, false))].filter(({ name }) =>
    wanted(name, true),
  );
  const jobs: { label: string; run: () => Promise<Row[]> }[] = [];
  for (const dtype of dtypes)
    if (wanted('gemm', true) && passes.includes('forward'))
      jobs.push({ label: `gemm ${dtype}`, run: async () => [await benchGemm(device, dtype, milliseconds)] });
  for (const workload of measured) {
    for (const pass of passes) {
      if (pass === 'training' && workload.forwardOnly) continue;
      for (const dtype of dtypes)
        jobs.push({
          label: `${workload.name} ${pass} ${dtype}`,
          run: () => benchLayer(device, { workload, pass, dtype, parts, milliseconds }),
        });
    }
    if (options.compare)
      jobs.push({
        label: `${workload.name} by others`,
        run: () => benchPeers(device, { workload, threads, milliseconds }, (text) => console.error(text)),
      });
  }
  if (!options.json) console.log(`${device.name}, threads: ${threads}\n${tableHead()}`);
  bar.start(jobs.length, 0, { now: '' });
  for (const { label, run } of jobs) {
    bar.update({ now: label });
    (await run()).forEach(say);
    bar.increment();
  }
  bar.stop();
  if (options.plot !== undefined) writeFileSync(options.plot, roofline(rows, device.name));
}

const options = readOptions();
const onGpus = options.explain || options.device === 'cuda';
if (onGpus && options.workloads.includes('gemm')) fail('gemm is measured on the CPU alone: name a layer');
if (onGpus && options.ofCpuAlone.length > 0)
  fail(`${options.ofCpuAlone.join(', ')}: of the CPU alone; on a GPU it is a whole step in bfloat16`);
if (options.explain) {
  const explained = all.filter(({ name }) => options.workloads.length === 0 || options.workloads.includes(name));
  for (const workload of explained) console.log(explain(workload).join('\n'));
} else if (options.device === 'cuda') {
  await onCuda(options);
} else if (options.studies.length > 0) {
  await study(options);
} else {
  await onCpu(options);
}
