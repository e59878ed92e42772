// Plotly figures in the colors around them and as wide as their place, for the page and the report. Plotly loses its
// margins when changes of a plot overlap, so they run one after another.
"use strict";
window.acipPlot ??= (() => {
  const last = new WeakMap(); // plot → promise of its latest change
  const drawn = new Set();

  const colors = () => {
    const style = getComputedStyle(document.body);
    const text = style.getPropertyValue("--body-text-color").trim() || "#333";
    const grid = style.getPropertyValue("--border-color-primary").trim() || "#ddd";
    const axis = (name) => ({ [`${name}.gridcolor`]: grid, [`${name}.linecolor`]: grid, [`${name}.tickcolor`]: grid });
    return { "font.color": text, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", ...axis("xaxis"), ...axis("yaxis") };
  };

  function colored(layout) {
    const copy = JSON.parse(JSON.stringify(layout));
    for (const [path, value] of Object.entries(colors())) {
      const [part, key] = path.split(".");
      if (key) copy[part] = { ...copy[part], [key]: value };
      else copy[part] = value;
    }
    return copy;
  }

  // Runs `act` once all former changes of the plot are through; returns its promise.
  function change(plot, act) {
    const next = (last.get(plot) ?? Promise.resolve()).then(() => plot.isConnected && act());
    last.set(plot, next.catch(() => {}));
    return next;
  }

  const library = async () => {
    while (!window.Plotly) await new Promise((done) => setTimeout(done, 50));
  };

  function fit(plot) {
    change(plot, () => plot.clientWidth && plot.clientWidth !== plot._fullLayout.width && Plotly.Plots.resize(plot)).catch(() => {}); // hidden meanwhile
  }

  // Draws a figure, or draws it anew.
  function draw(plot, data, layout) {
    return change(plot, async () => {
      await library();
      watch();
      await Plotly.react(plot, data, colored(layout), { displayModeBar: false, showTips: false });
      if (drawn.has(plot)) return;
      drawn.add(plot);
      new ResizeObserver(() => fit(plot)).observe(plot); // columns settle late
    });
  }

  function recolor() {
    for (const plot of drawn) {
      if (!plot.isConnected) drawn.delete(plot);
      else change(plot, () => Plotly.relayout(plot, colors()));
    }
  }
  let watching = false;
  function watch() {
    if (watching) return;
    watching = true;
    new MutationObserver(recolor).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  }

  return { draw, change };
})();
