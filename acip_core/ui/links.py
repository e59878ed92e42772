"""Where the page's figures and its model come from, as links. Knows nothing of gradio."""

from __future__ import annotations

import os

from ..artifacts.loading import Loaded
from ..evaluation.methods import CORPORA
from ..model.base_model import DEFAULT_HUB_ID, embedded_gguf
from ..paths import exists_here

PAPER = "https://arxiv.org/abs/2502.01717"
AUTHORS_CODE = "https://github.com/merantix-momentum/acip"
_HUB = "https://huggingface.co"
_LICENSES = {
    "c4": ("https://huggingface.co/datasets/allenai/c4", "C4, ODC-BY"),
    "wikipedia": ("https://creativecommons.org/licenses/by-sa/4.0/", "Wikipedia, CC BY-SA 4.0"),
}
CODE_VARIABLE = "ACIP_CODE"  # address of the source code that runs here; a Space knows its own


def links(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Address, words and title of each link; what has no known address is left out."""
    found = [(PAPER, "Paper", "Any Compression via Iterative Pruning, arXiv 2502.01717")]
    if code := code_address():
        found.append((code, "Code", "The program that runs here"))
    else:
        told = "The program of the paper's authors; the one that runs here lies where it was started"
        found.append((AUTHORS_CODE, "Code", told))
    if card := model_card_address(loaded.elastic.base.source):
        found.append((card, "Model", "The model's card on the Hugging Face Hub, with its licence"))
    corpora = dict.fromkeys(curve.corpus for curve in loaded.artifact.curves)
    for corpus in (corpus for corpus in corpora if corpus in _LICENSES):
        address, title = _LICENSES[corpus]
        found.append(
            (address, title.partition(",")[0], f"Licence of a text for measuring, {CORPORA[corpus].kind}: {title}")
        )
    return found


def code_address() -> str:
    """That of the variable, or of the Space this runs in; empty where neither is known."""
    named = os.environ.get(CODE_VARIABLE, "")
    if named.startswith(("https://", "http://")):
        return named
    space = os.environ.get("SPACE_ID", "")
    return f"{_HUB}/spaces/{space}/tree/main" if space.count("/") == 1 else ""


def model_card_address(source: str) -> str:
    """The model's page on the Hub; empty for a local file."""
    embedded = embedded_gguf()
    if embedded is not None and source == embedded.stem:
        return f"{_HUB}/{DEFAULT_HUB_ID}"
    is_hub_id = source.count("/") == 1 and not source.startswith((".", "~", "/")) and not exists_here(source)
    return f"{_HUB}/{source.partition('@')[0]}" if is_hub_id else ""
