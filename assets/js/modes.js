// What may be spent: directions, bits, or both. The server makes codes while the page runs; once they are there, the modes
// that spend bits can be chosen.
import { addModes, full, inMegabytes, isKnown, megabytes, mode, rowAt, table, use, worse } from "./data.js";
import { find, findAll, pause } from "./dom.js";
import { fixed } from "./numbers.js";
import { follow, position, settle, stand } from "./slider.js";

const WAIT_MS = 2000; // between two looks at what is being made
/** @type {((mode: Mode) => void)[]} */
const listeners = [];
/** @type {ModesData} */
let latest = { state: "waiting", told: "", modes: {} };
/** @type {Promise<void> | null} */
let first = null;
let repaint = () => {};
let tell = () => {};

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
  const answer = await fetch("acip/modes", { cache: "no-store" }).catch(() => null);
  latest = (answer?.ok && (await answer.json().catch(() => null))) || latest;
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
  again();
}

/**
 * Another mode is in force from now on, at about the same size; nothing runs.
 * @param {string} name
 * @returns whether there is such a mode
 */
export function choose(name) {
  if (!isKnown(name)) return false;
  if (name === mode()) return true;
  const before = megabytes(position());
  const wasFull = position() === full.percent;
  use(name);
  document.documentElement.dataset.spend = name;
  stand(wasFull ? full.percent : nearest(before));
  for (const act of listeners) act(mode());
  repaint();
  tell();
  return true;
}

/** @param {number} size in megabytes */
function nearest(size) {
  const gap = (/** @type {Row} */ row) => Math.abs(megabytes(row.percent) - size);
  return table.rows.reduce((a, b) => (gap(b) < gap(a) ? b : a)).percent;
}

/** @param {Part} part */
export function spend(part) {
  const { element } = part;
  const radios = findAll(element, "input[type=radio]", HTMLInputElement);
  const told = find(element, ".told");
  const size = find(element, "output");
  document.documentElement.dataset.spend = mode();
  tell = () => part.trigger("input");
  const show = () => {
    const row = rowAt(position());
    size.hidden = table.published === undefined;
    if (!size.hidden) size.replaceChildren(...worded(row));
    const slider = document.querySelector("#size input[type=range]");
    if (size.hidden) slider?.removeAttribute("aria-valuetext");
    else slider?.setAttribute("aria-valuetext", size.textContent);
  };
  repaint = () => {
    for (const radio of radios) {
      radio.disabled = !isKnown(radio.value);
      radio.checked = radio.value === mode();
    }
    told.textContent = latest.told || free();
    told.hidden = !told.textContent;
    element.dataset.modes = latest.state;
  };
  for (const radio of radios) {
    radio.addEventListener("change", () => {
      choose(radio.value);
      settle();
    });
  }
  follow(show);
  repaint();
  show();
  known();
}

/**
 * The slider's size: megabytes, their share, and what they cost.
 * @param {Row} row
 */
function worded(row) {
  const size = document.createElement("b");
  size.textContent = inMegabytes(megabytes(row.percent));
  const share = `${fixed(row.percent, Number.isInteger(row.percent) ? 0 : 1)} % of the published`;
  const published = inMegabytes((table.published ?? 0) / 1e6);
  const enough = row.bytes < 0.98e6 * megabytes(row.percent) ? `: ${inMegabytes(row.bytes / 1e6)} are enough` : "";
  return [size, ` · ${share} ${published} · ${worse(row)}${row.relative === 1 ? enough : ""}`];
}

/** Why nothing is lost on a part of the track. */
function free() {
  const { exact, published, source } = table;
  if (exact === undefined || published === undefined || exact > 0.9 * published) return "";
  const file = source ? `the source file (${inMegabytes(source / 1e6)})` : "its source";
  return `From ${inMegabytes(exact / 1e6)} on nothing is lost: the packager of ${file} had quantized the weights, which fit as they are.`;
}
