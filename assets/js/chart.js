// Perplexity against size: the cursor follows the slider, a click moves it, and what is measured here joins the curves.
import { AXES, BYTES, fitted, MEGABYTES, narrow, RATIO } from "./chart_axes.js";
import { drawLegend } from "./chart_legend.js";
import { saveImage, saveTable } from "./chart_saving.js";
import { data, full, mode, named, rowAt, smallest, table } from "./data.js";
import { find } from "./dom.js";
import { change, draw } from "./figures.js";
import { onMode } from "./modes.js";
import { announce, receive } from "./part.js";
import { clamp, follow, go, position } from "./slider.js";
import { measure, onSpeed, speed } from "./speed.js";

/** @typedef {MeasuredPoint & { percent: number, mode: Mode }} Point */
/** @typedef {Line & { meta: Line["x"] }} Curve with the percent of every point, whatever the axis is */

/**
 * Puts a cursor over a drawn plot, for redrawing that takes longer than a frame.
 * @param {HTMLElement} cursor
 * @param {Plot} plot
 * @param {number} value of the x axis
 * @returns its place in pixels
 */
export function place(cursor, plot, value) {
  const { xaxis, yaxis } = plot._fullLayout;
  const x = xaxis._offset + xaxis.l2p(value);
  cursor.style.height = `${yaxis._length}px`;
  cursor.style.transform = `translate(${x}px, ${yaxis._offset}px)`;
  return x;
}

/** @param {Part<MeasurementMessage>} part */
export function chart(part) {
  new Chart(part).draw();
}

class Chart {
  #axis = BYTES;
  #isDrawn = false;
  /** @type {Map<string, Point>} */
  #measured = new Map(); // by corpus and size
  #measuredTrace = data.figure.data.length;
  #chosen = BYTES; // axis of the mode directions
  #showsOthers = false; // other methods, or quantizers where bits are spent

