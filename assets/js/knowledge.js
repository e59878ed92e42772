// What a size still knows: a strip of facts that light up and go out within the slider's own event.
import { data, named, nearestIndex, table } from "./data.js";
import { find, findAll, reply } from "./dom.js";
import { Card } from "./knowledge_card.js";
import { share } from "./knowledge_picture.js";
import { onMode } from "./modes.js";
import { fixed } from "./numbers.js";
import { follow, position } from "./slider.js";

const REST_MS = 700; // a screen reader is told once the slider has rested
const STEPS = new Map([
  ["ArrowRight", 1],
  ["ArrowDown", 1],
  ["ArrowLeft", -1],
  ["ArrowUp", -1],
]); // between tiles: one of them is in the order of focus

/** @param {Part} part */
export function knowledge({ element }) {
  if (data.facts) new Strip(element, data.facts);
}

class Strip {
  #resting = 0;
  #shown = "";

  /**
   * @param {HTMLElement} element
   * @param {FactsData} facts
   */
  constructor(element, facts) {
    this.element = element;
    this.facts = facts.facts;
    this.of = facts.of;
    this.tiles = findAll(element, "[data-fact]", HTMLButtonElement);
    this.count = find(element, "[data-count]");
    this.portion = find(element, "[data-portion]");
    this.rest = find(element, ".rest");
    this.copy = find(element, "[data-copy]", HTMLButtonElement);
    this.card = new Card(element, this.facts, () => this.#place());
    this.#shown = this.tiles.map((tile) => (tile.dataset.known === undefined ? "0" : "1")).join("");
    follow(() => this.#paint());
    onMode(() => this.card.fetch());
    this.#listen();
    this.#paint();
    this.card.fetch();
  }

  /** The number of the slider's position. */
  #place = () => nearestIndex(position());

  /** Flags of the size under the slider; null where this mode's facts were not asked. */
  get flags() {
    return table.known?.flags[this.#place()] ?? null;
  }

  #paint() {
    const { flags } = this;
    this.element.toggleAttribute("data-unasked", flags === null);
    this.copy.disabled = flags === null;
    const now = flags ?? "0".repeat(this.tiles.length);
    for (const [i, tile] of this.tiles.entries()) {
      if (now[i] === this.#shown[i]) continue;
      tile.toggleAttribute("data-known", now[i] === "1");
      tile.setAttribute("aria-label", `${this.facts[i].answer}, ${now[i] === "1" ? "known" : "forgotten"}`);
    }
    this.#shown = now;
    this.count.textContent = flags === null ? "–" : String(counted(now));
    const all = table.known?.shares[this.#place()];
    this.portion.textContent = all === undefined ? "(not asked)" : `(${fixed(100 * all, 0)} % of all ${this.of} asked)`;
    this.card.paint();
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => this.#tell(), REST_MS);
  }

  /** One sentence for screen readers. */
  #tell() {
    const { flags } = this;
    const gone = this.facts.filter((_, i) => flags?.[i] === "0").map(({ answer }) => answer);
    const list = gone.length ? `; forgotten: ${gone.join(", ")}` : "";
    const text = flags === null ? "" : `${named(position())} knows ${counted(flags)} of ${flags.length}${list}.`;
    if (text !== this.rest.textContent) this.rest.textContent = text;
  }

  #listen() {
    const { element, tiles } = this;
    for (const tile of tiles) {
      tile.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && this.card.show(tile));
      tile.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && this.card.leave(tile));
      tile.addEventListener("focus", () => this.card.show(tile));
      tile.addEventListener("blur", () => this.card.hide());
      tile.addEventListener("click", () => this.card.show(tile));
    }
    element.addEventListener("keydown", (event) => {
      const at = tiles.indexOf(/** @type {HTMLButtonElement} */ (event.target));
      const step = STEPS.get(event.key);
      if (event.key === "Escape") this.card.hide();
      if (at < 0 || !step) return;
      event.preventDefault();
      const next = tiles[Math.min(Math.max(at + step, 0), tiles.length - 1)];
      for (const tile of tiles) tile.tabIndex = tile === next ? 0 : -1;
      next.focus();
    });
    this.copy.addEventListener("click", async () => reply(this.copy, await share(this.facts, this.#shown)));
  }
}

/** @param {string} flags */
const counted = (flags) => flags.split("1").length - 1;
