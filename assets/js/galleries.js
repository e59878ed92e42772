// Galleries within the page: fetched from its server when they are first seen.
import { find, sentence } from "./dom.js";
import { gallery, moveTo } from "./figures.js";
import { onMode } from "./modes.js";
import { ask } from "./server.js";
import { follow, position } from "./slider.js";

/** Moves their figures with the slider from now on. */
export function listen() {
  follow(moveTo);
  moveTo(position());
  onMode((mode) => {
    const isBytes = mode !== "directions";
    if (isBytes) rename("bytes", `bytes.${mode}`);
    rename("method", isBytes ? `method.${mode}` : "method");
  });
}

/**
 * Another gallery in a place from now on.
 * @param {string} part of the page
 * @param {string} name of the gallery
 */
function rename(part, name) {
  const place = /** @type {HTMLElement | null} */ (document.querySelector(`#${part} [data-gallery]`));
  if (!place || place.dataset.gallery === name) return;
  place.dataset.gallery = name;
  if (place.childElementCount) load(place); // it was seen before
}

/**
 * A part of the page that has a gallery.
 * @param {Part} part
 */
export function pictures({ element }) {
  const place = find(element, "[data-gallery]");
  const watching = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watching.disconnect();
      load(place);
    },
    { rootMargin: "1000px" },
  );
  watching.observe(place);
}

/**
 * Shows the score map of another type of layer.
 * @param {string} kind
 */
export function turn(kind) {
  const place = find(document, "#score-map [data-gallery]");
  place.dataset.gallery = `score-map.${kind}`;
  load(place);
}

/**
 * Fills a place with the gallery that it names; what comes for a former name is dropped.
 * @param {HTMLElement} place
 */
async function load(place) {
  const name = place.dataset.gallery ?? "";
  if (!place.childElementCount) place.replaceChildren(sentence("Drawing …", "status"));
  const found = await ask(`acip/pictures/${encodeURIComponent(name)}`);
  if (place.dataset.gallery !== name) return;
  if (found) {
    gallery(place, found);
    for (const [i, { terms = [] }] of found.entries()) if (terms.length) place.children[i].append(explained(terms));
  } else place.replaceChildren(excuse(place));
}

/**
 * A line of terms, each with its sentence.
 * @param {[name: string, meaning: string][]} terms
 */
function explained(terms) {
  const line = document.createElement("p");
  line.className = "terms";
  line.append("Terms: ");
  for (const [name, meaning] of terms) {
    const term = document.createElement("button");
    Object.assign(term, { type: "button", className: "term", textContent: name });
    term.dataset.meaning = meaning;
    term.setAttribute("aria-label", `${name}: ${meaning}`);
    line.append(term, " ");
  }
  return line;
}

/** @param {HTMLElement} place */
function excuse(place) {
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Try again";
  again.addEventListener("click", () => {
    place.replaceChildren();
    load(place);
  });
  const line = sentence("The pictures did not arrive. ", "status");
  line.append(again);
  return line;
}
