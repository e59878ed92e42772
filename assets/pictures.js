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

  // What of a picture is looked at alone.
  function chooser(plot, title, choices) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", `${title}: what is shown`);
    select.append(...choices.map(([name]) => new Option(name)));
    select.addEventListener("change", () => {
      const shown = new Set(choices[select.selectedIndex][1]);
      const visible = plot.data.map((_, i) => shown.has(i));
      acipPlot.change(plot, () => Plotly.restyle(plot, { visible })).then(() => (plot.dataset.shown = select.value));
    });
    return select;
  }

  // A list of pictures below one another or side by side; titles and notes are set as text.
  function gallery(element, pictures) {
    const parts = pictures.map(({ title, note, figure, frames, choices }) => {
      const part = document.createElement("figure");
      for (const [tag, text] of [["h3", title], ["div", ""], ["figcaption", note]]) {
        part.appendChild(document.createElement(tag)).textContent = text;
      }
      const plot = part.querySelector("div");
      if (!figure) return plot.remove(), part; // a sentence in its place
      plot.className = "plot";
      part.classList.toggle("wide", figure.data.length > 8); // its legend needs the room
      if (figure.layout.height && figure.data.length > 8 && element.clientWidth < 600) figure.layout.height += 220; // one name a line
      if (figure.layout.height) plot.style.height = `${figure.layout.height}px`;
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", title);
      queue.push([plot, figure, frames]);
      if (choices) plot.before(chooser(plot, title, choices));
      return part;
    });
    element.replaceChildren(...parts);
    if (!busy) next();
  }

  // Fetches the gallery that a place names and fills it in; what comes for a former name is dropped.
  async function load(place) {
    const name = place.dataset.gallery;
    const say = (text) => {
      const line = document.createElement("p");
      line.className = "status";
      line.setAttribute("role", "status");
      line.textContent = text;
      place.replaceChildren(line);
      return line;
    };
    if (!place.childElementCount) say("Drawing …");
    let pictures = null;
    try {
      const answer = await fetch(`acip/pictures/${encodeURIComponent(name)}`);
      if (!answer.ok) throw new Error(answer.statusText);
      pictures = await answer.json();
    } catch {
      if (place.dataset.gallery !== name) return;
      const again = document.createElement("button");
      again.type = "button";
      again.textContent = "Try again";
      again.addEventListener("click", () => (place.replaceChildren(), load(place)));
      return say("The pictures did not arrive. ").append(again);
    }
    if (place.dataset.gallery === name) gallery(place, pictures);
  }

  // Within a component of the page: loads its gallery when it is first seen.
  function seen(element) {
    const place = element.querySelector("[data-gallery]");
    const watching = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watching.disconnect();
      load(place);
    }, { rootMargin: "1000px" });
    watching.observe(place);
  }

  // Another gallery in the same place.
  function turn(id, name) {
    const place = document.querySelector(`#${id} [data-gallery]`);
    place.dataset.gallery = name;
    load(place);
  }

  return { gallery, seen, turn };
})();
