// A text of one's own: its perplexity at every size read so far, and the text itself, every token marked by what it lost
// against the full model at the slider's size. The text is only ever set as text.
import { place } from "./chart.js";
import { data, full, mode, named, rowAt, smallest, table } from "./data.js";
import { find, write } from "./dom.js";
import { draw } from "./figures.js";
import { onMode } from "./modes.js";
import { announce, receive } from "./part.js";
import { follow, go, position } from "./slider.js";

const MOST_BYTES = 1_000_000;
/** @type {[times: number, name: string][]} */
const LEVELS = [
  [20, "absurd"],
  [5, "strange"],
  [2, "odd"],
  [0, ""],
]; // times less likely

/** @typedef {Omit<ReadSize, "losses"> & { text: string, losses: number[] }} Read losses as they came, and as numbers */

/** @param {Part<ReadingMessage>} part */
export function reading(part) {
  takeFiles(part.element);
  new Reading(part);
}

class Reading {
  /** @type {Map<number, Read>} */
  #sizes = new Map(); // by percent
  #isDrawn = false;

  /** @param {Part<ReadingMessage>} part */
  constructor(part) {
    const { element } = part;
    this.element = element;
    this.status = find(element, ".status");
    this.label = find(element, ".label");
    this.page = find(element, "pre");
    this.plot = /** @type {Plot} */ (find(element, ".plot"));
    this.cursor = find(element, ".cursor");
    this.page.addEventListener("mouseover", ({ target }) => {
      if (target instanceof HTMLElement && target.dataset.told) target.title = target.dataset.told;
    });
    follow(() => {
      if (!element.isConnected || !this.#sizes.size) return;
      this.#paint();
      this.#follow();
    });
    onMode(() => this.#forget()); // they were read in another mode
    document.addEventListener("input", ({ target }) => {
      if (target instanceof HTMLTextAreaElement && target.closest("#own-text") && !target.value.trim()) this.#forget();
    });
    receive(part, (message) => {
      announce(element, this.status, message);
      if (message.mode === mode() && message.sizes.length) this.#take(message); // what was read before stays until there is more
    });
  }

  #forget() {
    this.#sizes = new Map();
    find(this.element, ".read").hidden = true;
  }

  /** @param {ReadingMessage} message */
  #take({ pieces, sizes }) {
    find(this.element, ".read").hidden = false;
    const isSame =
      pieces.length === this.page.childElementCount &&
      pieces.every((each, i) => each === this.page.children[i].textContent);
    if (!isSame)
      this.page.replaceChildren(
        ...pieces.map((each) => Object.assign(document.createElement("span"), { textContent: each })),
      );
    const finished = this.#finished().length;
    this.#sizes = new Map(
      sizes.map((size) => [size.percent, { ...size, text: size.losses, losses: this.#numbers(size) }]),
    );
    this.#paint();
    if (!this.#isDrawn || this.#finished().length !== finished) this.#draw();
  }

  /**
   * Losses of a size as numbers; those of a finished one are read once.
   * @param {ReadSize} size
   */
  #numbers({ percent, losses }) {
    const known = this.#sizes.get(percent);
    return known?.done && known.text === losses ? known.losses : losses.split(" ").map(Number);
  }

  /** What was read to its end, smallest first. */
  #finished() {
    return [...this.#sizes.values()].filter((read) => read.done).sort((a, b) => a.ratio - b.ratio);
  }

  /** What was read at the size nearest to the slider's. */
  #nearest() {
    const gap = (/** @type {Read} */ read) => Math.abs(read.percent - position());
    return [...this.#sizes.values()].reduce((a, b) => (gap(b) < gap(a) ? b : a));
  }

  /** Marks every token by what it lost at the slider's size. */
  #paint() {
    const read = this.#nearest();
    const base = this.#sizes.get(full.percent);
    if (!base) return;
    const isFull = read === base;
    const worse = isFull || !read.done ? "" : `, ${short(read.perplexity / base.perplexity)} × the full model's`;
    const size = `${named(read.percent)}${isFull ? ", the full model" : ""}`;
    this.label.textContent = `At ${size}: perplexity ${short(read.perplexity)}${worse}`;
    this.page.dataset.percent = String(read.percent);
    [...this.page.children].forEach((child, i) => {
      const span = /** @type {HTMLElement} */ (child);
      const [own, before] = [read.losses[i], base.losses[i]];
      const isKnown = own !== undefined && before !== undefined;
      const name = level(isKnown ? Math.exp(Math.min(own - before, 50)) : 1);
      if (span.className !== name) span.className = name;
      const likely = own === undefined ? "" : `${probability(own)} likely`;
      span.dataset.told = likely && !isFull ? `${likely}, ${probability(before)} to the full model` : likely;
    });
  }

  /** Draws perplexity at every size that was read to its end. */
  async #draw() {
    const done = this.#finished();
    const isFull = (/** @type {Read} */ read) => read.percent === full.percent;
    const trace = {
      ...{ mode: "lines+markers", type: "scatter" },
      x: done.map((read) => read.ratio * whole()),
      y: done.map((read) => read.perplexity),
      line: { color: getComputedStyle(document.body).getPropertyValue("--color-accent").trim(), width: 3 },
      marker: {
        size: done.map((read) => (isFull(read) ? 11 : 6)),
        symbol: done.map((read) => (isFull(read) ? "diamond" : "circle")),
      },
      hovertemplate: `%{x:.3g} ${mode() === "directions" ? "%" : "MB"}<br>perplexity %{y:.4g}<extra>your text</extra>`,
    };
    await draw(this.plot, [trace], layout());
    if (!this.#isDrawn) {
      this.plot.on("plotly_afterplot", () => this.#follow());
      this.plot.on("plotly_click", ({ points: [point] }) => Number.isFinite(point?.x) && go((100 * point.x) / whole()));
    }
    this.#isDrawn = true;
    this.plot.dataset.points = String(done.length);
    this.#follow();
  }

  #follow() {
    if (!this.#isDrawn || !this.plot.clientWidth) return;
    const x = rowAt(position()).ratio * whole();
    place(this.cursor, this.plot, mode() === "directions" ? x : Math.log10(x));
  }
}

/** What a whole model has on the axis: percent, or megabytes where bits are spent. */
const whole = () => (table.published === undefined ? 100 : table.published / 1e6);

function layout() {
  const ticks = [1, 2, 5].flatMap((digit) => [...Array(9).keys()].map((power) => digit * 10 ** power));
  const axis = { fixedrange: true, zeroline: false };
  const isLinear = mode() === "directions";
  const font = { size: 12 };
  const sizes = [...Array(9).keys()].flatMap((power) =>
    [1, 1.5, 2, 3, 4, 5, 7].map((digit) => digit * 10 ** (power - 3)),
  );
  const logarithmic = {
    title: { text: "size of the whole model, MB", standoff: 8, font },
    type: "log",
    range: [Math.log10(smallest.ratio * whole()) - 0.02, Math.log10(whole()) + 0.02],
    tickvals: sizes,
    ticktext: sizes.map((size) => size.toLocaleString("en-US")),
  };
  const linear = {
    title: { text: "size of the compressed layers, %", standoff: 8, font },
    range: [smallest.percent - 2, full.percent + 2],
    dtick: 10,
  };
  return {
    xaxis: { ...axis, ...(isLinear ? linear : logarithmic) },
    yaxis: {
      ...axis,
      title: { text: "perplexity of your text", font },
      type: "log",
      tickvals: ticks,
      ticktext: ticks.map((tick) => tick.toLocaleString("en-US")),
    },
    margin: { l: 56, r: 12, t: 8, b: 44 },
    hovermode: "closest",
    dragmode: false,
    showlegend: false,
    font: { size: 12, family: "system-ui, sans-serif" },
  };
}

/** @param {number} value */
const short = (value) => (value >= 1e5 ? value.toExponential(1) : value.toPrecision(3).replace(/\.0+$/, ""));

/** @param {number} loss */
const probability = (loss) => `${short(100 * Math.exp(-loss))} %`;

/** @param {number} times less likely than to the full model */
const level = (times) => LEVELS.find(([least]) => times >= least)?.[1] ?? "";

/**
 * Takes a file that is chosen, or dropped anywhere on this part of the page, as the text.
 * @param {HTMLElement} element
 */
function takeFiles(element) {
  const status = find(element, ".status");
  const input = find(element, "input[type=file]", HTMLInputElement);
  const area = /** @type {HTMLElement} */ (element.closest("#reading"));
  const take = async (/** @type {File | undefined} */ file) => {
    if (!file) return;
    try {
      write(find(document, "#own-text textarea", HTMLTextAreaElement), await textOf(file));
      status.textContent = file.name;
    } catch (error) {
      status.textContent = error instanceof Error ? error.message : String(error);
    }
  };
  const over = (/** @type {DragEvent} */ event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    area.classList.toggle("dropping", event.type === "dragover");
    if (event.type !== "drop") return;
    event.stopPropagation();
    take(event.dataTransfer.files[0]);
  };
  for (const kind of /** @type {const} */ (["dragover", "dragleave", "drop"])) area.addEventListener(kind, over, true);
  input.addEventListener("change", async () => {
    await take(input.files?.[0]);
    input.value = ""; // the same file may be chosen again
  });
}

/**
 * A file's text.
 * @param {File} file
 * @throws {Error} it is none, or too long: a sentence for people
 */
async function textOf(file) {
  const { name, size } = file;
  if (size > MOST_BYTES) throw new Error(`${name} has ${(size / 1e6).toFixed(1)} MB; at most 1 MB is taken.`);
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${name} is no text in UTF-8.`);
  }
  if (text.includes("\0")) throw new Error(`${name} is no text: it holds zero bytes.`);
  if (!text.trim()) throw new Error(`${name} is empty.`);
  const [characters, most] = [text.length, data.characters].map((count) => count.toLocaleString("en-US"));
  if (text.length > data.characters)
    throw new Error(`${name} has ${characters} characters; at most ${most} are taken.`);
  return text;
}
