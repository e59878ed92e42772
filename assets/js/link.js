// The address bar carries prompt, size and settings: whoever opens a shared link sees the same screen.
import { data, mode } from "./data.js";
import { note } from "./dom.js";
import { choose } from "./modes.js";
import { place, position, show } from "./slider.js";

/** @typedef {string | number | boolean} Value of an input */

const MOST = 4000; // characters of a prompt; longer ones are left out
/**
 * Names in the link, smallest and largest value, in the order of the page's inputs.
 * @type {[name: string, low: number, high: number][]}
 */
const PARTS = [
  ["prompt", 0, 0],
  ["size", 1, 100],
  ["temperature", 0, 2],
  ["top_p", 0.05, 1],
  ["seed", 0, 2 ** 31 - 1],
  ["length", 8, 512],
  ["chat", 0, 0],
  ["mode", 0, 0],
];
const SIZE = 1; // place of the size among them
let written = "";
/** @type {Value | null} */
let latest = null;

/** The latest prompt that was sent. */
export const asked = () => latest;

/** Whether the address is as it was written here, and no other link was pasted over it. */
export const isWritten = () => location.hash === written;

const current = () => new URLSearchParams(location.hash.slice(1));

/**
 * The page's inputs as the link has them, where it does.
 * @param {Value[]} inputs
 */
export function read(inputs) {
  const link = current();
  // A size alone is one of the links from before there were modes.
  const asked = link.get("mode") ?? (link.has("size") ? "directions" : "both");
  const isThere = choose(asked);
  const found = PARTS.map((part, i) => parsed(link.get(part[0]), part, inputs[i]));
  found[SIZE] = link.has("size") ? place(show(isThere ? Number(found[SIZE]) : position())) : place(position());
  found[PARTS.length - 1] = mode();
  const model = link.get("model");
  if (model && model !== data.model)
    note(`This link was made with ${model.slice(0, 100)}; this page runs ${data.model}.`);
  return found;
}

/**
 * @param {string | null} text
 * @param {[name: string, low: number, high: number]} part
 * @param {Value} before
 */
function parsed(text, [name, low, high], before) {
  if (text === null) return before;
  if (name === "prompt") return text.slice(0, MOST);
  if (name === "chat") return text === "1";
  if (name === "mode") return text;
  const number = Number(text);
  return text.trim() !== "" && Number.isFinite(number) ? Math.min(Math.max(number, low), high) : before;
}

/**
 * The page has a base address, so a hash alone would drop what stands before it, and plots lose their clipping by that.
 * @param {URLSearchParams} link
 */
function put(link) {
  written = `#${link}`;
  history.replaceState(history.state, "", location.pathname + location.search + written);
}

/**
 * Writes inputs that are sent into the link, and hands them on.
 * @param {Value[]} inputs
 */
export function write(...inputs) {
  [inputs[SIZE], inputs[PARTS.length - 1]] = [position(), mode()];
  const link = new URLSearchParams({ model: data.model });
  PARTS.forEach(([name], i) => {
    const text = name === "chat" ? (inputs[i] ? "1" : "") : String(inputs[i] ?? "");
    if (text && text.length <= MOST) link.set(name, text);
  });
  put(link);
  latest = inputs[0];
  return inputs;
}

/**
 * Inputs of which the last two are the slider's size and what may be spent.
 * @param {Value[]} inputs
 */
export const atSize = (...inputs) => [...inputs.slice(0, -2), position(), mode()];

/**
 * Inputs of which the last is what may be spent.
 * @param {Value[]} inputs
 */
export const inMode = (...inputs) => [...inputs.slice(0, -1), mode()];

/**
 * Writes a size of before that is shown again.
 * @param {Completion} former
 */
export function rewrite({ prompt, percent, mode }) {
  const link = current();
  link.set("size", String(percent));
  link.set("mode", mode);
  if (prompt && prompt.length <= MOST) link.set("prompt", prompt);
  put(link);
}

/** Leaves the model out: the link will be opened with another one. */
export function forgetModel() {
  const link = current();
  link.delete("model");
  put(link);
}

/** Another link that is pasted into this tab opens anew. */
export function listenToAddress() {
  addEventListener("hashchange", () => {
    if (!isWritten()) location.reload();
  });
}
