// Numbers for people.

/**
 * @param {number} value
 * @param {number} digits behind the point
 */
export const fixed = (value, digits) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** @param {number | undefined} value */
export function perplexity(value) {
  if (value === undefined) return "–";
  return value >= 1e5 ? value.toExponential(1) : fixed(value, value < 100 ? 1 : 0);
}
