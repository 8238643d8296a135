// A roofline: what each layer reached over the work it does for each byte it must move, under the two limits of the
// machine, measured beside it. Both axes are logarithmic.
import type { BenchDType } from './measure.js';
import type { Row } from './report.js';

const size = { width: 960, height: 600, left: 80, right: 30, top: 50, bottom: 70 };
const colours: Record<BenchDType, string> = { float32: '#2563a8', bfloat16: '#b4501e' };

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const escaped = (text: string) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');
/** 1, 2 and 5 times powers of ten. */
const ticks = (from: number, to: number) =>
  Array.from({ length: 40 }, (_, i) => [1, 2, 5][i % 3]! * 10 ** (Math.floor(i / 3) - 3)).filter(
    (value) => value >= from && value <= to,
  );

/** An SVG of the rows that do products. */
export function roofline(rows: readonly Row[], machine: string): string {
  const points = rows
    .filter(({ gflops, bytes }) => gflops > 0 && bytes > 0)
    .map((row) => ({ ...row, intensity: row.flops / row.bytes }));
  if (points.length === 0) throw new Error('nothing was measured that a roofline could show');
  const roofs = [...new Set(points.map(({ dtype }) => dtype))].map((dtype) => {
    const own = points.filter((point) => point.dtype === dtype);
    return { dtype, peak: mean(own.map((p) => p.peakGflops)), gigabytes: mean(own.map((p) => p.peakGigabytes)) };
  });
  const intensities = [...points.map((p) => p.intensity), ...roofs.map((roof) => roof.peak / roof.gigabytes)];
  const x = { from: Math.min(...intensities) / 2, to: Math.max(...intensities) * 4 };
  const y = {
    from: Math.min(...points.map((p) => p.gflops), ...roofs.map((roof) => roof.gigabytes * x.from)) / 1.5,
    to: Math.max(...roofs.map(({ peak }) => peak)) * 1.6,
  };
  const across = (value: number) =>
    size.left + (Math.log(value / x.from) / Math.log(x.to / x.from)) * (size.width - size.left - size.right);
  const up = (value: number) =>
    size.height -
    size.bottom -
    (Math.log(value / y.from) / Math.log(y.to / y.from)) * (size.height - size.top - size.bottom);
  const at = (px: number, py: number) => `${px.toFixed(1)},${py.toFixed(1)}`;
  const text = (px: number, py: number, content: string, more = '') =>
    `<text x="${px.toFixed(1)}" y="${py.toFixed(1)}" ${more}>${escaped(content)}</text>`;

  const parts: string[] = [];
  for (const value of ticks(x.from, x.to)) {
    const px = across(value).toFixed(1);
    parts.push(`<path d="M${px},${size.top}V${size.height - size.bottom}" stroke="#e4e4e4"/>`);
    parts.push(text(Number(px), size.height - size.bottom + 18, String(value), 'text-anchor="middle"'));
  }
  for (const value of ticks(y.from, y.to)) {
    const py = up(value).toFixed(1);
    parts.push(`<path d="M${size.left},${py}H${size.width - size.right}" stroke="#e4e4e4"/>`);
    parts.push(text(size.left - 8, Number(py) + 4, String(value), 'text-anchor="end"'));
  }
  for (const { dtype, peak, gigabytes } of roofs) {
    const ridge = peak / gigabytes;
    const path = `M${at(across(x.from), up(gigabytes * x.from))}L${at(across(ridge), up(peak))}H${size.width - size.right}`;
    parts.push(`<path d="${path}" fill="none" stroke="${colours[dtype]}" stroke-width="2"/>`);
    const label = `${dtype}: ${peak.toFixed(0)} GFLOP/s, ${gigabytes.toFixed(0)} GB/s`;
    parts.push(text(size.width - size.right, up(peak) - 8, label, `text-anchor="end" fill="${colours[dtype]}"`));
  }
  for (const point of points) {
    const [px, py] = [across(point.intensity), up(point.gflops)];
    const fill = point.pass === 'forward' ? colours[point.dtype] : 'white';
    parts.push(
      `<circle cx="${px.toFixed(1)}" cy="${py.toFixed(1)}" r="5" fill="${fill}" stroke="${colours[point.dtype]}" stroke-width="2"/>`,
    );
    const stage = point.peer ?? (point.stage === 'layer' || point.workload === 'gemm' ? '' : point.stage);
    parts.push(text(px + 9, py + 4, `${point.workload} ${stage}`.trim()));
  }
  const middle = (size.height - size.bottom + size.top) / 2;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.width} ${size.height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${text(size.left, 26, `Roofline of ${machine}; filled: forward, hollow: training`, 'font-size="15"')}
${parts.join('\n')}
${text(size.width / 2, size.height - 20, 'useful floating-point operations for each byte that must move', 'text-anchor="middle"')}
${text(20, middle, 'GFLOP/s', `text-anchor="middle" transform="rotate(-90 20 ${middle})"`)}
</svg>
`;
}
