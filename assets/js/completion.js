// The completion: it restarts when the slider comes to rest or something it depends on was changed, and only what belongs
// to the slider's position is shown. Model output is only ever set as text.
import { data, mode, named } from "./data.js";
import { find, promptField, write } from "./dom.js";
import { asked } from "./link.js";
import { choose, onMode } from "./modes.js";
import { fixed } from "./numbers.js";
import { receive } from "./part.js";
import { markReady } from "./readouts.js";
import { follow, onRest, position, settle, show } from "./slider.js";

const ANSWER_MS = 4000; // a run says within this time at least who is ahead

/** @type {((message: CompletionMessage) => void)[]} */
const listeners = [];
/** @type {Pane | null} */
let pane = null;

/** @param {Part<CompletionMessage>} part */
export function completion(part) {
  pane = new Pane(part);
}

/**
 * Calls with every completion that is finished.
 * @param {(message: CompletionMessage) => void} act
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
  /** @type {(Completion & { state: string }) | null} */
  #recalled = null; // a completion of before
  #ready = new Ready("", false); // for the next drag
  #unanswered = 0;
  #outdate;

  /** @param {Part<CompletionMessage>} part */
  constructor(part) {
    const { element, trigger } = part;
    this.element = element;
    this.start = () => trigger("release");
    const [prompt, text, ahead, status, label, page] = [".prompt", ".text", ".ahead", ".status", ".label", "pre"].map(
      (selector) => find(element, selector),
    );
    this.shown = { prompt, text, ahead, status, label, page };
    this.#outdate = receive(part, (message) => this.#receive(message));
    follow(() => this.#paint());
    onMode(() => this.forget());
    onRest(() => {
      this.clear();
      this.start();
    });
  }

  /** Forgets the texts of other sizes. */
  forget() {
    this.#ready = new Ready("", false);
    markReady([]);
  }

  /** @param {CompletionMessage} message */
  #receive(message) {
    this.#latest = message;
    if (message.key !== undefined) {
      if (message.key !== this.#ready.key)
        this.#ready = new Ready(message.key, message.beforehand ?? false, message.prompt);
      this.#ready.add(message.ready);
      markReady(this.#ready.finished());
    }
    this.#paint();
    if (message.state === "done") for (const act of listeners) act(message);
  }

  /** Makes room for a run that is asked for. */
  clear() {
    this.#outdate();
    this.#latest = this.#recalled = null;
    const percent = position();
    this.shown.text.textContent = "";
    this.shown.ahead.textContent = this.#ready.textAt(percent); // stays until the live text has caught up
    this.#label(percent, "running", "starting");
    clearTimeout(this.#unanswered);
    const characters = promptField().value.length;
    if (characters > data.characters) {
      // one that is much longer never gets to the model
      const most = `at most ${fixed(data.characters, 0)} are taken`;
      return this.#label(percent, "error", `The prompt has ${fixed(characters, 0)} characters; ${most}.`);
    }
    // What is asked while Gradio closes its stream is never answered.
    this.#unanswered = setTimeout(() => this.#latest?.percent !== percent && this.start(), ANSWER_MS);
  }

  /**
   * @param {number} percent
   * @param {string} state
   * @param {string} status
   */
  #label(percent, state, status) {
    this.element.classList.remove("stale");
    this.element.dataset.state = state;
    this.element.dataset.percent = String(percent);
    this.shown.label.textContent = `Completion at ${named(percent)}`;
    this.shown.status.textContent = status;
  }

  /** Shows what belongs to the slider's position: what runs there, or the text that comes nearest. */
  #paint() {
    if (this.#recalled && !isHere(this.#recalled)) this.#recalled = null; // the slider has left it
    const now = this.#recalled ?? this.#latest;
    if (!now || !isHere(now)) return this.#scrub();
    const { prompt, text, ahead, page } = this.shown;
    const known = this.#ready.textAt(now.percent);
    const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 40;
    prompt.textContent = now.prompt;
    text.textContent = now.text;
    ahead.textContent = now.state === "running" && known.startsWith(now.text) ? known.slice(now.text.length) : "";
    this.#label(now.percent, now.state, now.status);
    if (atEnd) page.scrollTop = page.scrollHeight;
  }

  #scrub() {
    const near = this.#ready.nearest(position());
    if (near === null) return this.element.classList.add("stale");
    this.shown.prompt.textContent = this.#ready.prompt;
    this.shown.text.textContent = this.#ready.textAt(near);
    this.shown.ahead.textContent = "";
    this.#label(near, "ready", this.#ready.beforehand ? "written beforehand; let go to run it" : "let go to run it");
  }

  /** @param {Completion} former */
  recall(former) {
    const field = promptField();
    if (former.prompt && field.value !== former.prompt) write(field, former.prompt);
    choose(former.mode);
    show(former.percent);
    this.#recalled = { ...former, state: "done" };
    this.#paint();
  }
}

/**
 * Whether a completion is of the slider's size and mode.
 * @param {Completion} completion
 */
const isHere = (completion) => completion.percent === position() && (completion.mode ?? mode()) === mode();

/** Texts of one prompt and its settings at other sizes, so that a drag can show them. */
class Ready {
  /** @type {Map<number, { text: string, complete: boolean }>} */
  #texts = new Map();

  /**
   * @param {string} key
   * @param {boolean} beforehand written before anybody asked
   */
  constructor(key, beforehand, prompt = "") {
    this.key = key;
    this.beforehand = beforehand;
    this.prompt = prompt;
  }

  /** @param {CompletionMessage["ready"]} texts */
  add(texts) {
    for (const [percent, text, complete] of texts) this.#texts.set(percent, { text, complete });
  }

  /** Sizes whose text is complete. */
  finished() {
    return [...this.#texts].filter(([, { complete }]) => complete).map(([percent]) => percent);
  }

  /** @param {number} percent */
  textAt(percent) {
    return this.#texts.get(percent)?.text ?? "";
  }

  /**
   * The size that comes nearest, if there is a text at all.
   * @param {number} percent
   */
  nearest(percent) {
    /** @type {number | null} */
    let best = null;
    for (const each of this.#texts.keys()) {
      if (best === null || Math.abs(each - percent) < Math.abs(best - percent)) best = each;
    }
    return best;
  }
}
