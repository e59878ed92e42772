// The address bar carries prompt, size and settings: whoever opens a shared link sees the same screen. Every other size or
// prompt is a step of the browser's history, which Back and Forward walk through.
import { data, full, isKnown, mode, table } from "./data.js";
import { note } from "./dom.js";
import { allKnown, choose, retell } from "./modes.js";
import { go, place, position, show } from "./slider.js";

/** @typedef {string | number | boolean} Value of an input */

const MOST = 4000; // characters of a prompt; longer ones are left out, and kept with the step of the history alone
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
  ["penalty", 1, 2],
];
const COMPARED = "compare"; // the sizes side by side
const SPENDING_BITS = ["bits", "both"];
const [SIZE, MODE] = ["size", "mode"].map((name) => PARTS.findIndex((part) => part[0] === name));
let written = "";
/** @type {Value | null} */
let latest = null;
let step = history.state?.acip ?? 0; // of those that this page has made
let lastStep = step;
/** @type {((former: { prompt: string, percent: number, mode: string }) => void)[]} */
const listeners = [];

/** The latest prompt that was sent. */
export const asked = () => latest;

/** Whether the address is as it was written here, and no other link was pasted over it. */
export const isWritten = () => location.hash === written;

/** Whether all that is shown is in the address: a prompt may be too long for a link. */
export const isWhole = () => history.state?.prompt === undefined;

/**
 * The prompt of the step that the browser is at.
 * @returns {string | null}
 */
const promptAt = () => current().get("prompt") ?? history.state?.prompt ?? null;

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
  if (link.has(COMPARED)) retell();
  const found = PARTS.map((part, i) => parsed(link.get(part[0]), part, inputs[i]));
  if (!isWhole()) found[0] = history.state.prompt; // a reload
  const wanted = link.has("size") ? Number(found[SIZE]) : (table.opening ?? full.percent);
  found[SIZE] = place(show(isThere || !link.has("size") ? wanted : position()));
  found[MODE] = mode();
  if (!isThere && link.has("size") && SPENDING_BITS.includes(asked)) later(asked, wanted, link.get(COMPARED));
  const model = link.get("model");
  if (model && model !== data.model)
    note(`This link was made with ${model.slice(0, 100)}; this page runs ${data.model}.`);
  return found;
}

/**
 * A size that the link has of a mode which is not there (yet): shown once it is, unless the visitor has moved on.
 * @param {string} name of the mode
 * @param {number} percent
 * @param {string | null} compared
 */
async function later(name, percent, compared) {
  const line = note("The size of this link takes bits; it is shown as soon as they can be spent.");
  const [before, at] = [mode(), position()];
  await allKnown();
  if (!isKnown(name)) {
    line.textContent = "The size of this link takes bits, and here none can be spent.";
    return;
  }
  line.remove();
  if (mode() !== before || position() !== at) return;
  const link = current();
  link.set("mode", name);
  link.set("size", String(percent));
  if (compared !== null) link.set(COMPARED, compared);
  put(link); // no step: it is what was asked for
  choose(name);
  go(percent);
}

/**
 * @param {string | null} text
 * @param {[name: string, low: number, high: number]} part
 * @param {Value} before
 */
function parsed(text, [name, low, high], before) {
  if (text === null) return before;
  if (name === "prompt") return text.slice(0, MOST);
  if (name === "chat") return text === "1" && data.chat; // a link of another model may have it
  if (name === "mode") return text;
  const number = Number(text);
  return text.trim() !== "" && Number.isFinite(number) ? Math.min(Math.max(number, low), high) : before;
}

/**
 * The page has a base address, so a hash alone would drop what stands before it, and plots lose their clipping by that.
 * @param {URLSearchParams} link
 * @param {string} [prompt] that is too long for it
 */
function put(link, prompt = history.state?.prompt, isStep = false) {
  written = `#${link}`;
  if (isStep) lastStep = ++step;
  const [state, address] = [{ ...history.state, acip: step, prompt }, location.pathname + location.search + written];
  if (isStep) history.pushState(state, "", address);
  else history.replaceState(state, "", address);
}

/**
 * Writes a link and its prompt; another size or prompt than before is another step. A link that was opened leaves open what
 * it does not have.
 * @param {URLSearchParams} link
 * @param {string} prompt
 */
function putWith(link, prompt) {
  const before = current();
  const parts = [[promptAt(), prompt || null], ...["size", "mode"].map((name) => [before.get(name), link.get(name)])];
  const isStep = parts.some(([was, is]) => (written !== "" || was !== null) && was !== is);
  const isLong = prompt.length > MOST;
  if (prompt && !isLong) link.set("prompt", prompt);
  else link.delete("prompt");
  put(link, isLong ? prompt : undefined, isStep);
}

/** Whether Back and Forward stay within this page. */
export const steps = () => ({ isBack: step > 0, isForward: step < lastStep });

/**
 * Calls with what the address says after Back and Forward.
 * @param {(former: { prompt: string, percent: number, mode: string }) => void} act
 */
export const onStep = (act) => listeners.push(act);

/**
 * Writes inputs that are sent into the link, and hands them on.
 * @param {Value[]} inputs
 */
export function write(...inputs) {
  [inputs[SIZE], inputs[MODE]] = [position(), mode()];
  const link = new URLSearchParams({ model: data.model });
  PARTS.forEach(([name], i) => {
    const text = name === "chat" ? (inputs[i] ? "1" : "") : String(inputs[i] ?? "");
    if (text && text.length <= MOST) link.set(name, text);
  });
  const [, compared] = comparedIn();
  if (compared.length) link.set(COMPARED, String(compared));
  putWith(link, String(inputs[0] ?? ""));
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
 * Inputs in the order of the link, with sizes to compare in the place of the slider's; these go into the link, too.
 * @param {Value[]} inputs
 */
export function sideBySide(...inputs) {
  const link = current();
  link.set(COMPARED, String(inputs[SIZE]));
  put(link);
  return inputs.with(MODE, mode());
}

/** The mode in force, and the sizes that its link has to compare, if it has some. */
export function comparedIn() {
  const link = current();
  const isOfMode = (link.get("mode") ?? "directions") === mode();
  return [mode(), isOfMode ? (link.get(COMPARED)?.split(",").map(Number) ?? []) : []];
}

/**
 * Writes a size of before that is shown again, as another step.
 * @param {Completion} former
 */
export function rewrite({ prompt, percent, mode }) {
  const link = current();
  if (link.get("mode") !== mode) link.delete(COMPARED);
  link.set("size", String(percent));
  link.set("mode", mode);
  putWith(link, prompt);
}

/** Leaves the model out: the link will be opened with another one. */
export function forgetModel() {
  const link = current();
  link.delete("model");
  put(link);
}

/** Another link that is pasted into this tab opens anew; a step of this page's own is shown again. */
export function listenToAddress() {
  addEventListener("popstate", ({ state }) => {
    if (state?.acip === undefined) return;
    [step, written] = [state.acip, location.hash];
    const link = current();
    const former = {
      prompt: promptAt() ?? "",
      percent: Number(link.get("size")),
      mode: link.get("mode") ?? "directions",
    };
    for (const act of listeners) act(former);
  });
  addEventListener("hashchange", () => {
    if (!isWritten()) location.reload();
  });
}
