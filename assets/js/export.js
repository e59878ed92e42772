// Taking the model along: progress of the export, its download, and code that names this page and the current size.
import { data } from "./data.js";
import { find, findAll } from "./dom.js";
import { announce, receive } from "./part.js";

/** @param {Part<ExportMessage>} part */
export function exported(part) {
  const { element } = part;
  const status = find(element, ".status");
  const link = find(element, "a.file", HTMLAnchorElement);
  const bar = find(element, "progress", HTMLProgressElement);
  let fetched = "";
  receive(part, (message) => {
    announce(element, status, message);
    bar.hidden = message.state !== "running";
    bar.value = message.done;
    link.hidden = !message.address;
    if (!message.address || fetched === message.address) return;
    fetched = message.address;
    link.href = message.address;
    link.textContent = `${message.name}.zip`;
    find(element, ".load code").textContent = message.code;
    link.click();
  });
  for (const code of findAll(element, "code")) {
    code.textContent = (code.textContent ?? "").replaceAll(data.address, location.origin + location.pathname);
  }
  for (const button of findAll(element, "[data-copy]")) button.addEventListener("click", () => copy(button));
}

/** @param {HTMLElement} button of a snippet */
async function copy(button) {
  const snippet = /** @type {HTMLElement} */ (button.closest(".snippet"));
  try {
    await navigator.clipboard.writeText(find(snippet, "code").textContent ?? "");
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select and copy"; // a page without https may not
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
