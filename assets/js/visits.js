// What was seen stays: a chip for every size and prompt visited, a key that flips between the last two. Undo and redo are the
// browser's own Back and Forward.
import { onFinished, recall } from "./completion.js";
import { facts, isKnown, named, tableOf } from "./data.js";
import { find, findAll, promptField, write } from "./dom.js";
import { onStep, rewrite, steps } from "./link.js";
import { choose } from "./modes.js";
import { go } from "./slider.js";

const MOST = 40;
const MOST_CHARACTERS = 24; // of a prompt, on a chip
const FADED = 48; // pixels at the end of a row that goes on

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
  /** @type {Completion | null} */
  #current = null;
  /** @type {Completion | null} */
  #former = null; // what the key flips to

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.list = find(element, ".chips");
    this.actions = new Map([
      ["undo", () => steps().isBack && history.back()],
      ["redo", () => steps().isForward && history.forward()],
      [
        "toggle",
        () => {
          if (this.#former) this.#choose(this.#former);
        },
      ],
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
    onFinished((visit, isShown) => this.#add(visit, isShown));
    onStep((former) => this.#return(former));
    this.#paint();
  }

  /** @param {string | undefined} name */
  #act(name) {
    this.actions.get(name ?? "")?.();
  }

  /**
   * @param {Completion} visit
   * @param {boolean} isShown
   */
  #add(visit, isShown) {
    const known = this.all.findIndex((each) => isSame(each, visit));
    if (known >= 0) this.all[known] = visit;
    else this.all = [...this.all, visit].slice(-MOST);
    if (this.#former && isSame(this.#former, visit)) this.#former = visit;
    if (isShown || (this.#current && isSame(this.#current, visit))) this.#arrive(visit);
    else this.#paint();
  }

  /** @param {Completion[]} before */
  putInFront(before) {
    const others = before.filter((visit) => isOfModel(visit) && !this.all.some((each) => isSame(each, visit)));
    this.all = [...others, ...this.all].slice(-MOST);
    this.#paint();
  }

  /**
   * Another one than before is the current one, perhaps.
   * @param {Completion} visit
   */
  #arrive(visit) {
    if (this.#current && !isSame(this.#current, visit)) this.#former = this.#current;
    this.#current = visit;
    this.#paint();
  }

  #clear() {
    this.all = this.#current ? [this.#current] : [];
    this.#former = null;
    this.#paint();
  }

  /** @param {Completion} visit */
  #choose(visit) {
    recall(visit);
    rewrite(visit);
    this.#arrive(visit);
  }

  /**
   * Back or Forward: what was seen there is shown again, or written anew where it is known no more.
   * @param {Pick<Completion, "prompt" | "percent"> & { mode: string }} former
   */
  #return(former) {
    const known = this.all.find((each) => isSame(each, former));
    if (known) {
      recall(known);
      return this.#arrive(known);
    }
    if (former.prompt) write(promptField(), former.prompt);
    if (choose(former.mode)) go(former.percent);
    this.#paint();
  }

  #paint() {
    while (this.list.childElementCount > this.all.length) this.list.lastChild?.remove();
    for (const [i, visit] of this.all.entries()) this.#paintChip(visit, i);
    /** @type {Record<string, boolean>} */
    const disabled = {
      undo: !steps().isBack,
      toggle: !this.#former,
      redo: !steps().isForward,
      clear: this.all.length < 2,
    };
    for (const button of this.buttons) button.disabled = disabled[button.dataset.do ?? ""];
    this.element.dataset.visits = String(this.all.length);
    this.#reveal();
  }

  /** Scrolls the row, and nothing else, to the current chip. */
  #reveal() {
    const chip = this.list.querySelector("[aria-current]")?.getBoundingClientRect();
    const { left, right } = this.list.getBoundingClientRect();
    if (chip && chip.left < left) this.list.scrollLeft -= left - chip.left;
    if (chip && chip.right > right - FADED) this.list.scrollLeft += chip.right - (right - FADED);
  }

  /**
   * @param {Completion} visit
   * @param {number} i
   */
  #paintChip(visit, i) {
    const item = this.list.children[i] ?? this.list.appendChild(document.createElement("li"));
    const chip = item.querySelector("button") ?? item.appendChild(document.createElement("button"));
    const table = tableOf(visit.mode);
    const size = named(visit.percent, table);
    chip.type = "button";
    const prompt = shortened(visit.prompt);
    chip.replaceChildren(Object.assign(document.createElement("b"), { textContent: size }), ` ${prompt}`);
    const facet = [table.mode, ...facts(visit.percent, table)].join(", ");
    chip.title = [facet, `${visit.prompt}${visit.shown === "" ? "\n" : ""}${visit.text}`.slice(0, 300)].join("\n");
    chip.setAttribute("aria-label", `Back to ${size}, ${facet}: ${prompt}`);
    if (visit === this.#current) chip.setAttribute("aria-current", "true");
    else chip.removeAttribute("aria-current");
    chip.onclick = () => this.#choose(visit);
  }
}

/** @param {Completion} visit */
const isOfModel = ({ percent, mode }) => isKnown(mode) && tableOf(mode).rows.some((row) => row.percent === percent);

/** @typedef {Pick<Completion, "prompt" | "percent"> & { mode: string }} Place */

/**
 * Whether two are of one size and prompt; the later text is kept.
 * @param {Place} a
 * @param {Place} b
 */
const isSame = (a, b) => a.percent === b.percent && a.mode === b.mode && a.prompt === b.prompt;

/** @param {string} prompt */
function shortened(prompt) {
  const line = prompt.trim().replace(/\s+/g, " ");
  return line.length > MOST_CHARACTERS ? `${line.slice(0, MOST_CHARACTERS - 1).trimEnd()}…` : line;
}

/**
 * What a key means here, if anything.
 * @param {KeyboardEvent} event
 */
function shortcut({ key, ctrlKey, metaKey, altKey, shiftKey }) {
  const control = ctrlKey || metaKey;
  if (control && key.toLowerCase() === "z") return shiftKey ? "redo" : "undo";
  return !control && !altKey && key.toLowerCase() === "t" ? "toggle" : null;
}
