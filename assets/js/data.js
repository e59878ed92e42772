// What the page's server says about its model, once: one JSON value in the page's head; and of the modes that spend bits, as
// soon as they are there. The table in force is that of the mode; whoever imports it sees the present one.
import { find } from "./dom.js";
import { fixed } from "./numbers.js";

/** @type {PageData} */
export const data = JSON.parse(find(document, "#acip-data").textContent);

/** @typedef {Partial<ModeData> & { mode: Mode, rows: Row[] }} Table of a mode; `published` is there where it spends bits */

/** @type {Map<string, Table>} */
const tables = new Map([
  ["directions", { mode: "directions", rows: data.rows, known: data.known, opening: data.opening }],
]);

export let table = /** @type {Table} */ (tables.get("directions"));
/** Rows of the table in force by percent. */
export let rows = new Map(table.rows.map((row) => [row.percent, row]));
export let smallest = table.rows[0];
export let full = table.rows[table.rows.length - 1];

/** @returns {Mode} what may be spent */
export const mode = () => table.mode;

/** @param {string} name of a mode */
export const isKnown = (name) => tables.has(name);

/** @param {Partial<Record<Mode, ModeData>>} modes that are there now */
export function addModes(modes) {
  for (const [name, found] of Object.entries(modes)) tables.set(name, { ...found, mode: /** @type {Mode} */ (name) });
}

/** @param {string} name of a mode that is known: its table is in force from now on */
export function use(name) {
  table = tables.get(name) ?? table;
  rows = new Map(table.rows.map((row) => [row.percent, row]));
  [smallest, full] = [table.rows[0], table.rows[table.rows.length - 1]];
}

/**
 * The row of a size, or the one that comes nearest.
 * @param {number} percent
 */
export const rowAt = (percent, of = table) => (of === table && rows.get(percent)) || of.rows[nearestIndex(percent, of)];

/**
 * @param {number} percent
 * @returns the number of the row that comes nearest; the full model for what is no number
 */
export function nearestIndex(percent, of = table) {
  if (!Number.isFinite(percent)) return of.rows.length - 1;
  let best = 0;
  for (const [i, row] of of.rows.entries()) {
    if (Math.abs(row.percent - percent) < Math.abs(of.rows[best].percent - percent)) best = i;
  }
  return best;
}

/**
 * Megabytes that a size allows; where bits are spent fewer may be enough.
 * @param {number} percent
 */
export const megabytes = (percent, of = table) =>
  (of.published === undefined ? rowAt(percent, of).bytes : (percent / 100) * of.published) / 1e6;

/** @param {number} value */
export const inMegabytes = (value) => `${fixed(value, value < 1 ? 3 : value < 10 ? 2 : value < 100 ? 1 : 0)} MB`;

/**
 * A size for people.
 * @param {number} percent
 */
export const named = (percent, of = table) =>
  of.published === undefined ? `${percent} %` : inMegabytes(megabytes(percent, of));

/** @param {string} name of a mode */
export const tableOf = (name) => tables.get(name) ?? table;

/**
 * What is known of a size beforehand, in words: its megabytes, or their share where these are its name; then how much
 * worse it is.
 * @param {number} percent
 */
export function facts(percent, of = table) {
  const row = rowAt(percent, of);
  const [value, more] = worse(row, of);
  const size = of.published === undefined ? inMegabytes(row.bytes / 1e6) : `${percent} %`;
  return [size, ...(value === "–" ? [] : [`${value} ${more}`])];
}

/**
 * Perplexity ÷ the full model's, of the worse corpus; undefined where nothing was measured.
 * @param {Row} row
 */
export function multiple(row, of = table) {
  if (row.relative !== null) return row.relative;
  const base = of.rows[of.rows.length - 1].perplexity;
  const found = Object.entries(row.perplexity).map(([corpus, value]) => value / base[corpus]);
  return found.length ? Math.max(...found) : undefined;
}

/**
 * Whether a size is the original model, bit for bit.
 * @param {Row} row
 */
export const isExact = (row, of = table) =>
  row.percent === of.rows[of.rows.length - 1].percent || row.bytes >= (of.exact ?? Number.POSITIVE_INFINITY);

/**
 * How much worse a size is: the multiple of the original's perplexity, and what is to be said of it.
 * @param {Row} row
 * @returns {[value: string, more: string]}
 */
export function worse(row, of = table) {
  const value = multiple(row, of);
  const enough = row.bytes < 0.98e6 * megabytes(row.percent, of) ? `: ${inMegabytes(row.bytes / 1e6)} are enough` : "";
  if (isExact(row, of)) return ["1.00 ×", `nothing is lost${enough}`];
  if (value === undefined) return ["–", "not measured"];
  return [`${fixed(value, value < 100 ? 2 : 0)} ×`, `the perplexity${row.predicted ? ", predicted" : ""}${enough}`];
}
