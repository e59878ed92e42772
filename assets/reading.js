// A text of one's own: its perplexity at every size read so far, and the text itself, every token marked by what it
// lost against the full model at the slider's size. The text is only ever set as textContent.
"use strict";
window.acipReading = (() => {
  const MOST_BYTES = 1_000_000;
  const LEVELS = [[20, "absurd"], [5, "strange"], [2, "odd"], [0, ""]]; // times less likely
  const short = (value) => (value >= 1e5 ? value.toExponential(1) : value.toPrecision(3).replace(/\.0+$/, ""));
  const share = (loss) => `${short(100 * Math.exp(-loss))} %`;

  const put = (text) => window.acip.write(document.querySelector("#own-text textarea"), text);

  // The file's text, or an error with a sentence for people.
  async function textOf(file, most) {
    if (file.size > MOST_BYTES) throw Error(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most 1 MB is taken.`);
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      throw Error(`${file.name} is no text in UTF-8.`);
    }
    if (text.includes("\0")) throw Error(`${file.name} is no text: it holds zero bytes.`);
    if (!text.trim()) throw Error(`${file.name} is empty.`);
    if (text.length > most) throw Error(`${file.name} has ${text.length.toLocaleString("en-US")} characters; at most ${most.toLocaleString("en-US")} are taken.`);
    return text;
  }

  function follow(element, props, watch) {
    const [status, label, page, plot, cursor] = [".status", ".label", "pre", ".plot", ".cursor"].map((part) => element.querySelector(part));
    const area = element.closest("#reading");
    let sizes = new Map();
    let full = null;
    let newest = 0;
    let current = 100;
    let drawn = false;

    const take = async (file) => {
      if (!file) return;
      try {
        put(await textOf(file, props.most));
        status.textContent = file.name;
      } catch (error) {
        status.textContent = error.message;
      }
    };
    const input = element.querySelector("input[type=file]");
    input.addEventListener("change", async () => {
      await take(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
    const over = (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      area.classList.toggle("dropping", event.type === "dragover");
      if (event.type !== "drop") return;
      event.stopPropagation();
      take(event.dataTransfer.files[0]);
    };
    for (const kind of ["dragover", "dragleave", "drop"]) area.addEventListener(kind, over, true);

    const nearest = () =>
      [...sizes.values()].reduce((a, b) => (Math.abs(b.percent - current) < Math.abs((a ?? b).percent - current) ? b : (a ?? b)), null);

    // Losses of a size as numbers; those of a finished one are read once.
    const numbers = (read) => {
      const known = sizes.get(read.percent);
      return known?.done && known.told === read.losses ? known.losses : read.losses.split(" ").map(Number);
    };

    function paint() {
      const read = nearest();
      if (!read) return;
      const same = read.percent === full.percent;
      const worse = same || !read.done ? "" : `, ${short(read.perplexity / full.perplexity)} × the full model's`;
      label.textContent = `At ${read.percent} %${same ? ", the full model" : ""}: perplexity ${short(read.perplexity)}${worse}`;
      page.dataset.percent = read.percent;
      [...page.children].forEach((span, i) => {
        const [own, before] = [read.losses[i], full.losses[i]];
        const times = own === undefined || before === undefined ? 1 : Math.exp(Math.min(own - before, 50));
        const name = LEVELS.find(([least]) => times >= least)[1];
        if (span.className !== name) span.className = name;
        span.dataset.told = own === undefined ? "" : same ? `${share(own)} likely` : `${share(own)} likely, ${share(before)} to the full model`;
      });
    }
    page.addEventListener("mouseover", ({ target }) => target.dataset.told && (target.title = target.dataset.told));

    function draw() {
      const done = [...sizes.values()].filter((read) => read.done).sort((a, b) => a.ratio - b.ratio);
      const color = getComputedStyle(document.body).getPropertyValue("--color-accent").trim();
      const trace = {
        x: done.map((read) => 100 * read.ratio), y: done.map((read) => read.perplexity), mode: "lines+markers", type: "scatter",
        line: { color, width: 3 }, marker: { size: done.map((read) => (read.percent === 100 ? 11 : 6)), symbol: done.map((read) => (read.percent === 100 ? "diamond" : "circle")) },
        hovertemplate: "%{x:.0f} %<br>perplexity %{y:.4g}<extra>your text</extra>",
      };
      const ticks = [1, 2, 5].flatMap((digit) => [...Array(9).keys()].map((power) => digit * 10 ** power));
      const axis = { fixedrange: true, zeroline: false };
      const layout = {
        xaxis: { ...axis, title: { text: "size of the compressed layers, %", standoff: 8 }, range: [props.low - 2, 102], dtick: 10 },
        yaxis: { ...axis, title: { text: "perplexity of your text" }, type: "log", tickvals: ticks, ticktext: ticks.map((tick) => tick.toLocaleString("en-US")) },
        margin: { l: 56, r: 12, t: 8, b: 44 }, hovermode: "closest", dragmode: false, showlegend: false, font: { size: 12, family: "system-ui, sans-serif" },
      };
      acipPlot.draw(plot, [trace], layout).then(() => {
        if (!drawn) {
          plot.on("plotly_afterplot", point);
          plot.on("plotly_click", ({ points }) => Number.isFinite(points[0]?.x) && window.acip.go(Math.round(points[0].x)));
        }
        drawn = true;
        plot.dataset.points = done.length;
        point();
      });
    }
    const point = () => drawn && plot.clientWidth && window.acip.place(cursor, plot, 100 * (row?.ratio ?? 1));

    let row = null;
    window.acip.moving((percent, known) => {
      [current, row] = [percent, known];
      if (!element.isConnected || !sizes.size) return;
      paint();
      point();
    });
    watch("value", () => {
      const message = props.value;
      if (!message || message.run < newest) return;
      newest = message.run;
      status.textContent = message.status;
      element.dataset.state = message.state;
      if (!message.sizes.length) return; // what was read before stays until there is more
      element.querySelector(".read").hidden = false;
      if (message.pieces.some((piece, i) => page.children[i]?.textContent !== piece) || page.childElementCount !== message.pieces.length) {
        page.replaceChildren(...message.pieces.map((piece) => Object.assign(document.createElement("span"), { textContent: piece })));
      }
      const finished = [...sizes.values()].filter((read) => read.done).length;
      sizes = new Map(message.sizes.map((read) => [read.percent, { ...read, told: read.losses, losses: numbers(read) }]));
      full = sizes.get(100);
      paint();
      if (!drawn || message.sizes.filter((read) => read.done).length !== finished) draw();
    });
  }

  return { follow };
})();
