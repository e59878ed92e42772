// The plot as a picture, and as a table of everything on it.
import { mode } from "./data.js";

/** @typedef {Line & { meta: Line["x"] }} Curve with the percent of every point, whatever the axis is */

/** @param {Plot} plot */
export function saveImage(plot) {
  const paper = { paper_bgcolor: getComputedStyle(document.body).backgroundColor, showlegend: true };
  const layout = { ...plot.layout, ...paper };
  Plotly.downloadImage(
    { data: plot.data, layout },
    { format: "png", width: 1200, height: 700, filename: "perplexity" },
  );
}

/**
 * Its points have `customdata`; what is there to be looked at alone, a band or a mark, has none of its own.
 * @param {Plot<Curve>} plot
 */
export function saveTable(plot) {
  const series = plot.data.filter(({ fill, customdata }) => fill === undefined && customdata !== undefined);
  const lines = series.flatMap((trace) =>
    trace.meta.flatMap((percent, i) => {
      const [megabytes, , spread = "", corpus = ""] = trace.customdata?.[i] ?? [];
      const name = corpus ? `${corpus}, ${trace.name}` : trace.name;
      const quoted = `"${name.replaceAll('"', '""')}"`;
      return percent === null ? [] : [[quoted, percent, megabytes, trace.y[i], spread].join(",")];
    }),
  );
  const value = mode() === "directions" ? "perplexity" : "perplexity ÷ the original's";
  const table = [`series,size in %,MB,${value},± %`, ...lines, ""].join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
  link.download = "perplexity.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}
