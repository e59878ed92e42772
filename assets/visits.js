// What was seen stays: a chip for every size visited, a key that flips between the last two, undo and redo.
"use strict";
window.acipVisits = (() => {
  const MOST = 40;
  let all = () => [];
  let put = () => {};
  const typing = (target) => target.closest?.("textarea, select, [contenteditable], input:not([type=range])");

  function follow(element) {
    const list = element.querySelector(".chips");
    const buttons = Object.fromEntries([...element.querySelectorAll("[data-do]")].map((b) => [b.dataset.do, b]));
    let visits = []; // in the order of the first visit
    let past = []; // what undo goes back to, the latest last
    let future = [];
    let current = null;

    const same = (a, b) => a.percent === b.percent && a.prompt === b.prompt && a.text === b.text;
    const show = (visit) => {
      current = visit;
      window.acip.recall(visit);
      window.acipLink.visit(visit.prompt, visit.percent);
      paint();
    };
    const come = (message) => {
      const visit = { percent: message.percent, prompt: message.prompt, text: message.text, status: message.status };
      if (current && same(current, visit)) return;
      const known = visits.find((each) => same(each, visit));
      if (!known) visits = [...visits, visit].slice(-MOST);
      if (current) past.push(current);
      future = [];
      current = known ?? visit;
      paint();
    };
    const actions = {
      undo: () => past.length && (future.push(current), show(past.pop())),
      redo: () => future.length && (past.push(current), show(future.pop())),
      toggle: () => {
        const other = past.pop();
        if (!other) return;
        past.push(current);
        show(other);
      },
      clear: () => {
        visits = current ? [current] : [];
        past = [];
        future = [];
        paint();
      },
    };

    function paint() {
      while (list.childElementCount > visits.length) list.lastChild.remove();
      visits.forEach((visit, i) => {
        const item = list.children[i] ?? list.appendChild(document.createElement("li"));
        const chip = item.firstChild ?? item.appendChild(document.createElement("button"));
        chip.type = "button";
        const facts = window.acip.facts(visit.percent);
        chip.textContent = `${visit.percent} % · ${facts[0]}`;
        chip.title = [facts.slice(1).join(", "), `${visit.prompt}${visit.text}`.slice(0, 300)].filter(Boolean).join("\n");
        chip.setAttribute("aria-label", `Back to ${visit.percent} %: ${facts.join(", ")}`);
        if (visit === current) chip.setAttribute("aria-current", "true");
        else chip.removeAttribute("aria-current");
        chip.onclick = () => {
          if (visit === current) return window.acip.recall(visit);
          past.push(current);
          future = [];
          show(visit);
        };
      });
      buttons.undo.disabled = !past.length;
      buttons.toggle.disabled = !past.length;
      buttons.redo.disabled = !future.length;
      buttons.clear.disabled = visits.length < 2;
      element.dataset.visits = visits.length;
    }

    for (const [name, button] of Object.entries(buttons)) button.addEventListener("click", actions[name]);
    document.addEventListener("keydown", (event) => {
      if (typing(event.target)) return;
      const control = event.ctrlKey || event.metaKey;
      const key = event.key.toLowerCase();
      const name = control && key === "z" ? (event.shiftKey ? "redo" : "undo") : !control && !event.altKey && key === "t" ? "toggle" : null;
      if (!name) return;
      event.preventDefault();
      actions[name]();
    });
    window.acip.visited(come);
    all = () => visits;
    put = (before) => {
      visits = [...before.filter((visit) => window.acip.knows(visit.percent)), ...visits].slice(-MOST);
      paint();
    };
    paint();
  }

  return { follow, all: () => all(), put: (visits) => put(visits) };
})();
