// When the server goes away or changes its model, the page is loaded anew as soon as it is back. What the address does
// not carry is kept in this tab until then, and nowhere else.
import { data } from "./data.js";
import { find, note, pause, promptField, write } from "./dom.js";
import { allVisits, putVisits } from "./visits.js";

/** @typedef {{ isExpected: boolean, model: string, prompt: string, text?: string, visits: Completion[] }} Kept */

const KEY = "acip-kept";
const LOST = "Connection to the server was lost"; // as Gradio words it
let isLost = false; // looked up now and then, because Gradio says it at every reload, too, just before the page is gone
let isExpected = false; // another model was asked for
let isGone = false; // found out here: a server that stops in an orderly way ends its streams, and Gradio waits on
/** @type {Kept | null} */
let before = null; // what the page had when it lost its server

const ownText = () => /** @type {HTMLTextAreaElement | null} */ (document.querySelector("#own-text textarea"));

/** Takes over what was kept, and watches the server from now on. */
export function listen() {
  before = taken();
  setInterval(() => {
    isLost = document.querySelector(".toast-wrap")?.textContent?.includes(LOST) ?? false;
  }, 500);
  setInterval(look, 3000);
  addEventListener("beforeunload", () => (isLost || isExpected || isGone) && keep());
}

/** What was kept, once. */
function taken() {
  try {
    const kept = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    return kept && JSON.parse(kept);
  } catch {
    return null; // storage is switched off
  }
}

function keep() {
  /** @type {Kept} */
  const now = {
    isExpected,
    model: data.model,
    prompt: promptField().value,
    text: ownText()?.value,
    visits: allVisits(),
  };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(now));
  } catch {} // or full
}

// Who answers: the "same" server as before, an "other" one (also while it loads its model), or "none".
async function server() {
  // one that stops may never answer
  const answer = await fetch("gradio_api/app_id", { cache: "no-store", signal: AbortSignal.timeout(2000) }).catch(
    () => null,
  );
  if (answer?.status === 503) return "other"; // the page that waits for the model
  const id = answer?.ok ? (await answer.json().catch(() => null))?.app_id : null;
  if (!id) return "none";
  return id === window.gradio_config.app_id ? "same" : "other";
}

// While something runs, its server must be there.
async function look() {
  if (isLost || isExpected || isGone || !document.querySelector('[data-state="running"]')) return;
  if ((await server()) === "same") return;
  isGone = true;
  const line = note("The server is gone; connecting again as soon as it is back …");
  let now = await server();
  while (now === "none") {
    await pause(1000);
    now = await server();
  }
  if (now === "other") return location.reload();
  isGone = false; // it was the network
  line.remove();
}

/** Loads the page anew as soon as another server answers: another model was asked for. */
export async function awaitOther() {
  isExpected = true;
  do await pause(200);
  while ((await server()) !== "other");
  location.reload();
}

/** The prompt that was kept. */
export const keptPrompt = () => before?.prompt;

/** Puts back what was kept besides the prompt. */
export async function restore() {
  if (!before) return;
  if (!before.isExpected)
    note("The server was gone for a while. This page is connected again, with what was on it before.");
  if (before.model === data.model) putVisits(before.visits);
  if (!before.text) return;
  if (!ownText()) find(document, "#reading > button").click();
  let field = ownText();
  while (!field) {
    await pause(100);
    field = ownText();
  }
  write(field, before.text);
}
