// What the scripts get from elsewhere: from Gradio, from Plotly, and from the page's server. Only the type checker reads
// this file.

/** A component of the page, as Gradio hands it over. */
interface Part<Message = unknown> {
  element: HTMLElement;
  props: { value: Message | null };
  /** Calls whenever the server has sent another value. */
  watch: (prop: string, act: () => void) => void;
  /** Asks the server: an event that Python listens to. */
  trigger: (event: string) => void;
}

// ---- from the page's server, once: the JSON value in the page's head -------------------------------------------------
interface PageData {
  /** of this page; the server's state names that of the page it shows */
  version: string;
  /** name of the model in links, that of its file where it is one */
  model: string;
  /** what people call it */
  name: string;
  /** of the size table, smallest size first; the last is the full model */
  rows: Row[];
  /** sizes that were measured, in percent */
  measured: number[];
  /** corpora whose perplexity was measured */
  corpora: { corpus: string; title: string; color: string; symbol: string }[];
  /** perplexity against size, as Plotly takes it */
  figure: Figure<Line>;
  /** the same with other methods, where they were measured */
  others: Figure<Line> | null;
  /** prompts to try */
  examples: string[];
  /** most characters of a prompt or text */
  characters: number;
  /** the model has a chat template */
  chat: boolean;
  /** stands for the page's address in code that is shown */
  address: string;
  /** of the strip; null where no facts were asked */
  facts: FactsData | null;
  /** in the mode `directions` */
  known: KnownData | null;
  /** percent that the page opens with in the mode `directions` */
  opening: number;
}

/** Facts that the full model knows. */
interface FactsData {
  /** how many were asked in all; those of the strip stand for them */
  of: number;
  facts: { group: string; prompt: string; answer: string }[];
}

/** Which facts are known, by position of the slider, the smallest size first. */
interface KnownData {
  /** one character for each fact of the strip: "1" where it is known */
  flags: string[];
  /** share of all facts that were asked */
  shares: number[];
}

/** What is said after the prompts of a mode's facts. */
interface SaidData {
  /** by position of the slider: number in `said` */
  sizes: number[];
  tokens: string[];
  /** by size and fact: probability and rank of the right answer, the likeliest tokens' numbers and probabilities */
  said: [probability: number, rank: number, top: number[], chances: number[]][][];
}

/** What the slider means at one position, in whole percent. */
interface Row {
  percent: number;
  /** size ratio of the compressed layers */
  ratio: number;
  parameters: number;
  bytes: number;
  /** share of the whole model's bytes */
  saved: number;
  /** floating-point operations per token */
  flops: number;
  /** by corpus, where it was measured */
  perplexity: Record<string, number>;
  /** perplexity ÷ the full model's, where bits are spent */
  relative: number | null;
  /** `relative` is no measurement */
  predicted: boolean;
  /** share by which one more megabyte lowers the perplexity */
  next_megabyte: number | null;
  /** share of tokens with the full model's likeliest one, on the worse corpus, where it was measured */
  agreement: number | null;
  /** KL from the full model, nats per token, on the worse corpus, where it was measured */
  divergence: number | null;
  /** tokens per second, once it was measured */
  speed?: number;
}

/** What may be spent. */
type Mode = "directions" | "bits" | "both";

/** A mode that spends bits, once its codes are made. */
interface ModeData {
  /** of the size table, smallest size first; as many as the mode `directions` has */
  rows: Row[];
  /** bytes of the model as published */
  published: number;
  /** bytes from which on nothing is lost */
  exact: number;
  /** bytes of the file that the model was read from */
  source: number | null;
  /** perplexity of the full model by corpus */
  bases: Record<string, number>;
  /** perplexity ÷ the full model's against megabytes */
  figure: Figure<Line>;
  /** the same with other quantizers, where they were measured */
  others: Figure<Line> | null;
  known: KnownData | null;
  /** percent that the page opens with */
  opening: number;
}

interface ModesData {
  /** of the codes */
  state: "absent" | "waiting" | "running" | "ready" | "failed";
  /** why bits cannot be spent (yet) */
  told: string;
  modes: Partial<Record<Mode, ModeData>>;
}

// ---- from the page's server, while something runs --------------------------------------------------------------------
interface Message {
  /** version of the page whose server sends it */
  page?: string;
  /** grows from run to run */
  run: number;
  state: "running" | "done" | "stopped" | "error" | "";
  /** for people */
  status: string;
}

