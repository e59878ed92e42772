// What the page's server says about its model, once: one JSON value in the page's head.
import { find } from "./dom.js";
import { fixed, perplexity } from "./numbers.js";

/** @type {PageData} */
export const data = JSON.parse(find(document, "#acip-data").textContent);

/** Rows of the size table by percent. */
export const rows = new Map(data.rows.map((row) => [row.percent, row]));

export const smallest = data.rows[0];
export const full = data.rows[data.rows.length - 1];

/**
 * The row at a whole percentage that the slider has.
 * @param {number} percent
 */
export const rowAt = (percent) => rows.get(percent) ?? full;

const titles = new Map(data.corpora.map(({ corpus, title }) => [corpus, title]));

/**
 * What is known of a size beforehand, in words: its megabytes, then its perplexities.
 * @param {number} percent
 */
export function facts(percent) {
  const row = rowAt(percent);
  const values = Object.entries(row.perplexity).map(
    ([corpus, value]) => `${perplexity(value)} on ${titles.get(corpus)}`,
  );
  return [`${fixed(row.bytes / 1e6, 0)} MB`, ...(values.length ? [`perplexity ${values.join(", ")}`] : [])];
}
