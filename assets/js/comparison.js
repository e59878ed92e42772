// The compare view: one column per size, all one token further with every message. Model output is only ever set as text.
import { facts, full, named, tableOf } from "./data.js";
import { find } from "./dom.js";
import { choose } from "./modes.js";
import { announce, receive } from "./part.js";
import { go } from "./slider.js";

/** @type {[least: number, name: string][]} */
const LEVELS = [
  [0.5, "likely"],
  [0.1, "odd"],
  [0.01, "strange"],
  [0, "absurd"],
];

const PERPLEXITY = "how many times the original's perplexity it has; the more, the less sure it is of what comes next";

/** @param {Part<ComparisonMessage>} part */
export function comparison(part) {
  const columns = find(part.element, ".columns");
  const status = find(part.element, ".status");
  /** @type {Column[]} */
  let shown = [];
  receive(part, (message) => {
    announce(part.element, status, message);
    if (message.state === "error") return; // the texts of the former run stay
    if (shown.length !== message.columns.length) {
      shown = message.columns.map(() => new Column());
      columns.replaceChildren(...shown.map((column) => column.root));
      columns.style.setProperty("--columns", String(shown.length));
    }
    for (const [i, column] of message.columns.entries()) shown[i].paint(column, message.shown, message.mode);
  });
}

class Column {
  #percent = full.percent;
  #mode = "directions";

  constructor() {
    this.root = document.createElement("div");
    this.root.className = "column";
    this.root.setAttribute("role", "listitem");
    this.head = within(this.root, "button", "head");
    this.head.type = "button";
    this.head.addEventListener("click", () => choose(this.#mode) && go(this.#percent));
    this.size = within(this.head, "b");
    this.facts = within(this.head, "span");
    this.agreement = within(this.root, "p", "agreement");
    this.page = within(this.root, "pre");
    this.page.dir = "auto";
    this.page.tabIndex = 0;
    this.prompt = within(this.page, "span", "prompt");
    this.text = within(this.page, "span", "text");
  }

  /**
   * @param {ComparedColumn} column
   * @param {string} prompt
   * @param {Mode} mode
   */
  paint(column, prompt, mode) {
    const { percent, finish } = column;
    const table = tableOf(mode);
    const [size, known] = [named(percent, table), facts(percent, table)];
    [this.#percent, this.#mode] = [percent, mode];
    this.size.textContent = size;
    this.facts.textContent = known.join(" · ");
    const action = `Set the slider to ${size}`;
    this.head.dataset.meaning = `${action}. Under it: ${PERPLEXITY}`;
    this.head.setAttribute("aria-label", `${action}: ${known.join(", ")}`);
    this.page.setAttribute("aria-label", `Completion at ${size}`);
    this.root.dataset.percent = String(percent);
    this.root.dataset.finish = finish;
    this.agreement.textContent = agreement(column);
    this.prompt.textContent = prompt;
    this.#paintTokens(column);
  }

  /** @param {ComparedColumn} column */
  #paintTokens({ tokens, parted, repeated }) {
    const again = new Set(repeated);
    while (this.text.childElementCount > tokens.length) this.text.lastChild?.remove();
    tokens.forEach(([text, probability], i) => {
      const span = this.text.children[i] ?? within(this.text, "span");
      const likely = probability === null ? "" : `${share(probability)} likely to the full model`;
      // In a loop every next token is likely, so likelihood is no praise there.
      const kind = again.has(i) ? "again" : probability === null ? "" : level(probability);
      const marks = [kind, i === parted ? "parted" : ""];
      const name = marks.join(" ").trim();
      if (span.textContent !== text) span.textContent = text;
      if (span.className !== name) span.className = name;
      const title = [
        i === parted ? "leaves the full model's own text here" : "",
        again.has(i) ? "said before" : "",
        likely,
      ]
        .filter(Boolean)
        .join("; ");
      span.setAttribute("title", title);
    });
  }
}

/**
 * A new element within another.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {HTMLElement} parent
 * @param {K} tag
 */
function within(parent, tag, name = "") {
  const element = document.createElement(tag);
  element.className = name;
  parent.append(element);
  return element;
}

/** @param {number} probability */
const level = (probability) => LEVELS.find(([least]) => probability >= least)?.[1] ?? "";

/** @param {number} value */
const share = (value) =>
  `${value >= 0.995 || value < 0.0005 ? (100 * value).toFixed(0) : (100 * value).toPrecision(2)} %`;

/** @param {ComparedColumn} column */
function agreement({ percent, parted, equal, finish, tokens, repeated }) {
  const said = repeated.length ? `; ${share(repeated.length / tokens.length)} said before` : "";
  if (percent === full.percent) return `the full model${said}`;
  if (equal === null) return " ";
  if (parted === null) return `the full model's text${finish ? "" : " so far"}${said}`;
  if (parted === 0) return `another text from the first token, ${share(equal)} equal${said}`;
  return `equal for ${parted} token${parted === 1 ? "" : "s"}, ${share(equal)} of all${said}`;
}
