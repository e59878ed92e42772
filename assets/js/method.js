// The drawer that explains the method, beside the slider, which stays usable.
import { find } from "./dom.js";
import { pictures } from "./galleries.js";

/** @param {Part} part */
export function method(part) {
  const drawer = find(part.element, ".drawer");
  const opener = find(document, "[data-method]");
  const show = (/** @type {boolean} */ isOpen) => {
    drawer.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
    (isOpen ? drawer : opener).focus();
  };
  opener.addEventListener("click", () => show(drawer.hidden !== false));
  find(drawer, "[data-close]").addEventListener("click", () => show(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !drawer.hidden) show(false);
  });
  pictures(part);
}
