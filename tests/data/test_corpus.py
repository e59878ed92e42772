"""Text: disjoint splits that never move, the published C4 filters, a user's own file, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import torch

from acip_core.data import corpus as corpus_module
from acip_core.data.corpus import SPLITS, corpus_windows, documents, filter_c4, read_text_file, token_windows
from acip_core.errors import CorpusError
from tests.support.tiny import tiny_tokenizer

PAGE = ["The cat sat down on the mat.", "Then it looked at the door!", "Was anyone about to come in?"]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def texts() -> list[str]:
    return [f"Document number {i}.\nIt has a second line, as documents do." for i in range(600)]


def test_splits_are_disjoint_complete_and_of_the_stated_shares(texts: list[str], tmp_path: Path):
    name = write(tmp_path / "own.txt", texts)
    parts = {split: documents(name, split) for split in SPLITS}
    assert sorted(text for part in parts.values() for text in part) == sorted(texts)
    shares = [len(parts[split]) / len(texts) for split in SPLITS]
    assert shares == pytest.approx([0.80, 0.05, 0.15], abs=0.03)


def test_a_document_never_changes_its_split(texts: list[str], tmp_path: Path):
    before = {split: set(documents(write(tmp_path / "a.txt", texts), split)) for split in SPLITS}
    shuffled = ["A new document in front.", *texts[100:]]
    random.Random(0).shuffle(shuffled)
    name = write(tmp_path / "b.txt", shuffled)
    for split in SPLITS:
        assert set(documents(name, split)) - {"A new document in front."} == before[split] & set(shuffled)


def test_a_repeated_document_counts_once(texts: list[str], tmp_path: Path):
    name = write(tmp_path / "twice.txt", texts[:60] + texts[:60])
    assert len(documents(name, "calibration")) == len(set(documents(name, "calibration")))


def test_c4_keeps_prose_and_cuts_lost_line_breaks():
    assert filter_c4(
        ["\n".join(PAGE), " ".join(PAGE).replace("cat", "dog").replace("it", "he").replace("in?", "out?")]
    ) == [
        " ".join(PAGE),
        "The dog sat down on the mat. Then he looked at the door! Was anyone about to come out?",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "This line has no punctuation at its end",
        "This one is cut off by its teaser...",
        "Only four words here.",
        "Please read our terms of use before you go on.",
        "This site uses cookies to make everything better.",
        "Our Privacy Policy tells you all about it.",
        "You must enable JavaScript to see this page.",
        " ".join(["Menu"] * 101) + ".",
    ],
)
def test_c4_drops_a_line(line: str):
    assert filter_c4(["\n".join([PAGE[0], line, *PAGE[1:]])]) == [" ".join(PAGE)]


@pytest.mark.parametrize(
    "line", ["Lorem ipsum dolor sit amet it says.", "A function f() { return 1; } was found here."]
)
def test_c4_drops_a_page(line: str):
    assert filter_c4(["\n".join([*PAGE, line])]) == []


def test_c4_drops_short_pages_and_lines_shared_between_pages():
    assert filter_c4(["\n".join(PAGE[:2])]) == []
    own = [
        [f"This is the {word} sentence of {page}." for word in ("first", "second", "third")] for page in ("one", "two")
    ]
    template = "Everybody sees this line on every page."
    assert filter_c4(["\n".join([template, *lines]) for lines in own]) == [" ".join(lines) for lines in own]


def test_windows_hold_the_documents_in_order_behind_end_of_text():
    tokenizer, texts = tiny_tokenizer(), ["abc", "de", "fghij"]
    ids = [token for text in texts for token in [2, *tokenizer(text, add_special_tokens=False).input_ids]]
    assert token_windows(tokenizer, texts, 4).tolist() == [ids[0:4], ids[4:8], ids[8:12]]
    first = token_windows(tokenizer, texts, 4, count=2)
    assert first.tolist() == [ids[0:4], ids[4:8]] and first.dtype == torch.int64


@pytest.mark.parametrize("count", [None, 3])
def test_too_little_text(count: int | None):
    with pytest.raises(CorpusError, match="more text"):
        token_windows(tiny_tokenizer(), ["short"], 8, count)


def test_missing_file_names_the_known_corpora(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"gone\.txt.*c4, wikipedia, wikitext2"):
        documents(str(tmp_path / "gone.txt"), "held-out")


@pytest.mark.parametrize("content", [b"", b" \n\n \t\n"])
def test_empty_file(content: bytes, tmp_path: Path):
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=r"empty\.txt is empty"):
        documents(str(tmp_path / "empty.txt"), "held-out")


def test_a_name_that_is_no_text_is_one_sentence(tmp_path: Path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/te\xff.txt")
    write(Path(path), ["some text"] * 9)
    with pytest.raises(CorpusError, match=r"text file '.*te�\.txt' is not UTF-8; rename it"):
        documents(path, "held-out")


def test_binary_file(tmp_path: Path):
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    with pytest.raises(CorpusError, match=r"picture\.txt as text"):
        documents(str(tmp_path / "picture.txt"), "held-out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_is_the_same_in_every_encoding_that_names_itself(encoding: str, newline: str, tmp_path: Path):
    texts = [f"Größe {i}: 日本語." for i in range(40)]
    (tmp_path / "own.txt").write_bytes((newline * 2).join(texts).encode(encoding))
    assert read_text_file(tmp_path / "own.txt") == texts


def test_json_lines_are_documents(tmp_path: Path):
    texts = [f"Document {i}.\n\nIt has two paragraphs." for i in range(40)]
    rows = [json.dumps({"text": text, "url": "x"}) if i % 2 else json.dumps(text) for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n\n", encoding="utf-8-sig")
    assert read_text_file(tmp_path / "rows.jsonl") == texts


@pytest.mark.parametrize("row", ["{", '{"content": "a"}', '{"text": 3}', '{"text": "\\ud800"}', "7", "[" * 5000])
def test_a_line_that_is_no_document_is_named(row: str, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n' + row)
    with pytest.raises(CorpusError, match=r"Line 2 of .*rows\.jsonl"):
        read_text_file(tmp_path / "rows.jsonl")


def test_the_split_that_is_too_short_is_named(texts: list[str], tmp_path: Path):
    name = write(tmp_path / "own.txt", texts)
    assert len(corpus_windows(tiny_tokenizer(), name, "calibration", 64, 50)) == 50
    with pytest.raises(
        CorpusError, match=r"The held-out text of '.*own\.txt' \(\d+ documents\) is too short.*more text"
    ):
        corpus_windows(tiny_tokenizer(), name, "held-out", 64, 100_000)


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(CorpusError, match="no file"):
        read_text_file(tmp_path / "pipe.txt")


def test_folder_in_place_of_a_file(tmp_path: Path):
    with pytest.raises(CorpusError, match=str(tmp_path)):
        documents(str(tmp_path), "held-out")


@pytest.mark.parametrize("name", ["a\0b", "~nobody-lives-here/text.txt", "x" * 5000])
def test_names_that_no_file_can_have(name: str):
    with pytest.raises(CorpusError) as caught:
        documents(name, "held-out")
    assert "\n" not in str(caught.value)


def test_much_text_without_blank_lines_says_what_is_missing(tmp_path: Path):
    (tmp_path / "lines.txt").write_text("\n".join(f"Line {i} of a long text." for i in range(1000)))
    messages = []
    for split in SPLITS:
        try:
            documents(str(tmp_path / "lines.txt"), split)
        except CorpusError as error:
            messages.append(str(error))
    assert len(messages) == 2 and all("blank lines" in message for message in messages)


def test_one_document_cannot_fill_every_split(tmp_path: Path):
    name = write(tmp_path / "one.txt", ["Just one document."])
    outcomes = []
    for split in SPLITS:
        try:
            outcomes.append(len(documents(name, split)))
        except CorpusError as error:
            assert split in str(error) and "more text" in str(error)
    assert outcomes == [1]


def test_unknown_split():
    with pytest.raises(CorpusError, match="calibration, validation, held-out"):
        documents("c4", "test")


def test_no_wheel_and_no_network_names_the_ways_out(monkeypatch: pytest.MonkeyPatch):
    hub = dict.fromkeys(("wikitext2", "c4"), ("nobody-has-this/text", {"split": "test"}))
    monkeypatch.setattr(corpus_module, "_HUB", hub)
    monkeypatch.setattr(corpus_module, "_embedded_file", lambda corpus: None)
    corpus_module._all_documents.cache_clear()
    with pytest.raises(CorpusError, match=r"requirements-embedded\.txt.*network.*text file"):
        documents("c4", "held-out")
    with pytest.raises(CorpusError, match=r"'wikitext2'.*; connect to the network.*text file"):
        documents("wikitext2", "held-out")


@pytest.mark.real
@pytest.mark.parametrize(
    ("corpus", "counts", "digest"),
    [("c4", [435, 22, 86], "6e8c5cea894f8681"), ("wikipedia", [507, 30, 92], "9dc8c86c51d750b8")],
)
def test_embedded_corpora_are_the_ones_all_figures_were_measured_on(corpus, counts, digest, default_gguf: Path):
    parts = [documents(corpus, split) for split in SPLITS]
    assert [len(part) for part in parts] == counts
    assert len(set().union(*parts)) == sum(counts)
    assert hashlib.sha256("\0".join(parts[2]).encode()).hexdigest()[:16] == digest  # changing it voids the figures
    assert sum(len(text.split()) for text in parts[2]) > 16 * 512
