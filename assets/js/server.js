// Answers of this page's server. Where it shows another page by now, which has another model, this one is loaded anew before
// anything of the other is shown here.
import { data } from "./data.js";

const PATIENCE_MS = 60_000;

/** @param {string | null | undefined} version of the page that something comes from; nothing where it does not say */
export function isOther(version) {
  if (!version || version === data.version) return false;
  location.reload();
  return true;
}

/**
 * @param {string} path
 * @returns {Promise<any>} the JSON value there; null where it does not arrive in time, or is another page's
 */
export async function ask(path, patience = PATIENCE_MS) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(patience) });
    return answer.ok && !isOther(answer.headers.get("acip-page")) ? await answer.json() : null;
  } catch {
    return null;
  }
}
