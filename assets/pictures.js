// Galleries of figures with a title and a note each, for the page and the report.
"use strict";
window.acipPictures ??= (() => {
  const framed = new Map(); // plot → its frames: what of it moves with the slider
  let percent = null;
  let waiting = false;

  // Pictures are drawn one at a time, with a pause between them in which the page answers.
  const queue = [];
  let busy = false;
  function next() {
    busy = queue.length > 0;
    if (!busy) return;
    const [plot, figure, frames] = queue.shift();
    if (!plot.isConnected) return next();
    acipPlot
      .draw(plot, figure.data, figure.layout)
      .then(() => {
        if (frames) framed.set(plot, frames);
        move();
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
          const update = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, [value]]));
          acipPlot.change(plot, () => Plotly.restyle(plot, update, [trace]));
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
