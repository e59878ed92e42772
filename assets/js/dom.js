// Elements of the page.

/**
 * The first element that matches.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {ParentNode} within
 * @param {string} selector
 * @param {{ new (): T }} [kind]
 * @throws {Error} there is none of this kind
 */
export function find(within, selector, kind = /** @type {{ new (): any }} */ (HTMLElement)) {
  const found = within.querySelector(selector);
  if (found instanceof kind) return found;
  throw new Error(`There is no ${selector} on the page.`);
}

/**
 * All elements that match.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {ParentNode} within
 * @param {string} selector
 * @param {{ new (): T }} [_kind] what they are
 * @returns {T[]}
 */
export const findAll = (within, selector, _kind) =>
  [...within.querySelectorAll(selector)].map((each) => /** @type {T} */ (each));

export const promptField = () => find(document, "#prompt textarea", HTMLTextAreaElement);

/**
 * Fill in a field as if a visitor had typed it.
 * @param {HTMLInputElement | HTMLTextAreaElement} field
 * @param {string} text
 */
export function write(field, text) {
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

/**
 * A sentence in an element that screen readers speak.
 * @param {string} text
 * @param {string} name its class
 */
export function sentence(text, name) {
  const line = document.createElement("p");
  line.className = name;
  line.setAttribute("role", "status");
  line.textContent = text;
  return line;
}

/**
 * A sentence under the page's title.
 * @param {string} text
 */
export function note(text) {
  const line = sentence(text, "note");
  find(document, "#header .bar").parentElement?.append(line);
  return line;
}

/** @param {number} milliseconds */
export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const REPLY_MS = 2000;
/** @type {WeakMap<HTMLElement, { name: string | null, back: number }>} */
const replies = new WeakMap();

/**
 * Says on a button for a while what became of a click, and then what the button does, however often it is clicked.
 * @param {HTMLElement} button
 * @param {string} words
 */
export function reply(button, words) {
  const { name, back } = replies.get(button) ?? { name: button.textContent, back: 0 };
  clearTimeout(back);
  button.textContent = words;
  const end = setTimeout(() => {
    button.textContent = name;
    replies.delete(button);
  }, REPLY_MS);
  replies.set(button, { name, back: end });
}

/**
 * Copies a text; a page without https may not.
 * @param {string} text
 * @returns {Promise<boolean>} whether it was copied
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
