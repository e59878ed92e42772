// The first paint: it stands before everything else until the page's parts do, so that nothing moves before a reader's eyes.
import { find, pause } from "./dom.js";

const STILL_MS = 100; // without another size of the page
const MOST_MS = 15_000;

/** Takes it away once the page's height has come to rest. */
export async function reveal() {
  const first = document.querySelector(".first");
  if (!first) return;
  const began = performance.now();
  let [height, since] = [0, began];
  while (performance.now() - began < MOST_MS && performance.now() - since < STILL_MS) {
    await pause(20);
    if (document.body.scrollHeight === height) continue;
    [height, since] = [document.body.scrollHeight, performance.now()];
  }
  first.remove();
}

/** Runs Plotly, which was fetched in the meantime: it takes a fraction of a second, so the page is painted before. */
export async function runPlotly() {
  for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);
  const { href } = find(document, "#acip-plotly", HTMLLinkElement);
  document.head.append(Object.assign(document.createElement("script"), { src: href }));
}
