// The address bar carries prompt, size and settings: whoever opens a shared link sees the same screen.
"use strict";
window.acipLink = (() => {
  const MOST = 4000; // characters of a prompt; longer ones are left out
  // name in the link, smallest and largest value; the order of the page's inputs
  const PARTS = [["prompt"], ["size", 1, 100], ["temperature", 0, 2], ["top_p", 0.05, 1], ["seed", 0, 2 ** 31 - 1], ["length", 8, 512], ["chat"]];
  let written = "";
  let asked = null; // the latest prompt that was sent

  const value = (text, [name, low, high], before) => {
    if (text === null) return before;
    if (name === "prompt") return text.slice(0, MOST);
    if (name === "chat") return text === "1";
    const number = Number(text);
    return text.trim() !== "" && Number.isFinite(number) ? Math.min(Math.max(number, low), high) : before;
  };

  function read(inputs) {
    const link = new URLSearchParams(location.hash.slice(1));
    const found = PARTS.map((part, i) => value(link.get(part[0]), part, inputs[i]));
    found[1] = window.acip.show(found[1]);
    const [model, own] = [link.get("model"), document.querySelector("#header [data-model]")?.dataset.model];
    if (model && own && model !== own) {
      window.acip.note(`This link was made with ${model.slice(0, 100)}; this page runs ${own}.`);
    }
    found[0] = window.acipKept.prompt() ?? found[0];
    window.acipKept.restore();
    return found;
  }

  // The page has a base address, so a hash alone would drop what stands before it, and plots lose their clipping by that.
  function put(link) {
    written = `#${link}`;
    history.replaceState(history.state, "", location.pathname + location.search + written);
  }

  function write(inputs) {
    const link = new URLSearchParams({ model: document.querySelector("#header [data-model]")?.dataset.model ?? "" });
    PARTS.forEach(([name], i) => {
      const text = name === "chat" ? (inputs[i] ? "1" : "") : String(inputs[i] ?? "");
      if (text && text.length <= MOST) link.set(name, text);
    });
    put(link);
    asked = inputs[0];
    return inputs;
  }

  // A size of before is shown again.
  function visit(prompt, percent) {
    const link = new URLSearchParams(location.hash.slice(1));
    link.set("size", percent);
    if (prompt && prompt.length <= MOST) link.set("prompt", prompt);
    put(link);
  }

  // Another model or precision was chosen; it is asked for once that is confirmed.
  const open = () => document.querySelector("#switch-told p").dataset;
  function switching([model, precision]) {
    const wanted = [model !== open().model && model, precision !== open().precision && precision].filter(Boolean);
    document.querySelector("#switch-asked").dataset.asked = wanted.length > 0;
    document.querySelector("#switch-told b").textContent = wanted.join(" at ");
  }
  function kept() {
    document.querySelector("#switch-asked").dataset.asked = false;
    return [open().model, open().precision];
  }

  // Another model was asked for: the same screen with it, as soon as another server answers.
  let leaving = false;
  async function leave() {
    if (leaving) return; // it was confirmed twice
    leaving = window.acipKept.ask();
    document.querySelector("#switch-asked").dataset.asked = false;
    const link = new URLSearchParams(location.hash.slice(1));
    link.delete("model");
    put(link);
    window.acip.note("Switching …");
    do await new Promise((done) => setTimeout(done, 200));
    while ((await window.acipKept.server()) !== "other");
    location.reload();
  }

  addEventListener("hashchange", () => location.hash !== written && location.reload());
  return { read, write, visit, switching, kept, leave, asked: () => asked };
})();
