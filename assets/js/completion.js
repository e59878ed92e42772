// The completion beside the original's: it restarts when the slider comes to rest or something it depends on was changed,
// and only what belongs to the slider's position is shown. A text that is complete is never replaced by one that is not.
// Model output is only ever set as text.
import { data, full, mode, named, rowAt } from "./data.js";
import { differences } from "./differences.js";
import { find, promptField, write } from "./dom.js";
import { asked } from "./link.js";
import { choose, onMode } from "./modes.js";
import { fixed } from "./numbers.js";
import { receive } from "./part.js";
import { markReady } from "./readouts.js";
import { Ready } from "./ready.js";
import { follow, onRest, position, settle, show } from "./slider.js";

const ANSWER_MS = 4000; // a run says within this time at least who is ahead
const LONG = 120; // characters of a prompt that are shown

/** @type {((completion: Completion, isShown: boolean) => void)[]} */
const listeners = [];
/** @type {Pane | null} */
let pane = null;

/** @param {Part<CompletionMessage>} part */
export function completion(part) {
  pane = new Pane(part);
}

/**
 * Calls with every completion that is finished, once; `isShown` unless one of before was chosen meanwhile. The original's
 * text may be added to it later.
 * @param {(completion: Completion, isShown: boolean) => void} act
 */
export const onFinished = (act) => listeners.push(act);

/**
 * Shows a completion of before again, with its prompt and size.
 * @param {Completion} former
 */
export const recall = (former) => pane?.recall(former);

/** Another prompt or setting starts over, once it is left or taken; not if it was asked for, or is about to be. */
export function listenToInputs() {
  let pressing = false; // the button that asks for it
  const inside = (/** @type {Event} */ { target }, /** @type {string} */ selector) =>
    target instanceof Element && target.closest(selector) !== null;
  document.addEventListener("pointerdown", (event) => (pressing = inside(event, "#run")), true);
  for (const kind of ["pointerup", "pointercancel"]) document.addEventListener(kind, () => (pressing = false), true);
  document.addEventListener("change", (event) => {
    if (pressing || !inside(event, "#prompt, #advanced")) return;
    const prompt = promptField().value;
    if (inside(event, "#prompt") && prompt === asked()) return;
    if (prompt.trim()) settle();
  });
  document.addEventListener("click", (event) => inside(event, "#run") && pane?.clear());
  document.addEventListener("input", (event) => inside(event, "#prompt, #advanced") && pane?.forget());
}

class Pane {
  /** @type {CompletionMessage | null} */
  #latest = null;
  /** @type {Completion | null} */
  #recalled = null; // a completion of before
  #ready = new Ready("", false);
  /** @type {number | null} */
  #asked = null; // size of a run of which nothing has come yet
  #unanswered = 0;
  /** @type {Completion | null} */
  #finished = null; // that listeners were told of last
  #told = 0; // its run: texts of other sizes come as repetitions of its last message
  #outdate;

