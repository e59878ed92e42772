// The sizes side by side: Gradio names a chosen one's remove button by its place in the list.
import { find } from "./dom.js";

/** Names them by the size they remove, now and whenever others are chosen. */
export function nameButtons() {
  const field = find(document, "#compare-sizes");
  const name = () => {
    for (const token of field.querySelectorAll(".token")) {
      const title = `Remove ${token.textContent?.trim()}`;
      const button = token.querySelector(".token-remove");
      if (button && button.getAttribute("title") !== title) button.setAttribute("title", title);
    }
  };
  new MutationObserver(name).observe(field, { subtree: true, childList: true, characterData: true });
  name();
}
