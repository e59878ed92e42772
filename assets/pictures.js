// Draws plotly figures in the colors around them and redraws them when these change; for the page and the report.
"use strict";
window.acipPictures ??= (() => {
  const drawn = new Set();
  const framed = new Map(); // plot → its frames: what of it moves with the slider
  let percent = null;
  let waiting = false;

  const themed = () => {
    const style = getComputedStyle(document.body);
    const text = style.getPropertyValue("--body-text-color").trim() || "#333";
    const grid = style.getPropertyValue("--border-color-primary").trim() || "#ddd";
    const axis = (name) => ({ [`${name}.gridcolor`]: grid, [`${name}.linecolor`]: grid, [`${name}.tickcolor`]: grid });
    return { "font.color": text, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", ...axis("xaxis"), ...axis("yaxis") };
  };

  // Pictures are drawn one at a time, with a pause between them in which the page answers.
  const queue = [];
  let busy = false;
  function next() {
    busy = queue.length > 0;
    if (!busy) return;
    if (!window.Plotly) return void setTimeout(next, 50);
    const [plot, figure, frames] = queue.shift();
    if (!plot.isConnected) return next();
    Plotly.newPlot(plot, figure.data, { ...figure.layout }, { displayModeBar: false })
      .then(() => Plotly.relayout(plot, themed()))
      .then(() => {
        drawn.add(plot);
        if (frames) framed.set(plot, frames);
        move();
        new ResizeObserver(() => plot.clientWidth && Plotly.Plots.resize(plot)).observe(plot);
        plot.dataset.ready = "true";
      })
      .finally(() => setTimeout(next, 0));
  }

  function move() {
    waiting = false;
    for (const [plot, frames] of framed) {
      if (!plot.isConnected) framed.delete(plot);
      else if (plot.clientWidth && plot.dataset.percent !== String(percent)) {
        for (const [trace, values] of frames[percent] ?? []) {
          Plotly.restyle(plot, Object.fromEntries(Object.entries(values).map(([key, value]) => [key, [value]])), [trace]);
        }
        plot.dataset.percent = percent;
      }
    }
  }
  window.acip?.moving((now) => {
    percent = now;
    if (waiting || !framed.size) return;
    waiting = true;
    requestAnimationFrame(move);
  });

  function redraw() {
    for (const plot of drawn) {
      if (!plot.isConnected) drawn.delete(plot);
      else Plotly.relayout(plot, themed());
    }
  }
  new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // A list of pictures below one another or side by side; titles and notes are set as text.
  function gallery(element, pictures) {
    const parts = pictures.map(({ title, note, figure, frames }) => {
      const part = document.createElement("figure");
      for (const [tag, text] of [["h3", title], ["div", ""], ["figcaption", note]]) {
        part.appendChild(document.createElement(tag)).textContent = text;
      }
      const plot = part.querySelector("div");
      if (!figure) return plot.remove(), part; // a sentence in its place
      plot.className = "plot";
      part.classList.toggle("wide", figure.data.length > 8); // its legend needs the room
      if (figure.layout.height) plot.style.height = `${figure.layout.height}px`;
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", title);
      queue.push([plot, figure, frames]);
      return part;
    });
    element.replaceChildren(...parts);
    if (!busy) next();
  }

  // A component of the page whose value is such a list.
  function follow(element, props, watch) {
    const show = () => props.value && gallery(element.querySelector(".pictures"), props.value);
    watch("value", show);
    show();
  }

  return { gallery, follow };
})();