  /** @param {Part<CompletionMessage>} part */
  constructor(part) {
    const { element, trigger } = part;
    this.element = element;
    this.start = () => trigger("release");
    this.sides = new Sides(element);
    this.status = find(element, ".status");
    this.progress = find(element, "progress", HTMLProgressElement);
    if (location.hash.length > 1) this.sides.show("", "", ""); // what the page opens with may be another prompt's
    this.#outdate = receive(part, (message) => this.#receive(message));
    follow(() => this.#paint());
    onMode(() => this.forget());
    onRest(() => {
      this.clear();
      this.start();
    });
  }

  /** Forgets the texts of this prompt. */
  forget() {
    this.#ready = new Ready("", false);
    markReady([]);
  }

  /** @param {CompletionMessage} message */
  #receive(message) {
    this.#latest = message;
    this.#asked = null;
    if (message.key !== undefined && message.mode === mode()) {
      // a completion of before may have brought another mode, with other texts at the same places
      if (message.key !== this.#ready.key)
        this.#ready = new Ready(message.key, message.beforehand ?? false, message.prompt, message.shown);
      this.#ready.add(message.ready);
      markReady(this.#ready.finished());
    }
    if (message.state === "done") this.#finish(message);
    this.#paint();
  }

  /** @param {CompletionMessage} message */
  #finish({ run, key, percent, mode, prompt, shown, text, status }) {
    const isNew = run !== this.#told;
    if (isNew) this.#finished = { percent, mode, prompt, shown, text, status };
    this.#told = run;
    const isKnown = key === this.#ready.key && this.#ready.isComplete(full.percent);
    if (this.#finished && isKnown) this.#finished.original = this.#ready.textAt(full.percent);
    if (this.#finished && isNew) for (const act of listeners) act(this.#finished, this.#recalled === null);
  }

  /** Makes room for a run that is asked for; a text that is known stays. */
  clear() {
    this.#outdate();
    this.#latest = this.#recalled = null;
    this.#asked = position();
    if (promptField().value !== this.#ready.prompt) this.forget(); // what came of the former one since it was changed
    clearTimeout(this.#unanswered);
    const characters = promptField().value.length;
    if (characters > data.characters) {
      // one that is much longer never gets to the model
      const most = `at most ${fixed(data.characters, 0)} are taken`;
      this.sides.show("", "", "");
      return this.#label("error", `The prompt has ${fixed(characters, 0)} characters; ${most}.`);
    }
    this.#paint();
    const percent = position();
    // What is asked while Gradio closes its stream is never answered.
    this.#unanswered = setTimeout(() => this.#latest?.percent !== percent && this.start(), ANSWER_MS);
  }

  /**
   * @param {string} state
   * @param {string} status
   */
  #label(state, status, percent = position(), read = 1) {
    this.element.classList.remove("stale");
    this.element.dataset.state = state;
    this.element.dataset.percent = String(percent);
    this.status.textContent = status;
    this.progress.value = read;
    this.progress.classList.toggle("reading", read < 1);
  }

  /** Shows what belongs to the slider's position: what is known there, what runs there, or the nearest text. */
  #paint() {
    if (this.#recalled && !isHere(this.#recalled)) this.#recalled = null; // the slider has left it
    if (this.#recalled) return this.#paintRecalled(this.#recalled);
    const percent = position();
    const run = this.#latest && isHere(this.#latest) ? this.#latest : null;
    if (run && run.key === undefined && run.prompt !== this.#ready.prompt) {
      // it failed before it began
      this.sides.show(run.shown ?? run.prompt, run.text, "");
      return this.#label(run.state, run.status);
    }
    const known = this.#known(percent);
    const isLive = run !== null && (run.text !== "" || run.state !== "running") && known === null;
    const source = isLive ? percent : (known ?? this.#ready.nearest(percent));
    const whose = known === null ? source : percent;
    const isAsked = this.#asked === percent;
    if (source === null && !run && !isAsked) return this.element.classList.add("stale");
    const text = isLive ? run.text : source === null ? "" : this.#ready.textAt(source);
    const isGrowing = !this.#ready.isComplete(full.percent);
    this.sides.show(this.#ready.shown, text, this.#ready.textAt(full.percent), {
      whose: whose ?? percent,
      isTyped: isLive && run.state === "running",
      isGrowing,
    });
    if (run) this.#label(run.state, run.status, percent, run.read);
    else if (isAsked) this.#label("running", "starting");
    else
      this.#label(
        "ready",
        this.#ready.beforehand ? "written beforehand; let go to run it" : "let go to run it",
        whose ?? percent,
      );
  }

  /**
   * The size whose complete text is this size's: its own, or where nothing is lost that of another position.
   * @param {number} percent
   */
  #known(percent) {
    if (this.#ready.isComplete(percent)) return percent;
    const { bytes } = rowAt(percent);
    return this.#ready.finished().find((each) => rowAt(each).bytes === bytes) ?? null;
  }

  /** @param {Completion} former */
  #paintRecalled(former) {
    const original = former.percent === full.percent ? former.text : former.original;
    this.sides.show(former.shown ?? former.prompt, former.text, original ?? "");
    this.#label("done", former.status);
  }

  /** @param {Completion} former */
  recall(former) {
    const field = promptField();
    if (former.prompt && field.value !== former.prompt) write(field, former.prompt);
    choose(former.mode);
    show(former.percent);
    this.#recalled = former;
    this.#paint();
  }
}

/** The original's text and the slider's, side by side; words that are not the original's are marked. */
class Sides {
  #marked = ""; // what is shown, so that nothing is drawn twice

  /** @param {HTMLElement} element */
  constructor(element) {
    const places = [".begin", ".said", ".original .note", ".prompt", ".text", ".label", ".cut .note"];
    const [begin, said, remark, prompt, text, label, note] = places.map((selector) => find(element, selector));
    this.element = element;
    this.places = { begin, said, remark, prompt, text, label, note };
  }

  /**
   * @param {string} prompt
   * @param {string} text
   * @param {string} original
   * @param {{ whose?: number, isTyped?: boolean, isGrowing?: boolean }} [how] `whose` is the size that the text is of
   */
  show(prompt, text, original, { whose = position(), isTyped = false, isGrowing = false } = {}) {
    const { begin, said, remark, label } = this.places;
    const isAlone = text !== "" && original === "";
    begin.textContent = this.places.prompt.textContent = tail(prompt);
    said.textContent = original;
    remark.textContent = isAlone ? "not written yet" : "";
    label.textContent = named(whose);
    this.element.classList.toggle("typed", isTyped);
    this.element.classList.toggle("growing", isTyped && isGrowing);
    this.element.classList.toggle("stands-in", whose !== position());
    const words = isAlone ? differences(text, text) : differences(text, original, isTyped || isGrowing);
    this.#mark(words);
    this.#note(words, whose, text !== "" && original !== "");
  }

  /** @param {[word: string, differs: boolean][]} words */
  #mark(words) {
    const name = JSON.stringify(words);
    if (name === this.#marked) return;
    this.#marked = name;
    /** @type {Node[]} */
    const nodes = [];
    for (let i = 0; i < words.length; ) {
      const [differs, start] = [words[i][1], i];
      while (i < words.length && words[i][1] === differs) i += 1;
      const run = words
        .slice(start, i)
        .map(([word]) => word)
        .join("");
      const space = differs ? (/^\s*/.exec(run)?.[0] ?? "") : run;
      if (space) nodes.push(document.createTextNode(space));
      if (!differs) continue;
      const mark = document.createElement("mark");
      mark.textContent = run.slice(space.length);
      nodes.push(mark);
    }
    this.places.text.replaceChildren(...nodes);
  }

  /**
   * @param {[word: string, differs: boolean][]} words
   * @param {number} whose
   * @param {boolean} isComparable
   */
  #note(words, whose, isComparable) {
    const differing = words.filter(([, differs]) => differs).length;
    const total = words.filter(([word]) => word.trim()).length;
    let told = isComparable ? (differing ? `${differing} of ${total} words differ` : "the same words") : "";
    if (isComparable && whose === full.percent) told = "the original itself";
    if (whose !== position()) told = `nearest text, for ${named(position())}`;
    this.places.note.textContent = told;
  }
}

/**
 * A long prompt must not hide the text behind it.
 * @param {string} prompt
 */
function tail(prompt) {
  if (prompt.length <= LONG) return prompt;
  const end = prompt.slice(-LONG);
  return `… ${end.slice(end.search(/\s/) + 1)}`;
}

/**
 * Whether a completion is of the slider's size and mode.
 * @param {Completion} completion
 */
const isHere = (completion) => completion.percent === position() && (completion.mode ?? mode()) === mode();
