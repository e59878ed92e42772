// Tokens per second at every size, once somebody has asked for them.
import { tableOf } from "./data.js";
import { receive } from "./part.js";
import { repaint } from "./slider.js";

/** @type {SpeedMessage} */
let latest = { run: 0, state: "", status: "", mode: "directions", speeds: {} };
/** @type {((message: SpeedMessage) => void)[]} */
const listeners = [];
let ask = () => {};

/** What is known so far. */
export const speed = () => latest;

/** Measures it. */
export const measure = () => ask();

/**
 * Calls with every message about it.
 * @param {(message: SpeedMessage) => void} act
 */
export const onSpeed = (act) => listeners.push(act);

/**
 * The part of the page that asks the server for it.
 * @param {Part<SpeedMessage>} part
 */
export function connect(part) {
  ask = () => part.trigger("tick");
  receive(part, (message) => {
    latest = message;
    interpolate(message.speeds, tableOf(message.mode));
    for (const act of listeners) act(message);
    repaint();
  });
}

/**
 * Fills in the rows; between two sizes that were measured speeds lie on a straight line.
 * @param {Record<string, number>} speeds
 * @param {import("./data.js").Table} table
 */
function interpolate(speeds, table) {
  const known = Object.entries(speeds).map(([percent, value]) => ({ percent: Number(percent), value }));
  known.sort((a, b) => a.percent - b.percent);
  for (const row of known.length ? table.rows : []) {
    const above = known.find(({ percent }) => percent >= row.percent) ?? known[known.length - 1];
    const below = known[Math.max(known.indexOf(above) - 1, 0)];
    const share = above === below ? 0 : (row.percent - below.percent) / (above.percent - below.percent);
    row.speed = below.value + (above.value - below.value) * share;
  }
}
