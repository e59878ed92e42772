// When the server goes away, Gradio waits for it and loads the page anew. What the address does not carry is kept in
// this tab until then, and nowhere else.
"use strict";
window.acipKept = (() => {
  const KEY = "acip-kept";
  const field = (part) => document.querySelector(`${part} textarea`);
  let lost = false; // looked up now and then, because Gradio says it at every reload, too, just before the page is gone
  setInterval(() => {
    lost = document.querySelector(".toast-wrap")?.textContent.includes("Connection to the server was lost") ?? false;
  }, 500);
  let before = null; // what the page had when it lost its server

  try {
    before = JSON.parse(sessionStorage.getItem(KEY));
    sessionStorage.removeItem(KEY);
  } catch {} // storage is switched off

  addEventListener("beforeunload", () => {
    if (!lost) return;
    const now = { prompt: field("#prompt")?.value, own: field("#own-text")?.value, visits: window.acipVisits?.all() };
    try {
      sessionStorage.setItem(KEY, JSON.stringify(now));
    } catch {} // or full
  });

  async function restore() {
    if (!before) return;
    window.acip.note("The server was gone for a while. This page is connected again, with what was on it before.");
    window.acipVisits.put(before.visits ?? []);
    if (!before.own) return;
    if (!field("#own-text")) document.querySelector("#reading > button").click();
    while (!field("#own-text")) await new Promise((done) => setTimeout(done, 100));
    window.acip.write(field("#own-text"), before.own);
  }

  return { restore, prompt: () => before?.prompt };
})();
