// The plot as a picture, and as a table of everything on it.

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

/** @param {Plot<Curve>} plot */
export function saveTable(plot) {
  const series = plot.data.filter(({ fill }) => fill === undefined); // a band is the last column of its line
  const lines = series.flatMap((trace) => {
    const name = `"${trace.name.replaceAll('"', '""')}"`;
    return trace.meta.flatMap((percent, i) => {
      const [megabytes = "", , spread = ""] = trace.customdata?.[i] ?? [];
      return percent === null ? [] : [[name, percent, megabytes, trace.y[i], spread].join(",")];
    });
  });
  const table = ["series,size in %,MB,perplexity,± %", ...lines, ""].join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
  link.download = "perplexity.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}
