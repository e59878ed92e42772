// The compare view: one column per size, all one token further with every message. Model output is only ever set as
// textContent.
"use strict";
window.acipCompare = (() => {
  const LEVELS = [[0.5, "likely"], [0.1, "odd"], [0.01, "strange"], [0, "absurd"]];
  const level = (probability) => LEVELS.find(([least]) => probability >= least)[1];
  const percent = (share) => (share >= 0.995 || share < 0.0005 ? (100 * share).toFixed(0) : (100 * share).toPrecision(2)) + " %";

  function column() {
    const part = (tag, name, parent) => {
      const element = document.createElement(tag);
      element.className = name;
      parent.append(element);
      return element;
    };
    const root = document.createElement("div");
    root.setAttribute("role", "listitem");
    root.className = "column";
    const head = part("button", "head", root);
    head.type = "button";
    const view = { root, size: part("b", "", head), facts: part("span", "", head), agreement: part("p", "agreement", root) };
    view.page = part("pre", "", root);
    view.page.dir = "auto";
    view.page.tabIndex = 0;
    view.prompt = part("span", "prompt", view.page);
    view.text = part("span", "text", view.page);
    head.addEventListener("click", () => window.acip.go(view.percent));
    return view;
  }

  function paintTokens(view, message) {
    const spans = view.text.children;
    while (spans.length > message.tokens.length) view.text.lastChild.remove();
    message.tokens.forEach(([text, probability], i) => {
      const span = spans[i] ?? view.text.appendChild(document.createElement("span"));
      if (span.textContent !== text) span.textContent = text;
      const parted = i === message.parted;
      const name = [probability === null ? "" : level(probability), parted ? "parted" : ""].join(" ").trim();
      if (span.className !== name) span.className = name;
      const told = probability === null ? "" : `${percent(probability)} likely to the full model`;
      span.title = [parted ? "leaves the full model's own text here" : "", told].filter(Boolean).join("; ");
    });
  }

  function paint(view, message, prompt) {
    const facts = window.acip.facts(message.percent);
    view.percent = message.percent;
    view.size.textContent = `${message.percent} %`;
    view.facts.textContent = facts.join(" · ");
    const label = `Set the slider to ${message.percent} %`;
    view.root.firstChild.title = label;
    view.root.firstChild.setAttribute("aria-label", `${label}: ${facts.join(", ")}`);
    view.page.setAttribute("aria-label", `Completion at ${message.percent} %`);
    view.root.dataset.percent = message.percent;
    view.root.dataset.finish = message.finish;
    view.agreement.textContent =
      message.percent === 100 ? "the full model" : message.equal === null ? " " : agreement(message);
    const follow = view.page.scrollHeight - view.page.scrollTop - view.page.clientHeight < 40;
    view.prompt.textContent = prompt;
    paintTokens(view, message);
    if (follow) view.page.scrollTop = view.page.scrollHeight;
  }

  function agreement(message) {
    if (message.parted === null) return message.finish ? "the full model's text" : "the full model's text so far";
    if (message.parted === 0) return `another text from the first token, ${percent(message.equal)} equal`;
    const tokens = `${message.parted} token${message.parted === 1 ? "" : "s"}`;
    return `equal for ${tokens}, ${percent(message.equal)} of all`;
  }

  function follow(element, props, watch) {
    const columns = element.querySelector(".columns");
    const status = element.querySelector(".status");
    let views = [];
    let newest = 0;
    watch("value", () => {
      const message = props.value;
      if (!message || message.run < newest) return;
      newest = message.run;
      status.textContent = message.status;
      element.dataset.state = message.state;
      if (message.state === "error") return; // the texts of the former run stay
      if (views.length !== message.columns.length) {
        views = message.columns.map(column);
        columns.replaceChildren(...views.map((view) => view.root));
        columns.style.setProperty("--columns", views.length);
      }
      message.columns.forEach((each, i) => paint(views[i], each, message.prompt));
    });
  }

  return { follow };
})();
