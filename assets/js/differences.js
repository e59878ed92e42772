// Which words of a text are not those of another one, by the longest common subsequence of both.

// A word with the space before it; scripts without spaces count sign by sign.
const WORDS = /\s*(?:[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\s\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+)/g;
const MOST = 600; // words; so many take a few milliseconds

/** @param {string} text */
const wordsOf = (text) => text.match(WORDS) ?? [];

/**
 * The words of a text, and whether each differs from the other text's, in their order.
 * @param {string} text
 * @param {string} other
 * @param {boolean} growing one is being written: last words may not be whole, and what goes further is not judged
 * @returns {[word: string, differs: boolean][]}
 */
export function differences(text, other, growing = false) {
  const all = wordsOf(text).slice(0, MOST);
  const end = growing ? -1 : undefined;
  const [a, b] = [all, wordsOf(other).slice(0, MOST)].map((words) => words.slice(0, end).map((word) => word.trim()));
  const length = lengths(a, b);
  /** @type {[string, boolean][]} */
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length) {
    if (j < b.length && a[i] === b[j]) {
      found.push([all[i++], false]);
      j += 1;
    } else if (j < b.length && length[i][j + 1] > length[i + 1][j]) j += 1;
    else {
      found.push([all[i], !growing || i < b.length]);
      i += 1;
    }
  }
  const rest = text.slice(found.reduce((sum, [word]) => sum + word.length, 0));
  return rest ? [...found, [rest, false]] : found;
}

/**
 * Length of the longest common subsequence of what follows each pair of places.
 * @param {string[]} a
 * @param {string[]} b
 */
function lengths(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  return table;
}
