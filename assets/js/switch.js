// Another model or precision: chosen, confirmed or left, and the same screen with it.
import { awaitOther } from "./connection.js";
import { find, note } from "./dom.js";
import { forgetModel } from "./link.js";

const open = () => find(document, "#switch-status p").dataset;

/** @param {boolean} isAsked */
const ask = (isAsked) => (find(document, "#switch-asked").dataset.asked = String(isAsked));

/**
 * Asks whether what was chosen is meant.
 * @param {string} model
 * @param {string} precision
 */
export function choose(model, precision) {
  const wanted = [model, precision].filter((value, i) => value !== [open().model, open().precision][i]);
  ask(wanted.length > 0);
  find(document, "#switch-status b").textContent = wanted.join(" at ");
}

/** Back to what is open. */
export function stay() {
  ask(false);
  return [open().model, open().precision];
}

let isLeaving = false;

/** It was confirmed, perhaps twice. */
export function leave() {
  if (isLeaving) return;
  isLeaving = true;
  ask(false);
  forgetModel();
  note("Switching …");
  awaitOther();
}
