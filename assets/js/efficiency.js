// What the size under the slider costs to run, against the full model.
import { full, mode, named, rowAt, table } from "./data.js";
import { find, findAll } from "./dom.js";
import { follow, position } from "./slider.js";
import { measure, onSpeed, speed } from "./speed.js";

/** @param {number} value */
const number = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
/** @param {number} value */
const scaled = (value) => (value >= 1e9 ? `${number(value / 1e9)} G` : `${number(value / 1e6)} M`);
/** @type {["parameters" | "bytes" | "flops" | "speed", (value: number) => string][]} */
const COSTS = [
  ["parameters", scaled],
  ["bytes", (value) => number(value / 1e6)],
  ["flops", scaled],
  ["speed", number],
];

/** @param {Part} part */
export function efficiency({ element }) {
  const status = find(element, ".status");
  const button = find(element, "[data-do=time]", HTMLButtonElement);
  const paint = () => {
    const row = rowAt(position());
    find(element, ".label").textContent =
      `What ${named(row.percent)}${mode() === "directions" ? " of the layers" : ""} costs to run`;
    find(element, ".next").textContent = bought(row);
    for (const [key, worded] of COSTS) {
      const [cost, most] = [row[key], (key === "bytes" && table.published) || full[key]];
      const isKnown = cost !== undefined && most !== undefined;
      const words = isKnown ? [worded(cost), worded(most), `${((100 * cost) / most).toFixed(0)} %`] : ["–", "–", "–"];
      for (const [i, cell] of findAll(element, `[data-key=${key}] td`).entries()) cell.textContent = words[i];
    }
  };
  const announce = (/** @type {SpeedMessage} */ message) => {
    status.textContent = message.status;
    button.disabled = message.state === "running";
  };
  button.addEventListener("click", measure);
  onSpeed(announce);
  announce(speed());
  follow(paint);
  paint();
}

/**
 * What one more megabyte would bring.
 * @param {Row} row
 */
function bought({ next_megabyte: share }) {
  if (!share) return "Nothing is left to buy: no further byte would change what the model writes.";
  return `The next megabyte buys ${number(100 * share)} % of the perplexity, as predicted.`;
}
