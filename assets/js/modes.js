// What may be spent: directions, bits, or both. The server makes codes while the page runs; once they are there, the modes
// that spend bits can be chosen.
import { addModes, full, inMegabytes, isKnown, megabytes, mode, table, use } from "./data.js";
import { find, findAll, pause } from "./dom.js";
import { ask } from "./server.js";
import { position, settle, stand } from "./slider.js";

const PATIENCE_MS = 10_000; // the page opens with directions meanwhile
const WAIT_MS = 2000; // between two looks at what is being made
/** @type {((mode: Mode) => void)[]} */
const listeners = [];
/** @type {ModesData} */
let latest = { state: "waiting", told: "", modes: {} };
/** @type {Promise<void> | null} */
let first = null;
let last = Promise.resolve(); // answer, after which nothing more comes
/** @type {Map<string, number>} */
const left = new Map(); // the size at which the visitor left each mode
let repaint = () => {};
let tell = () => {};
/** Tells the server the mode in force; its answer is the sizes that can be compared. */
export const retell = () => tell();

/**
 * Calls when another mode is in force.
 * @param {(mode: Mode) => void} act
 */
export const onMode = (act) => listeners.push(act);

/** Waits for the first answer on what there is; what is being made is asked for again and again from then on. */
export function known() {
  first ??= look().then(watch);
  return first;
}

async function look() {
  latest = (await ask("acip/modes", PATIENCE_MS)) ?? latest;
  addModes(latest.modes);
  repaint();
}

function watch() {
  const again = async () => {
    while (latest.state === "waiting" || latest.state === "running") {
      await pause(WAIT_MS);
      await look();
    }
  };
  last = again();
}

/** Waits until everything that is being made is there. */
export async function allKnown() {
  await known();
  await last;
}

/**
 * Another mode is in force from now on, where the visitor left it; at its own opening size if that was never. Nothing runs.
 * @param {string} name
 * @returns whether there is such a mode
 */
export function choose(name) {
  if (!isKnown(name)) return false;
  if (name === mode()) return true;
  left.set(mode(), position());
  const before = position() === full.percent ? null : megabytes(position());
  use(name);
  document.documentElement.dataset.spend = name;
  stand(left.get(name) ?? (table.known && table.opening) ?? nearest(before));
  for (const act of listeners) act(mode());
  repaint();
  tell();
  return true;
}

/**
 * The size that takes as many megabytes as one of another mode; for modes of which nobody asked what they know.
 * @param {number | null} size in megabytes; null for the full model
 */
function nearest(size) {
  if (size === null) return full.percent;
  const gap = (/** @type {Row} */ row) => Math.abs(megabytes(row.percent) - size);
  return table.rows.reduce((a, b) => (gap(b) < gap(a) ? b : a)).percent;
}

/** @param {Part} part */
export function spend(part) {
  const { element } = part;
  const radios = findAll(element, "input[type=radio]", HTMLInputElement);
  const told = find(element, ".told");
  document.documentElement.dataset.spend = mode();
  tell = () => part.trigger("input");
  repaint = () => {
    for (const radio of radios) {
      radio.disabled = !isKnown(radio.value);
      radio.checked = radio.value === mode();
    }
    const note = radios.find((radio) => radio.checked)?.dataset.note ?? "";
    told.textContent = latest.told || `${note} ${free()}`.trim();
    element.dataset.modes = latest.state;
    for (const said of findAll(document, "[data-while]"))
      said.hidden = !said.dataset.while?.split(" ").includes(latest.state);
  };
  for (const radio of radios) {
    radio.addEventListener("change", () => {
      choose(radio.value);
      settle();
    });
  }
  repaint();
  known();
}

/** Why nothing is lost on a part of the track. */
function free() {
  const { exact, published, source } = table;
  if (exact === undefined || published === undefined || exact > 0.9 * published) return "";
  const file = source ? `the source file (${inMegabytes(source / 1e6)})` : "its source";
  return `From ${inMegabytes(exact / 1e6)} on nothing is lost: ${file} holds no more.`;
}
