// Texts of one prompt and its settings at many sizes, so that a drag can show them.

export class Ready {
  /** @type {Map<number, { text: string, complete: boolean }>} */
  #texts = new Map();

  /**
   * @param {string} key
   * @param {boolean} beforehand written before anybody asked
   */
  constructor(key, beforehand, prompt = "", shown = prompt) {
    this.key = key;
    this.beforehand = beforehand;
    this.prompt = prompt;
    this.shown = shown; // before the texts
  }

  /**
   * A text that is complete stays until another one is.
   * @param {CompletionMessage["ready"]} texts
   */
  add(texts) {
    for (const [percent, text, complete] of texts)
      if (complete || !this.isComplete(percent)) this.#texts.set(percent, { text, complete });
  }

  /** Sizes whose text is complete. */
  finished() {
    return [...this.#texts.keys()].filter((percent) => this.isComplete(percent));
  }

  /** @param {number} percent */
  isComplete = (percent) => this.#texts.get(percent)?.complete ?? false;

  /**
   * As far as it is written.
   * @param {number} percent
   */
  textAt = (percent) => this.#texts.get(percent)?.text ?? "";

  /**
   * The size that comes nearest of those whose text is complete, if there is one.
   * @param {number} percent
   */
  nearest(percent) {
    /** @type {number | null} */
    let best = null;
    for (const each of this.finished()) {
      if (best === null || Math.abs(each - percent) < Math.abs(best - percent)) best = each;
    }
    return best;
  }
}
