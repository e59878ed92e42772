// What the size under the slider costs to run, against the full model.
"use strict";
window.acipEfficiency = (() => {
  const number = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
  const scaled = (value) => (value >= 1e9 ? `${number(value / 1e9)} G` : `${number(value / 1e6)} M`);
  const SHOWN = { parameters: scaled, bytes: (value) => number(value / 1e6), flops: scaled, speed: number };

  function follow(element) {
    const status = element.querySelector(".status");
    const button = element.querySelector("[data-do=time]");
    const paint = (percent, row) => {
      element.querySelector(".label").textContent = `What ${percent} % costs to run`;
      const full = window.acip.full();
      for (const line of element.querySelectorAll("[data-key]")) {
        const [own, before] = [row[line.dataset.key], full[line.dataset.key]];
        const told = own === undefined ? ["–", "–", "–"] : [...[own, before].map(SHOWN[line.dataset.key]), `${(100 * own / before).toFixed(0)} %`];
        line.querySelectorAll("td").forEach((cell, i) => (cell.textContent = told[i]));
      }
    };
    button.addEventListener("click", () => window.acip.measureSpeed());
    window.acip.timing((message) => {
      status.textContent = message.status;
      button.disabled = message.state === "running";
    });
    window.acip.moving(paint);
  }

  return { follow };
})();
