// When the server goes away or shows another page, this one is loaded anew as soon as it can be. What the address does not
// carry is kept in this tab until then, and nowhere else.
import { data } from "./data.js";
import { find, note, pause, promptField, write } from "./dom.js";
import { isWritten } from "./link.js";
import { allVisits, putVisits } from "./visits.js";

/** @typedef {{ isExpected: boolean, model: string, prompt: string, text?: string, visits: Completion[] }} Kept */

const KEY = "acip-kept";
let isExpected = false; // another model was asked for
let isGone = false; // found out here: a server that stops in an orderly way ends its streams, and Gradio waits on
let isReloading = false; // by a script: by this one, or by Gradio once it has its connection back
/** @type {Kept | null} */
let before = null; // what the page had when it lost its server

const ownText = () => /** @type {HTMLTextAreaElement | null} */ (document.querySelector("#own-text textarea"));

/** Takes over what was kept, and watches the server from now on. */
export function listen() {
  before = taken();
  setInterval(look, 3000);
  window.navigation?.addEventListener("navigate", ({ navigationType, userInitiated }) => {
    isReloading = navigationType === "reload" && !userInitiated;
  });
  addEventListener("beforeunload", () => {
    if (isExpected || isGone || (isReloading && isWritten())) keep();
  });
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

// Which page the server shows: the "same" as this one, an "other" one (also while that loads its model), or "none".
async function server() {
  const options = { cache: /** @type {const} */ ("no-store"), signal: AbortSignal.timeout(2000) }; // it may never answer
  const answer = await fetch("acip/state", options).catch(() => null);
  const version = answer?.ok ? (await answer.json().catch(() => null))?.version : undefined;
  if (version === undefined) return "none";
  return version === data.version ? "same" : "other";
}

// While something runs, its server must be there.
async function look() {
  if (isExpected || isGone || !document.querySelector('[data-state="running"]')) return;
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
