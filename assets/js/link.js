// The address bar carries prompt, size and settings: whoever opens a shared link sees the same screen.
import { data } from "./data.js";
import { note } from "./dom.js";
import { show } from "./slider.js";

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
];
let written = "";
/** @type {Value | null} */
let latest = null;

/** The latest prompt that was sent. */
export const asked = () => latest;

const current = () => new URLSearchParams(location.hash.slice(1));

/**
 * The page's inputs as the link has them, where it does.
 * @param {Value[]} inputs
 */
export function read(inputs) {
  const link = current();
  const found = PARTS.map((part, i) => parsed(link.get(part[0]), part, inputs[i]));
  found[1] = show(Number(found[1]));
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
 * Writes a size of before that is shown again.
 * @param {Completion} former
 */
export function rewrite({ prompt, percent }) {
  const link = current();
  link.set("size", String(percent));
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
  addEventListener("hashchange", () => location.hash !== written && location.reload());
}
