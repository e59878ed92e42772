// What perplexity can be shown against in the chart.
import { full, rowAt, smallest, table } from "./data.js";

/** @typedef {{ key: string, title: string, of: (percent: number) => number }} Axis what perplexity is shown against */

/** @type {Axis} the one that the figure is drawn against at first */
export const RATIO = { key: "ratio", title: "size of the compressed layers, %", of: (percent) => percent };
/** @type {Axis} where bits are spent */
export const MEGABYTES = {
  key: "megabytes",
  title: "size of the whole model, MB",
  of: (percent) => (percent / 100) * ((table.published ?? 0) / 1e6),
};
/** @type {Axis} */
export const BYTES = {
  key: "bytes",
  title: "size of the whole model, MB",
  of: (percent) => between(percent, (row) => row.bytes / 1e6),
};
/** @type {Axis[]} */
export const AXES = [
  RATIO,
  BYTES,
  {
    key: "speed",
    title: "tokens per second on this machine",
    of: (percent) => between(percent, (row) => row.speed ?? NaN),
  },
];

/**
 * A row's value at any percentage, between two of them on a straight line.
 * @param {number} percent
 * @param {(row: Row) => number} value
 */
function between(percent, value) {
  const low = Math.min(Math.max(Math.floor(percent), smallest.percent), full.percent - 1);
  const [a, b] = [low, low + 1].map((each) => value(rowAt(each)));
  return a + (b - a) * (percent - low);
}