interface Completion {
  percent: number;
  mode: Mode;
  /** as it was asked */
  prompt: string;
  /** what stands before the text: nothing where the chat template is used */
  shown?: string;
  text: string;
  status: string;
  /** the original's text, in one of before, once it was written */
  original?: string;
}

interface CompletionMessage extends Message, Completion {
  /** of prompt and settings; texts of other sizes with the same key belong to it */
  key?: string;
  beforehand?: boolean;
  /** percent, text, whether it is complete */
  ready: [number, string, boolean][];
  /** share of the prompt that is read */
  read?: number;
}

interface ComparedColumn {
  percent: number;
  /** text, and its probability to the full model as far as it is known */
  tokens: [string, number | null][];
  /** index of the first token that is not the full model's */
  parted: number | null;
  /** share of tokens that are the full model's */
  equal: number | null;
  /** indices of tokens in what the text has said before */
  repeated: number[];
  finish: string;
}

interface ComparisonMessage extends Message {
  mode: Mode;
  /** what stands before the texts */
  shown: string;
  columns: ComparedColumn[];
}

interface MeasuredPoint {
  corpus: string;
  title: string;
  color: string;
  value: number;
  low: number;
  high: number;
  /** windows read, and to be read */
  done: number;
  total: number;
}

interface MeasurementMessage extends Message {
  mode: Mode;
  ratio: number;
  bytes: number;
  points: MeasuredPoint[];
}

interface SpeedMessage extends Message {
  mode: Mode;
  /** tokens per second by percent */
  speeds: Record<string, number>;
}

interface ReadSize {
  percent: number;
  ratio: number;
  /** nats per token, separated by spaces */
  losses: string;
  perplexity: number;
  /** the whole text was read */
  done: boolean;
}

interface ReadingMessage extends Message {
  mode: Mode;
  /** the text, token by token */
  pieces: string[];
  sizes: ReadSize[];
}

interface ExportMessage extends Message {
  percent: number;
  mode: Mode;
  name: string;
  /** of the file, relative to the page; empty until there is one */
  address: string;
  /** share that is written */
  done: number;
  /** that loads the file */
  code: string;
}

// ---- galleries of figures ------------------------------------------------------------------------------------------
interface Trace {
  [key: string]: unknown;
}

interface Line extends Trace {
  name: string;
  x: (number | null)[];
  y: (number | null)[];
  customdata?: unknown[][];
}

interface Layout {
  /** pixels */
  height?: number;
  [key: string]: unknown;
}

interface Figure<T extends Trace = Trace> {
  data: T[];
  layout: Layout;
}

/** By percent of the slider: number of a trace, and what changes of it. */
type Frames = Record<string, [number, Record<string, unknown>][]>;

interface Picture {
  title: string;
  note: string;
  /** null where the note stands alone */
  figure: Figure | null;
  frames?: Frames | null;
  /** what can be looked at alone: its name, and the numbers of its traces */
  choices?: [string, number[]][] | null;
  /** that it shows, each with its sentence; none in the report */
  terms?: [name: string, meaning: string][];
}

// ---- Plotly and Gradio ------------------------------------------------------------------------------------------------
interface PlotlyAxis {
  _offset: number;
  _length: number;
  /** pixels of a value on a linear axis, or of its logarithm on a logarithmic one */
  l2p: (value: number) => number;
}

/** An element that Plotly has drawn in. */
interface Plot<T extends Trace = Trace> extends HTMLElement {
  data: T[];
  layout: Layout & { yaxis: { range: [number, number] } };
  _fullLayout: { width: number; height: number; xaxis: PlotlyAxis; yaxis: PlotlyAxis };
  on: (
    event: string,
    act: (event: { points: { x: number; curveNumber: number; pointNumber: number }[] }) => void,
  ) => void;
}

interface PlotlyLibrary {
  react: (plot: HTMLElement, data: Trace[], layout: object, config: object) => Promise<unknown>;
  restyle: (plot: HTMLElement, update: object, traces?: number[]) => Promise<unknown>;
  relayout: (plot: HTMLElement, update: object) => Promise<unknown>;
  update: (plot: HTMLElement, update: object, layout: object, traces: number[]) => Promise<unknown>;
  downloadImage: (figure: Figure, options: object) => Promise<unknown>;
  Plots: { resize: (plot: HTMLElement) => Promise<unknown> };
}

declare const Plotly: PlotlyLibrary;
interface Window {
  Plotly?: PlotlyLibrary;
}
