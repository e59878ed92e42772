"""How text reaches a model: as its own tokenizer begins it, parted by what its pre-training parted documents with."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from acip_core.data.corpus import token_windows
from acip_core.data.framing import framed_windows, framing
from acip_core.data.passage import cut_passage
from acip_core.errors import CorpusError

LETTERS = "abcdefghijklmnopqrstuvwxyz "
# What the tokenizers of these models have: special tokens, the end token among them, what they put in front and behind.
FAMILIES = {
    "gpt2": (["<|endoftext|>"], "<|endoftext|>", [], []),
    "smollm2-instruct": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", [], []),
    "llama-2": (["<s>", "</s>"], "</s>", ["<s>"], []),
    "llama-3-instruct": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", ["<|begin_of_text|>"], [],
    ),
    "mistral-chatml": (["<s>", "</s>", "<|im_end|>"], "<|im_end|>", ["<s>"], []),
    "gemma": (["<bos>", "<eos>"], "<eos>", ["<bos>"], []),
    "opt": (["</s>"], "</s>", ["</s>"], []),
    "t5-like": (["</s>"], "</s>", [], ["</s>"]),
    "two start tokens": (["[gMASK]", "<sop>", "<|endoftext|>"], "<|endoftext|>", ["[gMASK]", "<sop>"], []),
    "unknown names": (["[BEGIN]", "[END]"], "[END]", ["[BEGIN]"], []),
    "no special tokens": ([], None, [], []),
}  # fmt: skip
EXPECTED = {
    "gpt2": ([], ["<|endoftext|>"]),
    "smollm2-instruct": ([], ["<|endoftext|>"]),
    "llama-2": (["<s>"], ["</s>", "<s>"]),
    "llama-3-instruct": (["<|begin_of_text|>"], ["<|end_of_text|>", "<|begin_of_text|>"]),
    "mistral-chatml": (["<s>"], ["</s>", "<s>"]),
    "gemma": (["<bos>"], ["<eos>", "<bos>"]),
    "opt": (["</s>"], ["</s>"]),
    "t5-like": ([], ["</s>"]),
    "two start tokens": (["[gMASK]", "<sop>"], ["<|endoftext|>", "[gMASK]", "<sop>"]),
    "unknown names": (["[BEGIN]"], ["[END]", "[BEGIN]"]),
    "no special tokens": ([], []),
}


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    special, end, front, behind = FAMILIES[family]
    vocabulary = {token: id for id, token in enumerate([*special, *LETTERS])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(special)
    if front or behind:
        single = " ".join([*front, "$A", *behind])
        ids = [(token, vocabulary[token]) for token in {*front, *behind}]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_framing_of_a_family(family: str) -> None:
    tokenizer = tokenizer_of(family)
    start, between = EXPECTED[family]
    assert framing(tokenizer).described(tokenizer) == {"start": start, "between": between}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_window_begins_as_the_tokenizer_begins_a_text(family: str) -> None:
    tokenizer = tokenizer_of(family)
    texts = ["the first document", "another one", "and a third that is the longest of them all"]
    start = [tokenizer.convert_tokens_to_ids(token) for token in EXPECTED[family][0]]
    between = [tokenizer.convert_tokens_to_ids(token) for token in EXPECTED[family][1]]
    windows = token_windows(tokenizer, texts, 8)
    assert windows.dtype == torch.int64 and windows.shape[1] == 8 and len(windows) > 3
    assert all(row[: len(start)] == start for row in windows.tolist())
    stream = [id for row in windows.tolist() for id in row[len(start) :]]
    whole: list[int] = []
    for text in texts:
        whole += (between if whole or not start else []) + tokenizer(text, add_special_tokens=False).input_ids
    assert stream == whole[: len(stream)] and len(whole) - len(stream) < 8


def test_a_window_without_room_for_text_is_refused() -> None:
    with pytest.raises(CorpusError, match="no room"):
        token_windows(tokenizer_of("two start tokens"), ["some text"], 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [4, 7, 64])
def test_every_token_of_a_text_is_predicted_once(family: str, length: int) -> None:
    tokenizer, text = tokenizer_of(family), "what a model of this kind makes of a text"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    passage = cut_passage(tokenizer, text, length, 1000)
    predicted = [id for window in passage.windows for id in window[passage.lead :].tolist()]
    unpredicted = 0 if EXPECTED[family][1] else 1
    assert predicted == ids[unpredicted:] and len(passage.pieces) == len(predicted)
    assert "".join(passage.pieces) == text
    assert all(len(window) <= length for window in passage.windows)
    start = [tokenizer.convert_tokens_to_ids(token) for token in EXPECTED[family][0]]
    assert all(window[: len(start)].tolist() == start for window in framed_windows(tokenizer, ids, length))
