// What was seen stays: a chip for every size visited, a key that flips between the last two, undo and redo.
import { onFinished, recall } from "./completion.js";
import { facts, named, tableOf } from "./data.js";
import { find, findAll } from "./dom.js";
import { rewrite } from "./link.js";

const MOST = 40;

/** @type {Visits | null} */
let shown = null;

/** @param {Part} part */
export function visits({ element }) {
  shown = new Visits(element);
}

/** All of them, in the order of the first visit. */
export const allVisits = () => shown?.all ?? [];

/**
 * Puts those of before in front; sizes that this model does not have are left out.
 * @param {Completion[]} before
 */
export const putVisits = (before) => shown?.putInFront(before);

/** @param {EventTarget | null} target */
const isTyping = (target) =>
  target instanceof Element && target.closest("textarea, select, [contenteditable], input:not([type=range])") !== null;

class Visits {
  /** @type {Completion[]} */
  all = [];
  /** @type {Completion[]} */
  #past = []; // what undo goes back to, the latest last
  /** @type {Completion[]} */
  #future = [];
  /** @type {Completion | null} */
  #current = null;

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.list = find(element, ".chips");
    this.actions = new Map([
      ["undo", () => this.#step(this.#past, this.#future)],
      ["redo", () => this.#step(this.#future, this.#past)],
      ["toggle", () => this.#toggle()],
      ["clear", () => this.#clear()],
    ]);
    this.buttons = findAll(element, "[data-do]", HTMLButtonElement);
    for (const button of this.buttons) button.addEventListener("click", () => this.#act(button.dataset.do));
    document.addEventListener("keydown", (event) => {
      const name = isTyping(event.target) ? null : shortcut(event);
      if (!name) return;
      event.preventDefault();
      this.#act(name);
    });
    onFinished((message) => this.#add(message));
    this.#paint();
  }

  /** @param {string | undefined} name */
  #act(name) {
    this.actions.get(name ?? "")?.();
  }

  /** @param {Completion} completion */
  #add({ percent, mode, prompt, text, status }) {
    const visit = { percent, mode, prompt, text, status };
    if (this.#current && isSame(this.#current, visit)) return;
    const known = this.all.find((each) => isSame(each, visit));
    if (!known) this.all = [...this.all, visit].slice(-MOST);
    this.#arrive(known ?? visit);
    this.#paint();
  }

  /** @param {Completion[]} before */
  putInFront(before) {
    this.all = [...before.filter(isOfModel), ...this.all].slice(-MOST);
    this.#paint();
  }

  /**
   * Another one than before is the current one.
   * @param {Completion} visit
   */
  #arrive(visit) {
    if (this.#current) this.#past.push(this.#current);
    this.#future = [];
    this.#current = visit;
  }

  /** @param {Completion} visit */
  #show(visit) {
    this.#current = visit;
    recall(visit);
    rewrite(visit);
    this.#paint();
  }

  /**
   * Undo and redo: what is shown goes onto the one pile, and what lies on the other is shown.
   * @param {Completion[]} from
   * @param {Completion[]} to
   */
  #step(from, to) {
    const next = from.pop();
    if (!next || !this.#current) return;
    to.push(this.#current);
    this.#show(next);
  }

  #toggle() {
    this.#step(this.#past, this.#past);
  }

  #clear() {
    this.all = this.#current ? [this.#current] : [];
    this.#past = [];
    this.#future = [];
    this.#paint();
  }

  /** @param {Completion} visit */
  #choose(visit) {
    if (visit === this.#current) return recall(visit);
    this.#arrive(visit);
    this.#show(visit);
  }

  #paint() {
    while (this.list.childElementCount > this.all.length) this.list.lastChild?.remove();
    for (const [i, visit] of this.all.entries()) this.#paintChip(visit, i);
    /** @type {Record<string, boolean>} */
    const disabled = {
      undo: !this.#past.length,
      toggle: !this.#past.length,
      redo: !this.#future.length,
      clear: this.all.length < 2,
    };
    for (const button of this.buttons) button.disabled = disabled[button.dataset.do ?? ""];
    this.element.dataset.visits = String(this.all.length);
  }

  /**
   * @param {Completion} visit
   * @param {number} i
   */
  #paintChip(visit, i) {
    const item = this.list.children[i] ?? this.list.appendChild(document.createElement("li"));
    const chip = item.querySelector("button") ?? item.appendChild(document.createElement("button"));
    const table = tableOf(visit.mode);
    const [megabytes, ...more] = facts(visit.percent, table);
    const size = named(visit.percent, table);
    chip.type = "button";
    chip.textContent = table.published === undefined ? `${size} · ${megabytes}` : `${size} · ${table.mode}`;
    chip.title = [more.join(", "), `${visit.prompt}${visit.text}`.slice(0, 300)].filter(Boolean).join("\n");
    chip.setAttribute("aria-label", `Back to ${size}: ${[megabytes, ...more].join(", ")}`);
    if (visit === this.#current) chip.setAttribute("aria-current", "true");
    else chip.removeAttribute("aria-current");
    chip.onclick = () => this.#choose(visit);
  }
}

/** @param {Completion} visit */
const isOfModel = ({ percent, mode }) => tableOf(mode).rows.some((row) => row.percent === percent);

/**
 * @param {Completion} a
 * @param {Completion} b
 */
const isSame = (a, b) => a.percent === b.percent && a.mode === b.mode && a.prompt === b.prompt && a.text === b.text;

/**
 * What a key means here, if anything.
 * @param {KeyboardEvent} event
 */
function shortcut({ key, ctrlKey, metaKey, altKey, shiftKey }) {
  const control = ctrlKey || metaKey;
  if (control && key.toLowerCase() === "z") return shiftKey ? "redo" : "undo";
  return !control && !altKey && key.toLowerCase() === "t" ? "toggle" : null;
}
