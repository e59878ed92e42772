// The page's link, copied; and the embedded view, which leaves everything out but slider, texts and strip.
import { copyText, find, reply } from "./dom.js";
import { isWhole } from "./link.js";

const isEmbedded = new URLSearchParams(location.search).has("embed");

/** The link that opens this screen, outside of an embedded view too. */
export function address() {
  const link = new URL(location.href);
  link.searchParams.delete("embed");
  return link.href;
}

/** Wires the button in the header, and the embedded view's way out, from now on. */
export function listen() {
  if (isEmbedded) document.documentElement.dataset.embed = "";
  document.addEventListener("click", async ({ target }) => {
    const button = target instanceof Element ? target.closest("[data-share]") : null;
    if (!(button instanceof HTMLElement)) return;
    const said = isWhole() ? "Copied" : "Copied; the prompt is too long for a link";
    reply(button, (await copyText(address())) ? said : "Copy it from the address bar");
  });
}

/** A way from an embedded view to the whole page. */
export function linkOut() {
  if (!isEmbedded) return;
  const link = document.createElement("a");
  link.className = "out";
  link.textContent = "Open the whole page";
  link.target = "_blank";
  link.rel = "noopener";
  link.href = address();
  link.addEventListener("pointerdown", () => (link.href = address()));
  find(document, "#header nav").append(link);
}
