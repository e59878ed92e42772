// Another model: chosen, confirmed or left, and the same screen with it.
import { awaitOther } from "./connection.js";
import { find, note } from "./dom.js";
import { forgetModel } from "./link.js";

const open = () => find(document, "#switch-status p").dataset;

/** @param {boolean} isAsked */
const ask = (isAsked) => (find(document, "#switch-asked").dataset.asked = String(isAsked));

/**
 * Asks whether what was chosen is meant.
 * @param {string} model
 */
export function choose(model) {
  ask(model !== open().model);
  find(document, "#switch-status b").textContent = model;
}

/** Back to what is open. */
export function stay() {
  ask(false);
  return open().model;
}

let isLeaving = false;

/** It was confirmed, perhaps twice. */
export function leave() {
  if (isLeaving || find(document, "#switch-status b").textContent === open().model) return;
  isLeaving = true;
  ask(false);
  forgetModel();
  note("Switching …");
  awaitOther();
}
