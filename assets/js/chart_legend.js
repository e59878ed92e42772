// The legend of the chart, as buttons: each says in a sentence what its line shows, and hides it or shows it again.
import { change } from "./figures.js";

const SVG = "http://www.w3.org/2000/svg";
/** @type {Record<string, number[]>} in widths of the line, as Plotly draws them */
const DASHES = { dot: [1, 1], dash: [3, 3], longdash: [5, 5], dashdot: [3, 1, 1, 1] };

/** @typedef {{ color?: string, width?: number, dash?: string, symbol?: string }} Look */

/**
 * Fills in the legend of a plot that was drawn.
 * @param {HTMLElement} element
 * @param {Plot} plot
 * @param {Line[]} traces as the plot has them; `meta` says what they show
 */
export function drawLegend(element, plot, traces) {
  const named = traces.filter(({ showlegend }) => showlegend !== false);
  element.replaceChildren(...named.map((trace) => entry(plot, traces, trace)));
}

/**
 * @param {Plot} plot
 * @param {Line[]} traces
 * @param {Line} trace
 */
function entry(plot, traces, trace) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "term";
  button.append(swatch(trace), trace.name);
  button.dataset.meaning = String(trace.meta ?? "");
  button.setAttribute("aria-label", `${trace.name}: ${button.dataset.meaning}`);
  button.setAttribute("aria-pressed", "true");
  const own = [...traces.keys()].filter((i) => belongs(traces[i], trace));
  button.addEventListener("click", () => {
    const isShown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(isShown));
    change(plot, () => Plotly.restyle(plot, { visible: isShown }, own));
  });
  return button;
}

/**
 * Whether a trace is hidden with the one that its name in the legend stands for.
 * @param {Line} each
 * @param {Line} trace
 */
const belongs = (each, trace) =>
  each === trace || (trace.legendgroup !== undefined && each.legendgroup === trace.legendgroup);

/** @param {Line} trace */
function swatch(trace) {
  const [line, marker] = /** @type {Look[]} */ ([trace.line ?? {}, trace.marker ?? {}]);
  const { width = 2, dash = "solid" } = line;
  const color = line.color ?? marker.color ?? "gray";
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 28 12");
  picture.setAttribute("aria-hidden", "true");
  const parts = [];
  if (String(trace.mode).includes("lines")) {
    const dashes = DASHES[dash]?.map((each) => each * width).join(" ") ?? dash.replaceAll("px", "");
    const stroke = { stroke: color, "stroke-width": width, "stroke-dasharray": dash === "solid" ? "none" : dashes };
    parts.push(shape("path", { d: "M0 6h28", ...stroke }));
  }
  if (String(trace.mode).includes("markers")) parts.push(mark(marker.symbol ?? "circle", marker.color ?? color));
  picture.append(...parts);
  return picture;
}

/**
 * @param {string} symbol as Plotly names it
 * @param {string} color
 */
function mark(symbol, color) {
  if (symbol === "square") return shape("rect", { x: 11, y: 3, width: 6, height: 6, fill: color });
  if (!symbol.startsWith("diamond")) return shape("circle", { cx: 14, cy: 6, r: 3, fill: color });
  const fill = symbol.endsWith("-open") ? "none" : color;
  return shape("path", { d: "M14 1.5 18.5 6 14 10.5 9.5 6z", fill, stroke: color, "stroke-width": 1.5 });
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}
