// When the server goes away or changes its model, the page is loaded anew as soon as it is back. What the address does
// not carry is kept in this tab until then, and nowhere else.
"use strict";
window.acipKept = (() => {
  const KEY = "acip-kept";
  const field = (part) => document.querySelector(`${part} textarea`);
  const model = () => document.querySelector("#header [data-model]")?.dataset.model;
  let lost = false; // looked up now and then, because Gradio says it at every reload, too, just before the page is gone
  setInterval(() => {
    lost = document.querySelector(".toast-wrap")?.textContent.includes("Connection to the server was lost") ?? false;
  }, 500);
  let asked = false; // for another model
  let gone = false; // found out here: a server that stops in an orderly way ends its streams, and Gradio waits on
  let before = null; // what the page had when it lost its server

  try {
    before = JSON.parse(sessionStorage.getItem(KEY));
    sessionStorage.removeItem(KEY);
  } catch {} // storage is switched off

  // Who answers: the "same" server as before, an "other" one (also while it loads its model), or "none".
  async function server() {
    const options = { cache: "no-store", signal: AbortSignal.timeout(2000) }; // one that stops may never answer
    const answer = await fetch("gradio_api/app_id", options).catch(() => null);
    if (answer?.status === 503) return "other"; // the page that waits for the model
    const id = answer?.ok ? (await answer.json().catch(() => null))?.app_id : null;
    return !id ? "none" : id === window.gradio_config.app_id ? "same" : "other";
  }

  // While something runs, its server must be there.
  setInterval(async () => {
    if (lost || asked || gone || !document.querySelector('[data-state="running"]')) return;
    if ((await server()) === "same") return;
    gone = true;
    const note = window.acip.note("The server is gone; connecting again as soon as it is back …");
    let now;
    while ((now = await server()) === "none") await new Promise((done) => setTimeout(done, 1000));
    if (now === "other") return location.reload();
    gone = false; // it was the network
    note.remove();
  }, 3000);

  addEventListener("beforeunload", () => {
    if (!lost && !asked && !gone) return;
    const now = { asked, model: model(), prompt: field("#prompt")?.value, own: field("#own-text")?.value, visits: window.acipVisits?.all() };
    try {
      sessionStorage.setItem(KEY, JSON.stringify(now));
    } catch {} // or full
  });

  async function restore() {
    if (!before) return;
    if (!before.asked) window.acip.note("The server was gone for a while. This page is connected again, with what was on it before.");
    if (before.model === model()) window.acipVisits.put(before.visits ?? []);
    if (!before.own) return;
    if (!field("#own-text")) document.querySelector("#reading > button").click();
    while (!field("#own-text")) await new Promise((done) => setTimeout(done, 100));
    window.acip.write(field("#own-text"), before.own);
  }

  return { restore, server, ask: () => (asked = true), prompt: () => before?.prompt };
})();
