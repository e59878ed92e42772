// Sentences about the page's terms, where a pointer or the focus is: one box over everything, so that nothing cuts it off.
const GAP = 4; // pixels between an element and its sentence, and to the window's edges
const AROUND = ".figure, .tile, #efficiency tr"; // where the pointer means the one term in there

/** @type {HTMLElement | null} */
let about = null;
const box = document.createElement("div");

/** Shows them from now on. */
export function listen() {
  Object.assign(box, { id: "meaning", popover: "manual", role: "tooltip" });
  document.body.append(box);
  document.addEventListener("pointerover", ({ target, pointerType }) => {
    if (pointerType !== "mouse" || !(target instanceof Element) || box.contains(target)) return;
    show(of(target) ?? target.closest(AROUND)?.querySelector("[data-meaning]") ?? focused());
  });
  document.addEventListener("focusin", ({ target }) => target instanceof Element && show(of(target)));
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("keydown", ({ key }) => key === "Escape" && show(null));
  for (const moved of ["scroll", "resize"]) addEventListener(moved, stand, { passive: true, capture: true });
}

/**
 * @param {Element | null} element
 * @returns {HTMLElement | null} what around it has a sentence
 */
const of = (element) => element?.closest("[data-meaning]") ?? null;

/** What a keyboard has reached. */
const focused = () => (document.activeElement?.matches(":focus-visible") ? of(document.activeElement) : null);

/** @param {HTMLElement | null} element none hides the box */
function show(element) {
  if (element === about) return;
  about = element;
  box.togglePopover(element !== null);
  stand();
}

/** Stands above its element, or below where there is no room. */
function stand() {
  if (!about) return;
  box.textContent = about.dataset.meaning ?? "";
  const [at, { clientWidth, clientHeight }] = [about.getBoundingClientRect(), document.documentElement];
  const { offsetWidth: width, offsetHeight: height } = box;
  box.style.visibility = at.bottom < 0 || at.top > clientHeight ? "hidden" : ""; // it was scrolled away
  const top = at.top - height - GAP >= 0 ? at.top - height - GAP : at.bottom + GAP;
  box.style.left = `${Math.max(GAP, Math.min(at.left, clientWidth - width - GAP))}px`;
  box.style.top = `${Math.max(GAP, Math.min(top, clientHeight - height - GAP))}px`;
}
