// Whether answers come of what is asked. Gradio opens a stream for them where it has none. It does not notice that one was
// cut in an orderly way, and waits for ever for what should come of it.

const DEAF_MS = 30_000; // a run says within four seconds at least who is ahead
// In milliseconds since this page was opened:
let taken = 0; // when the server last took a request for a run
let cut = 0; // when a stream last ended that should have brought more
let heard = 0; // when a message last came
let idle = 0; // when nothing was to come, as far as is known

/** Watches what is asked, and streams. */
export function listen() {
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) time(/** @type {PerformanceResourceTiming} */ (entry));
  });
  observer.observe({ type: "resource" });
}

/** @param {PerformanceResourceTiming} answer that is over */
function time({ name, responseEnd, responseStatus = 200 }) {
  if (name.includes("/queue/join") && responseStatus === 200) taken = responseEnd;
  if (name.includes("/queue/data") && isWaiting()) cut = responseEnd;
}

/** A message has come. */
export function hear() {
  heard = performance.now();
}

/** Whether something runs, or was asked for and has had no answer yet; to be called every few seconds. */
export function isWaiting() {
  const isRunning = document.querySelector('[data-state="running"]') !== null;
  if (isRunning || Math.max(taken, cut) > heard) return true;
  idle = performance.now();
  return false;
}

/** Whether nothing has come for so long that nothing will. */
export function isDeaf() {
  const since = Math.max(taken, cut);
  return since > heard && performance.now() - Math.max(since, idle) > DEAF_MS;
}
