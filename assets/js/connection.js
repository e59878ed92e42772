// When the server goes away or shows another page, this one is loaded anew as soon as it can be. What the address does not
// carry is kept in this tab until then, and nowhere else.
import { isDeaf, isWaiting, listen as listenForAnswers } from "./answers.js";
import { data } from "./data.js";
import { find, note, pause, promptField, write } from "./dom.js";
import { isWritten } from "./link.js";
import { allKnown } from "./modes.js";
import { allVisits, putVisits } from "./visits.js";

/** @typedef {{ isLost: boolean, isCut: boolean, model: string, prompt?: string, text?: string, visits: Completion[] }} Kept */

const KEY = "acip-kept";
const PATIENCE_MS = 5000;
const SLOW = "The server is slow to answer; what runs goes on …";
const GONE = "The server is gone; connecting again as soon as it is back …";
const CUT = "The server takes what is asked, but its answers do not get here. Load this page anew to try again.";
let isExpected = false; // another model was asked for
let isLooking = false;
let isCut = false; // the server is there, and its answers do not come
let isGone = false; // found out here: a server that stops in an orderly way ends its streams, and Gradio waits on
let isReloading = false; // by a script: by this one, or by Gradio once it has its connection back
/** @type {Kept | null} */
let before = null; // what the page had when it lost its server

const ownText = () => /** @type {HTMLTextAreaElement | null} */ (document.querySelector("#own-text textarea"));

/** Takes over what was kept, and watches the server from now on. */
export function listen() {
  before = taken();
  setInterval(look, 3000);
  listenForAnswers();
  window.navigation?.addEventListener("navigate", ({ navigationType, userInitiated }) => {
    isReloading = navigationType === "reload" && !userInitiated;
  });
  addEventListener("beforeunload", () => keep(isExpected || isGone || (isReloading && isWritten())));
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

/** @param {boolean} isAll everything that can be lost without the visitor's will, and not the sizes visited alone */
function keep(isAll) {
  /** @type {Kept} */
  const now = { isLost: isAll && !isExpected, isCut, model: data.model, visits: allVisits() };
  if (isAll) Object.assign(now, { prompt: promptField().value, text: ownText()?.value });
  try {
    sessionStorage.setItem(KEY, JSON.stringify(now));
  } catch {} // or full
}

// Which page the server shows: the "same" as this one, an "other" one (also while that loads its model), or "none". A "slow"
// one takes the connection and does not answer yet.
async function server() {
  const options = { cache: /** @type {const} */ ("no-store"), signal: AbortSignal.timeout(PATIENCE_MS) };
  const answer = await fetch("acip/state", options).catch((error) => (error.name === "TimeoutError" ? "slow" : null));
  if (answer === "slow") return "slow";
  const version = answer?.ok ? (await answer.json().catch(() => null))?.version : undefined;
  if (version === undefined) return "none";
  return version === data.version ? "same" : "other";
}

// While something runs or was asked for, its server must be there, and its answers must come.
async function look() {
  if (isExpected || isGone || isLooking || !isWaiting()) return;
  isLooking = true;
  let now = await server();
  isLooking = false;
  if (now === "same") return isDeaf() && !isCut && connectAgain();
  isGone = true;
  document.documentElement.dataset.gone = ""; // Gradio's own words would cover these
  const line = note("");
  while (now === "none" || now === "slow") {
    line.textContent = now === "slow" ? SLOW : GONE;
    await pause(1000);
    now = await server();
  }
  if (now === "other") return location.reload();
  isGone = false; // it was the network
  delete document.documentElement.dataset.gone;
  line.remove();
}

// Another stream is had by loading the page anew; where that was tried, it is said.
function connectAgain() {
  isCut = true;
  if (before?.isCut) return note(CUT);
  isGone = true;
  location.reload();
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
  if (before.isLost) note("The server was gone for a while. This page is connected again, with what was on it before.");
  if (before.model === data.model) {
    putVisits(before.visits);
    const { visits } = before;
    allKnown().then(() => putVisits(visits)); // those of modes that come later
  }
  if (!before.text) return;
  if (!ownText()) find(document, "#reading > button").click();
  let field = ownText();
  while (!field) {
    await pause(100);
    field = ownText();
  }
  write(field, before.text);
}
