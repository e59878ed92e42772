// Taking the model along: progress of the export, its download, and code that names this page and the current size.
import { data, mode, named, tableOf } from "./data.js";
import { copyText, find, findAll, reply } from "./dom.js";
import { announce, receive } from "./part.js";
import { follow, position, repaint } from "./slider.js";

/** @param {Part<ExportMessage>} part */
export function exported(part) {
  const { element } = part;
  const status = find(element, ".status");
  const link = find(element, "a.file", HTMLAnchorElement);
  const bar = find(element, "progress", HTMLProgressElement);
  const other = find(element, ".other");
  /** @type {ExportMessage | null} */
  let latest = null; // that is fetched
  const show = () => {
    if (!latest) return other.replaceChildren();
    const isSame = latest.percent === position() && latest.mode === mode();
    other.textContent = isSame ? "" : `is ${named(latest.percent, tableOf(latest.mode))}, not the size shown now`;
  };
  receive(part, (message) => {
    announce(element, status, message);
    bar.hidden = message.state !== "running";
    bar.value = message.done;
    link.hidden = !message.address;
    if (!message.address) latest = null;
    if (!message.address || latest?.address === message.address) return show();
    latest = message;
    link.href = message.address;
    link.textContent = `${message.name}.zip`;
    find(element, ".load").hidden = false;
    find(element, ".load code").textContent = message.code;
    show();
    link.click();
  });
  for (const code of findAll(element, "code")) {
    code.textContent = (code.textContent ?? "").replaceAll(data.address, location.origin + location.pathname);
  }
  const codes = findAll(element, "code").filter((code) => code.textContent?.includes("@size@"));
  const templates = codes.map((code) => code.textContent ?? "");
  follow((percent) => {
    show();
    find(element, "[data-size]").textContent = named(percent);
    for (const [i, code] of codes.entries()) {
      const size = String(Number((percent / 100).toPrecision(4)));
      code.textContent = templates[i].replaceAll("@size@", size).replaceAll("@mode@", mode());
    }
  });
  repaint();
  for (const button of findAll(element, "[data-copy]")) button.addEventListener("click", () => copy(button));
}

/** @param {HTMLElement} button of a snippet */
async function copy(button) {
  const snippet = /** @type {HTMLElement} */ (button.closest(".snippet"));
  reply(button, (await copyText(find(snippet, "code").textContent ?? "")) ? "Copied" : "Select and copy");
}
