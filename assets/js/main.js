// The page's script: its entry, and what Gradio calls by name. Model output and visitors' texts are only ever set as text.

import { nameButtons } from "./compared_sizes.js";
import { listenToInputs } from "./completion.js";
import { keptPrompt, listen as listenToServer, restore } from "./connection.js";
import { data } from "./data.js";
import { reveal, runPlotly } from "./first_paint.js";
import { listen as moveGalleries } from "./galleries.js";
import { listenToAddress, read } from "./link.js";
import { listen as listenForMeanings } from "./meanings.js";
import { known } from "./modes.js";
import { linkOut, listen as listenToShare } from "./share.js";
import { listen as listenToSlider } from "./slider.js";

export { chart } from "./chart.js";
export { comparison } from "./comparison.js";
export { completion } from "./completion.js";
export { efficiency } from "./efficiency.js";
export { exported } from "./export.js";
export { pictures, turn } from "./galleries.js";
export { knowledge } from "./knowledge.js";
export { atSize, comparedIn, inMode, sideBySide, write } from "./link.js";
export { method } from "./method.js";
export { spend } from "./modes.js";
export { reading } from "./reading.js";
export { readouts } from "./readouts.js";
export { choose, leave, stay } from "./switch.js";
export { visits } from "./visits.js";

listenToSlider();
listenToInputs();
listenToAddress();
listenToServer();
moveGalleries();
listenToShare();
listenForMeanings();
known(); // asked for while Gradio makes the page's parts

// A file dropped beside the place for it must not replace the page.
for (const kind of /** @type {const} */ (["dragover", "drop"])) {
  document.addEventListener(kind, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
}

/**
 * The inputs that the page opens with: those of the link and of this tab before it lost its server.
 * @param {import("./link.js").Value[]} inputs
 */
export async function open(...inputs) {
  await known();
  linkOut();
  nameButtons();
  const [prompt, ...others] = read(inputs);
  restore();
  reveal().then(runPlotly);
  return [keptPrompt() ?? prompt, ...others];
}

/**
 * A prompt to try.
 * @param {number} index
 */
export const example = (index) => data.examples[index];
