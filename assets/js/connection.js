// When the server goes away or changes its model, the page is loaded anew as soon as it is back. What the address does
// not carry is kept in this tab until then, and nowhere else.
import { data } from "./data.js";
import { find, note, pause, promptField, write } from "./dom.js";
import { allVisits, putVisits } from "./visits.js";

/** @typedef {{ version: string, isExpected: boolean, model: string, prompt: string, text?: string, visits: Completion[] }} Kept */

const KEY = "acip-kept";
const VERSION = find(document, "meta[name=acip-version]", HTMLMetaElement).content; // of this page
let isExpected = false; // another model was asked for
let isGone = false; // found out here: a server that stops in an orderly way ends its streams, and Gradio waits on
/** @type {Kept | null} */
let before = null; // what another version of the page had when it lost its server

const ownText = () => /** @type {HTMLTextAreaElement | null} */ (document.querySelector("#own-text textarea"));

/** Takes over what was kept, and watches the server from now on. */
export function listen() {
  before = taken();
  setInterval(look, 3000);
  addEventListener("beforeunload", keep); // whoever loads the page anew: this script, Gradio, the visitor
}

/** What another version of the page kept, once; what this one kept is dropped, for the visitor asked for a new page. */
function taken() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    sessionStorage.removeItem(KEY);
    return kept?.version === VERSION ? null : kept;
  } catch {
    return null; // storage is switched off
  }
}

function keep() {
  /** @type {Kept} */
  const now = {
    version: VERSION,
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
  const answer = await fetch("acip/state", { cache: "no-store", signal: AbortSignal.timeout(2000) }).catch(() => null);
  const state = answer?.ok ? await answer.json().catch(() => null) : null;
  if (!state) return "none";
  return state.version === VERSION ? "same" : "other";
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
