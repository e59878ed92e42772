// What all parts of the page have in common.
import { hear } from "./answers.js";
import { isOther } from "./server.js";

/**
 * Calls with every message for a part of the page, except those that come late: of a run that another one has replaced.
 * @template {Message} M
 * @param {Part<M>} part
 * @param {(message: M) => void} act
 * @returns {() => void} call it when another run is asked for: whatever the former one still sends is late from there on
 */
export function receive({ props, watch }, act) {
  let newest = 0;
  watch("value", () => {
    const message = props.value;
    if (message) hear();
    if (!message || isOther(message.page) || message.run < newest) return;
    newest = message.run;
    act(message);
  });
  return () => {
    newest += 1;
  };
}

/**
 * Shows what a message says of its run.
 * @param {HTMLElement} element
 * @param {HTMLElement} status
 * @param {Message} message
 */
export function announce(element, status, message) {
  status.textContent = message.status;
  element.dataset.state = message.state;
}
