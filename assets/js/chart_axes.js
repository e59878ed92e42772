// What perplexity can be shown against in the chart.
import { full, rowAt, smallest, table } from "./data.js";

/** @typedef {{ key: string, title: string, short: string, of: (percent: number) => number }} Axis what perplexity is shown against */

/** @type {Axis} the one that the figure is drawn against at first */
export const RATIO = {
  key: "ratio",
  title: "size of the compressed layers, %",
  short: "of the layers, %",
  of: (percent) => percent,
};
/** @type {Axis} where bits are spent */
export const MEGABYTES = {
  key: "megabytes",
  title: "size of the whole model, MB",
  short: "size, MB",
  of: (percent) => (percent / 100) * ((table.published ?? 0) / 1e6),
};
/** @type {Axis} */
export const BYTES = {
  key: "bytes",
  title: "size of the whole model, MB",
  short: "size, MB",
  of: (percent) => between(percent, (row) => row.bytes / 1e6),
};
/** @type {Axis[]} */
export const AXES = [
  RATIO,
  BYTES,
  {
    key: "speed",
    title: "tokens per second on this machine",
    short: "tokens/s",
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

/** A small phone, or any at 200 %: few labels of the x axis have room. */
export const narrow = matchMedia("(max-width: 360px)");
const [BESIDE, DIGIT, GAP] = [85, 7, 4]; // pixels: what is not the axis, a character of a label, between two labels
const RIGHT = 16; // pixels to the right of the axis: Plotly hides labels that leave the plot
const MOST = 3; // labels that Plotly may choose there

/** @typedef {{ tickvals?: number[], ticktext?: string[], range?: [number, number] }} Ticks of a logarithmic axis */

/**
 * An x axis with as many labels as have room.
 * @param {Record<string, unknown>} drawn
 * @param {Axis} axis that it shows
 * @param {number} width of the plot
 */
export function fitted(drawn, { short }, width) {
  if (!narrow.matches) return drawn;
  const ticks = apart(drawn, width - BESIDE) ?? { tickmode: "auto", nticks: MOST, dtick: null };
  return { ...drawn, ...ticks, tickangle: 0, title: { text: short, standoff: 8, font: { size: 12 } } };
}

/**
 * Of a figure's own ticks those whose labels do not meet; the largest come first.
 * @param {Ticks} ticks
 * @param {number} length of the axis
 */
function apart({ tickvals, ticktext, range }, length) {
  if (!tickvals || !ticktext || !range) return null;
  const [low, high] = range;
  let free = length + RIGHT;
  const kept = [...tickvals.keys()].reverse().filter((i) => {
    const at = ((Math.log10(tickvals[i]) - low) / (high - low)) * length;
    const half = (DIGIT * ticktext[i].length + GAP) / 2;
    if (at + half > free) return false;
    free = at - half;
    return true;
  });
  return { tickvals: kept.map((i) => tickvals[i]), ticktext: kept.map((i) => ticktext[i]) };
}