  /** @param {Part<MeasurementMessage>} part */
  constructor(part) {
    const { element } = part;
    this.plot = /** @type {Plot<Curve>} */ (find(element, ".plot"));
    this.status = find(element, ".status");
    this.cursor = find(element, ".cursor");
    this.legend = find(element, ".entries");
    this.rings = data.corpora.map((each) => this.#ring(each));
    find(element, "[data-save=png]").addEventListener("click", () => saveImage(this.plot));
    find(element, "[data-save=csv]").addEventListener("click", () => saveTable(this.plot));
    const select = find(element, "[data-axis]", HTMLSelectElement);
    select.addEventListener("change", () => this.#against(select.value));
    this.others = find(element, "[data-others]");
    find(this.others, "input", HTMLInputElement).addEventListener("change", ({ target }) => {
      this.#showsOthers = /** @type {HTMLInputElement} */ (target).checked;
      this.draw();
    });
    onSpeed((message) => {
      if (this.#axis.key !== "speed") return;
      this.status.textContent = message.status;
      if (Object.keys(message.speeds).length) this.#redraw();
    });
    receive(part, (message) => {
      announce(element, this.status, message);
      this.#take(message);
    });
    follow(() => this.#follow());
    onMode(() => this.draw());
    narrow.addEventListener("change", () => this.draw());
  }

  /** @param {PageData["corpora"][number]} corpus */
  #ring({ corpus, color, symbol }) {
    const ring = document.createElement("i");
    ring.style.borderColor = color;
    ring.className = symbol;
    this.cursor.parentElement?.append(ring);
    return { ring, corpus };
  }

  /** @returns {Figure<Line>} what is drawn in the mode in force */
  get #figure() {
    return (this.#showsOthers && this.#withOthers) || (table.figure ?? data.figure);
  }

  get #withOthers() {
    return table.figure ? table.others : data.others;
  }

  /** Draws it for the first time, or anew in another mode. */
  async draw() {
    const spendsBits = table.figure !== undefined;
    const figure = this.#figure;
    this.others.style.visibility = this.#withOthers ? "" : "hidden"; // its place stays, so that nothing moves
    const isNew = !this.#isDrawn;
    this.#isDrawn = false;
    this.#axis = spendsBits ? MEGABYTES : this.#chosen.key === "speed" ? BYTES : this.#chosen;
    this.#measuredTrace = figure.data.length;
    const measured = {
      ...{ x: [], y: [], meta: [], mode: "markers", type: "scatter", name: "measured here", showlegend: false },
      hovertemplate: "%{text}<extra></extra>",
      marker: { symbol: "star", size: 13, line: { width: 1, color: "white" } },
      error_y: { type: "data", array: [], symmetric: false, color: "gray", thickness: 1.5 },
    };
    const percents = (/** @type {Line} */ trace) =>
      spendsBits ? trace.x.map((x) => x && (100 * x * 1e6) / (table.published ?? 1)) : trace.x;
    const curves = figure.data.map((trace) => ({ ...structuredClone(trace), meta: percents(trace) }));
    const layout = structuredClone(figure.layout);
    layout.showlegend = false; // it stands above the plot
    const axis = /** @type {Record<string, unknown>} */ (layout.xaxis);
    if (spendsBits) layout.xaxis = fitted(axis, this.#axis, this.plot.clientWidth);
    else {
      const x = curves.map((trace, i) => this.#xOf(trace, i));
      for (const [i, trace] of curves.entries()) trace.x = x[i];
      Object.assign(axis, this.#xAxis(x));
    }
    await draw(this.plot, [...curves, measured], layout);
    if (figure !== this.#figure) return; // something else was chosen meanwhile
    this.#isDrawn = true;
    drawLegend(this.legend, this.plot, figure.data);
    this.plot.dataset.axis = this.#axis.key;
    if (isNew) this.#listen();
    this.#showMeasured();
    this.#follow();
    if (!spendsBits && this.#chosen !== this.#axis) await this.#against(this.#chosen.key);
    this.plot.dataset.ready = "true";
  }

  #listen() {
    this.plot.on("plotly_afterplot", () => this.#follow());
    this.plot.on("plotly_click", ({ points: [point] }) => {
      const percent = point && this.plot.data[point.curveNumber].meta[point.pointNumber];
      if (typeof percent === "number") go(clamp(percent));
    });
  }

  #follow() {
    if (!this.#isDrawn) return;
    const { yaxis } = this.plot._fullLayout;
    const row = rowAt(position());
    const x = place(this.cursor, this.plot, this.#at(100 * row.ratio));
    for (const { ring, corpus } of this.rings) {
      const y = yaxis.l2p(Math.log10(row.perplexity[corpus] / this.#base(corpus)));
      ring.hidden = !(y >= 0 && y <= yaxis._length);
      ring.style.transform = `translate(${x}px, ${yaxis._offset + y}px)`;
    }
    this.plot.dataset.percent = String(row.percent);
  }

  /**
   * A percentage on the axis, which is logarithmic where bits are spent.
   * @param {number} percent
   */
  #at(percent) {
    return this.#axis === MEGABYTES ? Math.log10(MEGABYTES.of(percent)) : this.#axis.of(percent);
  }

  /**
   * What perplexities are shown as multiples of.
   * @param {string} corpus
   */
  #base(corpus) {
    return table.bases === undefined ? 1 : (table.bases[corpus] ?? Number.NaN);
  }

  /** @param {MeasurementMessage} message */
  #take({ points, ratio, mode }) {
    for (const point of points)
      this.#measured.set(`${point.corpus} ${mode} ${ratio}`, { ...point, mode, percent: 100 * ratio });
    this.#showMeasured();
  }

  #showMeasured() {
    const points = [...this.#measured.values()]
      .filter((point) => point.mode === mode())
      .map((point) => relative(point, this.#base(point.corpus)));
    this.plot.dataset.measured = String(points.length);
    if (!this.#isDrawn) return;
    const update = {
      x: [points.map((point) => this.#axis.of(point.percent))],
      meta: [points.map((point) => point.percent)],
      y: [points.map((point) => point.value)],
      customdata: [points.map(tabulated)],
      "marker.color": [points.map((point) => point.color)],
      "error_y.array": [points.map((point) => point.high - point.value)],
      "error_y.arrayminus": [points.map((point) => point.value - point.low)],
      text: [points.map(described)],
    };
    const ends = points.map((point) => Math.log10(point.value));
    change(this.plot, () => {
      const [bottom, top] = this.plot.layout.yaxis.range; // grows until it holds every measured point
      const range = [Math.min(bottom, ...ends.map((end) => end - 0.1)), Math.max(top, ...ends.map((end) => end + 0.1))];
      return Plotly.update(this.plot, update, { "yaxis.range": range }, [this.#measuredTrace]);
    });
  }

  /** @param {string} key of an axis */
  async #against(key) {
    this.#axis = this.#chosen = AXES.find((axis) => axis.key === key) ?? RATIO;
    const isMeasured = speed().mode === mode();
    if (key === "speed" && (speed().state !== "done" || !isMeasured)) measure();
    if (key !== "speed" || (isMeasured && Object.keys(speed().speeds).length)) await this.#redraw();
  }

  /** Shows perplexity against another axis. */
  async #redraw() {
    if (!this.#isDrawn) return;
    const x = this.plot.data.map((trace, i) => this.#xOf(trace, i));
    const axis = Object.entries(this.#xAxis(x)).map(([name, value]) => [`xaxis.${name}`, value]);
    const all = this.plot.data.map((_, i) => i);
    const layout = { ...Object.fromEntries(axis), annotations: this.#namedSizes() };
    await change(this.plot, () => Plotly.update(this.plot, { x }, layout, all));
    this.plot.dataset.axis = this.#axis.key;
  }

  /** Names of the sizes that were timed, at their points: on an axis of speed they need not come in their order. */
  #namedSizes() {
    if (this.#axis.key !== "speed") return [];
    const { meta, x, y } = this.plot.data[0];
    const sizes = meta.map((percent) => Math.round(percent ?? Number.NaN));
    const timed = [...sizes.keys()].filter((i) => sizes[i] in speed().speeds);
    return timed.map((i, number) => ({
      x: x[i],
      y: Math.log10(y[i] ?? 1),
      text: named(sizes[i]),
      yshift: (timed.length - number) % 2 ? 13 : -13, // in turn above and below, as neighbours may be equally fast
      showarrow: false,
      font: { size: 11 },
    }));
  }

  /**
   * Where a trace's points lie on the axis.
   * @param {Curve} trace
   * @param {number} i its number
   */
  #xOf(trace, i) {
    return trace.meta.map((percent, j) => {
      const own = this.#axis === BYTES ? trace.customdata?.[j]?.[0] : undefined; // at other precisions a size has other bytes
      if (typeof own === "number") return own;
      return percent === null || !this.#hasPlace(trace, i) ? null : this.#axis.of(percent);
    });
  }

  /** @param {(number | null)[][]} x of all traces */
  #xAxis(x) {
    const { key, title, of } = this.#axis;
    const found = x.flat().filter((value) => value !== null); // a size between two may be slower than both
    const ends = [...[smallest.percent, full.percent].map(of), ...found];
    const pad = (Math.max(...ends) - Math.min(...ends)) * 0.03;
    const drawn = {
      range: [Math.min(...ends) - pad, Math.max(...ends) + pad],
      title: { text: title, standoff: 8, font: { size: 12 } },
      dtick: key === "ratio" ? 10 : null,
      tickmode: key === "ratio" ? "linear" : "auto", // or a step of before stays, and draws thousands of ticks
    };
    return fitted(drawn, this.#axis, this.plot.clientWidth);
  }

  /**
   * Speed is known of the model's own cuts alone, so the lines of other methods leave that axis.
   * @param {Curve} trace
   * @param {number} i its number
   */
  #hasPlace(trace, i) {
    const curve = trace.name.replace(", full model", "");
    return this.#axis.key !== "speed" || i === this.#measuredTrace || data.corpora.some(({ title }) => title === curve);
  }
}

/**
 * A point as a multiple of what the full model has.
 * @param {Point} point
 * @param {number} base
 */
const relative = (point, base) => ({
  ...point,
  value: point.value / base,
  low: point.low / base,
  high: point.high / base,
});

/**
 * Megabytes, percent and two standard errors in percent, as the curves have them, and what their names say.
 * @param {Point} point
 */
const tabulated = ({ percent, value, high, title }) => [
  (mode() === "directions" ? BYTES : MEGABYTES).of(percent),
  percent,
  100 * ((high / value) ** 2 - 1),
  title,
];

/** @param {Point} point */
const described = ({ title, done, total, value }) =>
  `${title}, measured here<br>${done} of ${total} windows<br>perplexity ${value.toPrecision(4)}${mode() === "directions" ? "" : " × the full model's"}`;
