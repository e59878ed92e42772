// The page's behaviour within the browser: readouts and plot follow a drag without asking the server, the completion
// restarts when the slider comes to rest, and only what belongs to the slider's position is shown. Model output is
// only ever set as textContent.
"use strict";
window.acip = (() => {
  const SETTLE_MS = 80; // a held arrow key repeats faster than this
  const MOST_CHARACTERS = 200000; // of a prompt, as of a text of one's own; one that is much longer never gets to the model
  const ANSWER_MS = 4000; // a run says within this time at least who is ahead
  const size = { percent: 100, low: 30, high: 100 };
  const followers = []; // called with the new percentage on every movement
  let rows = new Map(); // percentage → row of the size table
  const titles = new Map(); // corpus → its name for people
  let restart = () => {};
  let recall = () => {}; // shows a completion of before
  const comers = []; // called with every completion that is finished
  let settling = 0;
  let measureSpeed = () => {};
  let speed = { state: "", status: "", speeds: {} };
  const timers = []; // called with every message about speed

  // ---- the slider ------------------------------------------------------------------------------------------------
  const inSlider = (event) => event.target instanceof HTMLInputElement && event.target.closest("#size");
  const clamp = (percent) => Math.min(Math.max(Math.round(percent), size.low), size.high);

  function moved(value) {
    const percent = clamp(value);
    if (!Number.isFinite(percent) || percent === size.percent) return;
    size.percent = percent;
    followers.forEach((follow) => follow(percent));
  }

  // As if a visitor had typed it.
  function write(field, text) {
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, text);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  const setSlider = (input, percent) => write(input, String(percent));

  function settled() {
    clearTimeout(settling);
    settling = setTimeout(() => restart(), SETTLE_MS);
  }

  document.addEventListener("input", (event) => {
    if (inSlider(event) && event.target.value !== "") moved(Number(event.target.value));
  });
  document.addEventListener("change", (event) => {
    if (!inSlider(event)) return;
    const typed = Number(event.target.value);
    if (event.target.value === "" || typed !== clamp(typed)) {
      setSlider(event.target, event.target.value === "" ? size.percent : clamp(typed));
    }
    settled();
  });

  // Another prompt or setting starts over, once it is left or taken; not if it was asked for, or is about to be.
  let pressing = false; // the button that asks for it
  document.addEventListener("pointerdown", (event) => (pressing = Boolean(event.target.closest?.("#run"))), true);
  for (const kind of ["pointerup", "pointercancel"]) document.addEventListener(kind, () => (pressing = false), true);
  document.addEventListener("change", (event) => {
    if (pressing || !event.target.closest?.("#prompt, #advanced")) return;
    const prompt = document.querySelector("#prompt textarea").value;
    if (event.target.closest("#prompt") && prompt === window.acipLink.asked()) return;
    if (prompt.trim()) settled();
  });

  const PAGES = { PageUp: 10, PageDown: -10 }; // as screen readers tell, and not a tenth of the slider's length
  document.addEventListener("keydown", (event) => {
    if (!inSlider(event) || !PAGES[event.key]) return;
    event.preventDefault();
    go(clamp(size.percent + PAGES[event.key]));
  });

  // Move to a size without running anything; returns where the slider can be.
  function show(percent) {
    const known = clamp(percent);
    setSlider(document.querySelector("#size input[type=range]"), known);
    moved(known);
    return known;
  }

  function go(percent) {
    setSlider(document.querySelector("#size input[type=range]"), percent);
    settled();
  }

  // A file dropped beside the place for it must not replace the page.
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
  }

  // ---- readouts and ticks ----------------------------------------------------------------------------------------
  const fixed = (value, digits) =>
    value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const perplexity = (value) =>
    value === undefined ? "–" : value >= 1e5 ? value.toExponential(1) : fixed(value, value < 100 ? 1 : 0);

  function sizes(element, props, watch, time) {
    rows = new Map(props.table.map((row) => [row.percent, row]));
    size.low = props.table[0].percent;
    const cells = new Map([...element.querySelectorAll("[data-key]")].map((cell) => [cell.dataset.key, cell]));
    const show = (percent) => {
      const row = rows.get(percent);
      cells.get("ratio").textContent = fixed(row.ratio, 3);
      cells.get("parameters").textContent = fixed(row.parameters / 1e6, 1) + " M";
      cells.get("megabytes").textContent = fixed(row.bytes / 1e6, 0) + " MB";
      cells.get("saved").textContent = fixed(100 * row.saved, 1) + " %";
      for (const [key, cell] of cells) {
        if (key.startsWith("ppl-")) cell.textContent = perplexity(row.perplexity[key.slice(4)]);
      }
    };
    drawTicks(element.querySelector(".ticks"), props.ticks);
    aim(element.querySelector(".aim"));
    followers.push(show);
    show(size.percent);
    measureSpeed = time;
    watch("value", () => props.value && clocked(props.value));
  }

  // Speeds as they are measured; between two sizes they lie on a straight line.
  function clocked(message) {
    speed = message;
    const known = Object.entries(message.speeds).map(([percent, value]) => [Number(percent), value]).sort((a, b) => a[0] - b[0]);
    for (const row of known.length ? rows.values() : []) {
      const above = Math.max(1, known.findIndex(([percent]) => percent >= row.percent));
      const [[low, slow], [high, fast]] = [known[Math.min(above, known.length - 1) - 1] ?? known[0], known[Math.min(above, known.length - 1)]];
      row.speed = low === high ? slow : slow + ((fast - slow) * (row.percent - low)) / (high - low);
    }
    timers.forEach((told) => told(message));
    followers.forEach((follow) => follow(size.percent));
  }

  // A target instead of a size: the largest size within a budget of bytes or parameters, the smallest within one of
  // perplexity. Follows the slider otherwise.
  function aim(form) {
    const [number, unit, told] = ["input", "select", ".told"].map((part) => form.querySelector(part));
    const worse = (row, corpus) => 100 * (row.perplexity[corpus] / rows.get(100).perplexity[corpus] - 1);
    const value = (row) => (unit.value.startsWith("ppl-") ? worse(row, unit.value.slice(4)) : row[unit.value] / 1e6);
    const digits = () => Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value(rows.get(100))) || 10))); // three figures
    const show = () => {
      if (document.activeElement === number) return;
      const current = value(rows.get(size.percent));
      number.value = Number.isFinite(current) ? current.toFixed(digits()) : "";
    };
    const reason = (row) => {
      const least = fixed(Math.abs(value(row)), digits());
      if (unit.value.startsWith("ppl-")) return `${row.percent} % is ${least} % ${value(row) < 0 ? "better" : "worse"}`;
      return `even ${row.percent} % has ${least} ${unit.value === "bytes" ? "MB" : "million"}`;
    };
    const reach = () => {
      const target = Number(number.value);
      if (number.value === "" || !Number.isFinite(target)) return;
      const within = [...rows.values()].filter((row) => value(row) <= target + 0.5 * 10 ** -digits());
      const best = unit.value.startsWith("ppl-") ? within[0] : within[within.length - 1]; // rows come smallest first
      const nearest = best ?? [...rows.values()].reduce((a, b) => (value(b) < value(a) ? b : a));
      told.textContent = best ? "" : `not reachable: ${reason(nearest)}`;
      if (nearest.percent !== size.percent) go(nearest.percent);
    };
    number.addEventListener("change", reach);
    number.addEventListener("blur", show);
    unit.addEventListener("change", () => {
      told.textContent = "";
      show();
    });
    followers.push(() => {
      if (document.activeElement !== number) told.textContent = "";
      show();
    });
    show();
  }

  function drawTicks(strip, ticks) {
    for (const percent of ticks.filter((tick) => tick >= size.low && tick <= size.high)) {
      const tick = document.createElement("button");
      tick.type = "button";
      tick.className = percent % 10 ? "tick minor" : "tick";
      tick.style.setProperty("--at", (percent - size.low) / (size.high - size.low));
      tick.textContent = percent % 10 ? "" : percent;
      tick.title = `Go to ${percent} %, measured`;
      tick.setAttribute("aria-label", tick.title);
      tick.addEventListener("click", () => go(percent));
      strip.append(tick);
    }
  }

  function drawReady(texts) {
    const strip = document.querySelector("#readouts .ready");
    const finished = [...texts].filter(([, known]) => known.finished).map(([percent]) => percent);
    if (!strip || strip.childElementCount === finished.length) return;
    strip.replaceChildren(
      ...finished.map((percent) => {
        const mark = document.createElement("i");
        mark.style.setProperty("--at", (percent - size.low) / (size.high - size.low));
        return mark;
      }),
    );
    strip.title = finished.length ? `${finished.length} sizes can be seen while dragging` : "";
  }

  function nearest(texts) {
    let best = null;
    for (const percent of texts.keys()) {
      if (best === null || Math.abs(percent - size.percent) < Math.abs(best - size.percent)) best = percent;
    }
    return best;
  }

  // ---- the completion --------------------------------------------------------------------------------------------
  function completion(element, props, watch, start) {
    const pane = { prompt: ".prompt", text: ".text", ahead: ".ahead", status: ".status", label: ".label", page: "pre" };
    for (const [key, selector] of Object.entries(pane)) pane[key] = element.querySelector(selector);
    let newest = 0; // id of the newest run seen; a smaller one comes late
    let latest = null;
    let recalled = null; // a completion of before, shown again
    let unanswered = 0;
    let ready = { key: null, prompt: "", beforehand: false, texts: new Map() }; // of other sizes, for the next drag

    const forget = (event) => {
      if (event && !event.target.closest?.("#prompt, #advanced")) return;
      ready = { key: null, prompt: "", beforehand: false, texts: new Map() };
      drawReady(ready.texts);
    };
    const gather = (message) => {
      if (message.key === undefined) return;
      if (message.key !== ready.key) {
        ready = { key: message.key, prompt: message.prompt, beforehand: message.beforehand, texts: new Map() };
      }
      for (const [percent, text, finished] of message.ready) ready.texts.set(percent, { text, finished });
      drawReady(ready.texts);
    };
    const scrub = () => {
      const near = nearest(ready.texts);
      element.classList.toggle("stale", near === null);
      if (near === null) return;
      pane.prompt.textContent = ready.prompt;
      pane.text.textContent = ready.texts.get(near).text;
      pane.ahead.textContent = "";
      pane.label.textContent = `Completion at ${near} %`;
      pane.status.textContent = ready.beforehand ? "written beforehand; let go to run it" : "let go to run it";
      element.dataset.state = "ready";
      element.dataset.percent = near;
    };
    const paint = () => {
      if (recalled?.percent !== size.percent) recalled = null; // the slider has left it
      const shown = recalled ?? latest;
      if (shown === null || shown.percent !== size.percent) return scrub();
      element.classList.remove("stale");
      const known = ready.texts.get(shown.percent)?.text ?? "";
      const follow = pane.page.scrollHeight - pane.page.scrollTop - pane.page.clientHeight < 40;
      pane.prompt.textContent = shown.prompt;
      pane.text.textContent = shown.text;
      pane.ahead.textContent =
        shown.state === "running" && known.startsWith(shown.text) ? known.slice(shown.text.length) : "";
      pane.label.textContent = `Completion at ${shown.percent} %`;
      pane.status.textContent = shown.status;
      element.dataset.state = shown.state;
      element.dataset.percent = shown.percent;
      if (follow) pane.page.scrollTop = pane.page.scrollHeight;
    };
    const clear = () => {
      newest += 1; // whatever the former run still sends is late from here on
      latest = recalled = null;
      pane.text.textContent = "";
      pane.ahead.textContent = ready.texts.get(size.percent)?.text ?? ""; // stays until the live text has caught up
      pane.status.textContent = "starting";
      pane.label.textContent = `Completion at ${size.percent} %`;
      element.dataset.state = "running";
      element.dataset.percent = size.percent;
      element.classList.remove("stale");
      const asked = size.percent;
      clearTimeout(unanswered); // what is asked while Gradio closes its stream is never answered
      const characters = document.querySelector("#prompt textarea").value.length;
      if (characters <= MOST_CHARACTERS) {
        unanswered = setTimeout(() => latest?.percent !== asked && start(), ANSWER_MS);
        return;
      }
      element.dataset.state = "error";
      pane.status.textContent = `The prompt has ${fixed(characters, 0)} characters; at most ${fixed(MOST_CHARACTERS, 0)} are taken.`;
    };
    restart = () => {
      clear();
      start();
    };
    document.addEventListener("click", (event) => event.target.closest?.("#run") && clear());
    document.addEventListener("input", forget);
    watch("value", () => {
      const message = props.value;
      if (!message || message.run < newest) return;
      newest = message.run;
      latest = message;
      gather(message);
      paint();
      if (message.state === "done") comers.forEach((come) => come(message));
    });
    recall = (visit) => {
      const prompt = document.querySelector("#prompt textarea");
      if (visit.prompt && prompt.value !== visit.prompt) write(prompt, visit.prompt);
      show(visit.percent);
      recalled = { ...visit, state: "done" };
      paint();
    };
    followers.push(paint);
  }

  // ---- what can be saved ------------------------------------------------------------------------------------------
  function saveImage(plot) {
    const layout = { ...plot.layout, paper_bgcolor: getComputedStyle(document.body).backgroundColor };
    Plotly.downloadImage({ data: plot.data, layout }, { format: "png", width: 1200, height: 700, filename: "perplexity" });
  }

  function saveTable(plot) {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const lines = plot.data.flatMap((trace) =>
      trace.meta.flatMap((x, i) => (Number.isFinite(x) ? [[quoted(trace.name), x, trace.customdata?.[i]?.[0] ?? "", trace.y[i]].join(",")] : [])),
    );
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["series,size in %,MB,perplexity", ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "perplexity.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // ---- the plot --------------------------------------------------------------------------------------------------
  // A row's value at any percentage, between two of them on a straight line.
  function between(percent, value) {
    const low = Math.min(Math.max(Math.floor(percent), size.low), 100 - 1);
    const [a, b] = [low, low + 1].map((each) => value(rows.get(each) ?? rows.get(100)));
    return a + (b - a) * (percent - low);
  }
  const AXES = {
    ratio: { key: "ratio", title: "size of the compressed layers, %", of: (percent) => percent },
    bytes: { key: "bytes", title: "size of the whole model, MB", of: (percent) => between(percent, (row) => row.bytes / 1e6) },
    speed: { key: "speed", title: "tokens per second on this machine", of: (percent) => between(percent, (row) => row.speed) },
  };

  // Puts the cursor over a drawn plot at a value of its x axis; returns where that is in pixels.
  function place(cursor, plot, value) {
    const { xaxis, yaxis } = plot._fullLayout;
    const x = xaxis._offset + xaxis.l2p(value);
    cursor.style.height = `${yaxis._length}px`;
    cursor.style.transform = `translate(${x}px, ${yaxis._offset}px)`;
    return x;
  }

  function chart(element, props, watch) {
    const plot = element.querySelector(".plot");
    const status = element.querySelector(".status");
    const taken = new Map(); // "corpus at ratio" → measured point
    let drawn = false;
    let newest = 0;
    let axis = AXES.ratio;
    const measured = props.figure.data.length; // index of the trace of measured points
    const cursor = element.querySelector(".cursor"); // over the plot, for redrawing it takes longer than a frame
    const rings = props.corpora.map((c) => {
      titles.set(c.corpus, c.title);
      const ring = document.createElement("i");
      ring.style.borderColor = c.color;
      ring.className = c.symbol;
      cursor.parentElement.append(ring);
      return { ring, corpus: c.corpus };
    });

    const follow = () => {
      if (!drawn) return;
      const { yaxis } = plot._fullLayout;
      const row = rows.get(size.percent);
      const x = place(cursor, plot, along(100 * (row?.ratio ?? size.percent / 100)));
      for (const { ring, corpus } of rings) {
        const y = yaxis.l2p(Math.log10(row?.perplexity[corpus]));
        ring.hidden = !(y >= 0 && y <= yaxis._length);
        ring.style.transform = `translate(${x}px, ${yaxis._offset + y}px)`;
      }
      plot.dataset.percent = size.percent;
    };
    const showMeasured = () => {
      const points = [...taken.values()];
      const update = {
        x: [points.map((p) => along(p.x))],
        meta: [points.map((p) => p.x)],
        y: [points.map((p) => p.value)],
        "marker.color": [points.map((p) => p.color)],
        "error_y.array": [points.map((p) => p.high - p.value)],
        "error_y.arrayminus": [points.map((p) => p.value - p.low)],
        text: [points.map((p) => `${p.title}, measured here<br>${p.done} of ${p.total} windows<br>perplexity ${p.value.toPrecision(4)}`)],
      };
      plot.dataset.measured = points.length;
      if (!drawn) return;
      acipPlot.change(plot, () => {
        const [bottom, top] = plot.layout.yaxis.range; // grows until it holds every measured point
        const ends = points.map((p) => Math.log10(p.value));
        const range = [Math.min(bottom, ...ends.map((end) => end - 0.1)), Math.max(top, ...ends.map((end) => end + 0.1))];
        return Plotly.update(plot, update, { "yaxis.range": range }, [measured]);
      });
    };
    // What perplexity is shown against. Speed is known of the model's own cuts alone, so other lines leave.
    const redraw = () => {
      if (!drawn) return;
      const own = new Set(props.corpora.map((c) => c.title));
      const shown = (trace) => axis.key !== "speed" || own.has(trace.name.replace(", full model", "")) || trace === plot.data[measured];
      const x = plot.data.map((trace) => trace.meta.map((percent) => (!shown(trace) ? null : Number.isFinite(percent) ? along(percent) : percent)));
      const ends = [size.low, 100].map(along);
      const pad = Math.abs(ends[1] - ends[0]) * 0.03;
      const layout = {
        "xaxis.range": [Math.min(...ends) - pad, Math.max(...ends) + pad], "xaxis.title.text": axis.title,
        "xaxis.dtick": axis.key === "ratio" ? 10 : null, "xaxis.autotick": axis.key !== "ratio",
      };
      const key = axis.key;
      acipPlot.change(plot, () => Plotly.update(plot, { x }, layout, plot.data.map((_, i) => i))).then(() => (plot.dataset.axis = key));
    };
    const along = (percent) => axis.of(percent);
    const select = element.querySelector("[data-axis]");
    select.addEventListener("change", () => {
      axis = AXES[select.value];
      if (axis.key === "speed" && speed.state !== "done") measureSpeed();
      if (axis.key !== "speed" || Object.keys(speed.speeds).length) redraw();
    });
    timers.push((message) => {
      if (axis.key !== "speed") return;
      status.textContent = message.status;
      if (Object.keys(message.speeds).length) redraw();
    });

    const draw = () => {
      const dot = { x: [], y: [], mode: "markers", type: "scatter" };
      const data = [
        ...props.figure.data.map((trace) => ({ ...trace, meta: trace.x })),
        {
          ...dot, meta: [], name: "measured here", showlegend: false, hovertemplate: "%{text}<extra></extra>",
          marker: { symbol: "star", size: 13, line: { width: 1, color: "white" } },
          error_y: { type: "data", array: [], symmetric: false, color: "gray", thickness: 1.5 },
        },
      ];
      acipPlot.draw(plot, data, props.figure.layout).then(() => {
        drawn = true;
        plot.on("plotly_afterplot", follow);
        plot.on("plotly_click", ({ points: [point] }) => {
          const percent = point && plot.data[point.curveNumber].meta[point.pointNumber];
          if (Number.isFinite(percent)) go(clamp(percent));
        });
        element.querySelectorAll("[data-save]").forEach((button) => {
          button.addEventListener("click", () => (button.dataset.save === "png" ? saveImage(plot) : saveTable(plot)));
        });
        showMeasured();
        follow();
        plot.dataset.ready = "true";
      });
    };
    watch("value", () => {
      const message = props.value;
      if (!message || message.run < newest) return;
      newest = message.run;
      status.textContent = message.status;
      element.dataset.state = message.state;
      for (const point of message.points) taken.set(`${point.corpus} ${message.ratio}`, { ...point, x: 100 * message.ratio });
      showMeasured();
    });
    followers.push(follow);
    draw();
  }

  const facts = (percent) => {
    const row = rows.get(percent);
    const values = Object.entries(row.perplexity).map(([corpus, value]) => `${perplexity(value)} on ${titles.get(corpus)}`);
    return [`${fixed(row.bytes / 1e6, 0)} MB`, ...(values.length ? [`perplexity ${values.join(", ")}`] : [])];
  };

  // Calls with the slider's percentage and its row of the table, now and on every movement.
  const moving = (follow) => {
    const call = (percent) => rows.has(percent) && follow(percent, rows.get(percent));
    followers.push(call);
    call(size.percent);
  };
  // A sentence under the page's title.
  const note = (text) => {
    const line = document.createElement("p");
    line.className = "note";
    line.setAttribute("role", "status");
    line.textContent = text;
    document.querySelector("#header .bar").parentElement.append(line);
    return line;
  };
  const visited = (come) => comers.push(come);
  const timing = (told) => (timers.push(told), told(speed));
  const full = () => rows.get(100);
  const knows = (percent) => rows.has(percent);
  return { sizes, completion, chart, write, note, knows, go, show, full, facts, moving, timing, measureSpeed: () => measureSpeed(), place, visited, recall: (visit) => recall(visit) };
})();
