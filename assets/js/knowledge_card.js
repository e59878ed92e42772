// What the size under the slider says to one fact's prompt, beside its tile: its likeliest words and their probabilities.
import { mode, named, table } from "./data.js";
import { find } from "./dom.js";
import { fixed } from "./numbers.js";
import { ask } from "./server.js";
import { position } from "./slider.js";

const GAP = 6; // pixels between tile and card, and to the window's edges

export class Card {
  /** @type {Map<Mode, SaidData>} */
  #said = new Map();
  /** @type {HTMLElement | null} */
  #tile = null;

  /**
   * @param {HTMLElement} element the strip
   * @param {FactsData["facts"]} facts
   * @param {() => number} place number of the slider's position
   */
  constructor(element, facts, place) {
    this.element = element;
    this.card = find(element, ".said");
    this.facts = facts;
    this.place = place;
    addEventListener("pointerdown", ({ target }) => target instanceof Node && !element.contains(target) && this.hide());
    for (const moved of ["scroll", "resize"])
      addEventListener(moved, () => this.#tile && this.#stand(this.#tile), { passive: true, capture: true });
  }

  /** Fetches what the mode in force says, once. */
  async fetch() {
    const asked = mode();
    if (this.#said.has(asked) || !table.known) return;
    const said = await ask(`acip/knowledge/${asked}`);
    if (said) this.#said.set(asked, said);
    this.paint();
  }

  /** @param {HTMLElement} tile */
  show(tile) {
    this.#tile?.removeAttribute("aria-describedby");
    this.#tile = tile;
    tile.setAttribute("aria-describedby", this.card.id);
    this.paint();
    if (!this.card.matches(":popover-open")) this.card.showPopover();
    this.#stand(tile);
  }

  /**
   * The pointer has left a tile; one that has the focus keeps its card.
   * @param {HTMLElement} tile
   */
  leave(tile) {
    if (this.#tile === tile && document.activeElement !== tile) this.hide();
  }

  hide() {
    this.#tile?.removeAttribute("aria-describedby");
    this.#tile = null;
    if (this.card.matches(":popover-open")) this.card.hidePopover();
  }

  /** Shows what is said at the slider's position, where the card is open. */
  paint() {
    const number = Number(this.#tile?.dataset.fact);
    if (!this.#tile || !this.facts[number]) return;
    const { prompt, answer } = this.facts[number];
    const said = this.#said.get(mode());
    const question = line("prompt", prompt, " ", bold(answer));
    if (!said) {
      this.card.replaceChildren(question);
      return;
    }
    const [probability, rank, top, chances] = said.said[said.sizes[this.place()]][number];
    const isKnown = rank === 1;
    const words = top.map((token) => visible(said.tokens[token]));
    const verdict = line(
      "verdict",
      `${isKnown ? "✓" : "✗"} ${named(position())} says `,
      bold(isKnown ? answer : words[0]),
    );
    const rows = words.map((word, i) => bar(word, chances[i], i === rank - 1));
    if (rank > top.length) rows.push(bar(answer, probability, true, `no. ${fixed(rank, 0)}`));
    const list = document.createElement("ol");
    list.append(...rows);
    this.card.replaceChildren(question, verdict, list);
  }

  /**
   * Above its strip, so that no other tile is hidden, or below where there is no room; in a low window beside its tile.
   * @param {HTMLElement} tile
   */
  #stand(tile) {
    const [at, strip] = [tile.getBoundingClientRect(), this.element.getBoundingClientRect()];
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const { clientWidth, clientHeight } = document.documentElement;
    const most = clientWidth - width - GAP;
    const above = strip.top - height - GAP;
    const below = strip.bottom + GAP;
    const beside = at.right + GAP <= most ? at.right + GAP : at.left - width - GAP;
    const isLow = above < GAP && below + height + GAP > clientHeight;
    const left = isLow ? beside : at.left + at.width / 2 - width / 2;
    const top = above >= GAP ? above : below;
    this.card.style.left = `${Math.max(Math.min(left, most), GAP)}px`;
    this.card.style.top = `${Math.max(GAP, Math.min(top, clientHeight - height - GAP))}px`;
  }
}

/**
 * A token for people: white space is seen.
 * @param {string} token
 */
const visible = (token) => token.trim() || token.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅";

/** @param {string} text */
function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}

/**
 * @param {string} name its class
 * @param {(string | HTMLElement)[]} parts
 */
function line(name, ...parts) {
  const element = document.createElement("p");
  element.className = name;
  element.append(...parts);
  return element;
}

/**
 * @param {string} word
 * @param {number} chance
 * @param {boolean} isRight
 * @param {string} note
 */
function bar(word, chance, isRight, note = "") {
  const row = document.createElement("li");
  row.toggleAttribute("data-right", isRight);
  const [name, track, value] = ["span", "i", "span"].map((kind) => document.createElement(kind));
  name.textContent = `${word}${isRight ? " ✓" : ""}`;
  track.style.setProperty("--share", String(chance));
  const percent = 100 * chance;
  value.textContent = `${note ? `${note}, ` : ""}${percent < 0.1 ? "<0.1" : fixed(percent, percent < 10 ? 1 : 0)} %`;
  row.append(name, track, value);
  return row;
}
