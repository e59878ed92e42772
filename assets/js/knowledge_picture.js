// The strip of facts as a picture to post: title, sentence, tiles, size, model and the page's link.
import { data, inMegabytes, rowAt, table } from "./data.js";
import { fixed } from "./numbers.js";
import { position } from "./slider.js";

const [WIDTH, HEIGHT, SCALE] = [1200, 675, 2]; // pixels of the picture as it is drawn; it is written at twice as many
const EDGE = 64;
const TILE = 47; // height
const COLUMNS = 3; // groups beside one another
const FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif";
const LIGHT = {
  paper: "#fffaf5",
  ink: "#1e293b",
  quiet: "#64748b",
  lit: "#f97316",
  litInk: "#431407",
  unlit: "#cbd5e1",
};
const DARK = {
  paper: "#0f172a",
  ink: "#f1f5f9",
  quiet: "#94a3b8",
  lit: "#fb923c",
  litInk: "#2a1205",
  unlit: "#475569",
};

/** @typedef {FactsData["facts"]} Facts */

/**
 * Puts the picture of the size under the slider into the clipboard or, where that is not allowed, into a file.
 * @param {Facts} facts
 * @param {string} flags "1" for each fact that is known
 * @returns what was done, in words
 */
export async function share(facts, flags) {
  const canvas = drawn(facts, flags);
  /** @type {Promise<Blob>} */
  const picture = new Promise((done, fail) =>
    canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("The picture is empty."))), "image/png"),
  );
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
    return "Copied";
  } catch {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await picture);
    link.download = `${data.name.split("/").pop()}-knows.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    return "Saved";
  }
}

/**
 * @param {Facts} facts
 * @param {string} flags
 */
function drawn(facts, flags) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * SCALE;
  canvas.height = HEIGHT * SCALE;
  const pen = canvas.getContext("2d");
  if (!pen) return canvas;
  const color = document.body.classList.contains("dark") ? DARK : LIGHT;
  pen.scale(SCALE, SCALE);
  pen.fillStyle = color.paper;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  pen.textBaseline = "alphabetic";
  heading(pen, color, flags);
  groups(pen, color, facts, flags);
  const address = `${location.host}${location.pathname}`.replace(/\/$/, "");
  write(pen, address, EDGE, HEIGHT - 30, `500 17px ${FONT}`, color.quiet);
  pen.textAlign = "right";
  write(pen, "Any Compression via Iterative Pruning", WIDTH - EDGE, HEIGHT - 30, `500 17px ${FONT}`, color.quiet);
  return canvas;
}

/**
 * Title and sentence, and the size as a bar.
 * @param {CanvasRenderingContext2D} pen
 * @param {typeof LIGHT} color
 * @param {string} flags
 */
function heading(pen, color, flags) {
  const row = rowAt(position());
  const published = (table.published ?? table.rows[table.rows.length - 1].bytes) / 1e6;
  const share = row.bytes / 1e6 / published;
  const size = `${inMegabytes(row.bytes / 1e6)} of ${inMegabytes(published)} · ${fixed(100 * share, 0)} %`;
  const title = `${data.name.split("/").pop()} at ${fixed(100 * share, 0)} % of its size`;
  write(pen, title, EDGE, 82, `700 38px ${FONT}`, color.ink);
  const known = flags.split("1").length - 1;
  const sentence = `knows ${known} of ${flags.length}`;
  write(pen, sentence, EDGE, 132, `700 30px ${FONT}`, color.lit);
  const after = EDGE + pen.measureText(sentence).width + 14;
  write(pen, "of what the original knows", after, 132, `400 24px ${FONT}`, color.quiet);
  pen.textAlign = "right";
  write(pen, size, WIDTH - EDGE, 132, `500 24px ${FONT}`, color.quiet);
  pen.textAlign = "left";
  box(pen, EDGE, 152, WIDTH - 2 * EDGE, 10, 5, color.unlit);
  box(pen, EDGE, 152, Math.max(10, (WIDTH - 2 * EDGE) * share), 10, 5, color.lit);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {typeof LIGHT} color
 * @param {Facts} facts
 * @param {string} flags
 */
function groups(pen, color, facts, flags) {
  const names = [...new Set(facts.map(({ group }) => group))];
  const column = (WIDTH - 2 * EDGE - (COLUMNS - 1) * 32) / COLUMNS;
  const lines = Math.ceil(names.length / COLUMNS);
  const height = (HEIGHT - 60 - 186) / Math.max(lines, 2);
  for (const [i, name] of names.entries()) {
    const left = EDGE + (i % COLUMNS) * (column + 32);
    const top = 186 + Math.floor(i / COLUMNS) * height;
    write(pen, name, left, top + 22, `600 19px ${FONT}`, color.quiet);
    const own = facts
      .map((fact, at) => ({ fact, isKnown: flags[at] === "1" }))
      .filter(({ fact }) => fact.group === name);
    for (const [j, { fact, isKnown }] of own.entries()) {
      const [x, y] = [left + (j % 2) * (column / 2 + 4), top + 32 + Math.floor(j / 2) * (TILE + 6)];
      tile(pen, color, fact, isKnown, [x, y, column / 2 - 4]);
    }
  }
}

/**
 * A fact: how its prompt begins, and its answer.
 * @param {CanvasRenderingContext2D} pen
 * @param {typeof LIGHT} color
 * @param {Facts[number]} fact
 * @param {boolean} isKnown
 * @param {[x: number, y: number, width: number]} place
 */
function tile(pen, color, { prompt, answer }, isKnown, [x, y, width]) {
  const ink = isKnown ? color.litInk : color.quiet;
  box(pen, x, y, width, TILE, 10, isKnown ? color.lit : color.paper, isKnown ? color.lit : color.unlit);
  pen.textAlign = "center";
  pen.font = `400 11.5px ${FONT}`;
  write(pen, beginning(pen, prompt, width - 16), x + width / 2, y + 17, pen.font, ink);
  write(pen, answer, x + width / 2, y + 38, `${isKnown ? 700 : 500} 18px ${FONT}`, ink);
  const half = pen.measureText(answer).width / 2;
  pen.textAlign = "left";
  if (!isKnown) box(pen, x + width / 2 - half, y + 31.5, 2 * half, 1.5, 0, ink);
}

/**
 * As many words of a text as have room.
 * @param {CanvasRenderingContext2D} pen
 * @param {string} text
 * @param {number} width
 */
function beginning(pen, text, width) {
  const words = text.split(" ");
  while (words.length > 1 && pen.measureText(`${words.join(" ")} …`).width > width) words.pop();
  return `${words.join(" ")} …`;
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} font
 * @param {string} color
 */
function write(pen, text, x, y, font, color) {
  pen.font = font;
  pen.fillStyle = color;
  pen.fillText(text, x, y, WIDTH - 2 * EDGE);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 * @param {number} radius
 * @param {string} fill
 * @param {string} [line]
 */
function box(pen, x, y, width, height, radius, fill, line) {
  pen.beginPath();
  pen.roundRect(x, y, width, height, radius);
  pen.fillStyle = fill;
  pen.fill();
  if (!line) return;
  pen.strokeStyle = line;
  pen.lineWidth = 1.5;
  pen.setLineDash(line === fill ? [] : [5, 4]);
  pen.stroke();
  pen.setLineDash([]);
}
