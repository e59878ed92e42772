"""Fixtures shared by all tests: a cache folder of their own, and one tiny model of each family."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext
from transformers.utils import logging as transformers_logging

from acip_core.artifacts.writer import write_artifact
from acip_core.evaluation.facts import Fact
from acip_core.model import autocast, base_model
from acip_core.model.base_model import BaseModel, embedded_gguf
from acip_core.pipelines import knowledge
from acip_core.training import checkpoint
from tests.support.browser import Newcomer, chromium, newcomers
from tests.support.coded import save_with_coding
from tests.support.device import DEVICE, bring_inputs
from tests.support.hub import Hub, local_hub
from tests.support.knowledge import tiny_facts
from tests.support.tiny import FAMILIES, save, tiny_artifact, tiny_base

transformers_logging.disable_progress_bar()
if DEVICE.type != "cpu":
    torch.nn.modules.module.register_module_forward_pre_hook(bring_inputs)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing a test does reaches the user's own cache; ACIP_TEST_CACHE names one that lasts between runs.

    All processes of a run share one, so that the default model is converted and factorized once.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("ACIP_TEST_CACHE") or shared / "cache")
    os.environ["ACIP_CACHE"] = str(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ACIP_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def same_random_numbers_in_any_order() -> None:
    """What draws from torch's global generator, such as initial weights, does not depend on the tests before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def float32_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are loaded compute in float32 by default, as on a CPU: their numbers are compared with others'."""
    if DEVICE.type != "cpu":
        chosen = base_model.computing_dtype
        monkeypatch.setattr(base_model, "computing_dtype", lambda dtype, device: chosen(dtype, torch.device("cpu")))


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads only slow down models this small, the more so on a busy machine."""
    if any(request.node.get_closest_marker(mark) for mark in ("real", "browser")):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def few_facts() -> tuple[Fact, ...]:
    """Facts that the tiny model of the Llama kind knows, of two lengths."""
    return tiny_facts(tiny_base(), 27)


@pytest.fixture(autouse=True)
def few_facts_are_asked_for(few_facts: tuple[Fact, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking 71 sizes for all facts would take half of what a tiny model's precompute takes."""
    monkeypatch.setattr(knowledge, "ASKED", few_facts)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient runs in float32 whatever the processor multiplies natively, with a checkpoint after every step."""
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: False)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def base(family: str) -> BaseModel:
    """A fresh tiny model of every family in turn."""
    return tiny_base(family)


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> str:
    """The folder of a tiny model, with nothing of it in the cache."""
    return str(save(tiny_base(), tmp_path / "tiny"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub on this machine, which this process asks in place of the real one."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with local_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def windows() -> torch.Tensor:
    """(4, 24) token ids for calibration and evaluation of tiny models."""
    return torch.randint(3, 128, (4, 24), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    """The embedded model's file; `make test` installs it, elsewhere the tests that need it are left out."""
    file = embedded_gguf()
    if file is None:
        if os.environ.get("CI"):
            pytest.fail("The embedded model is not installed.")
        pytest.skip("the embedded model is not installed")
    return file


@pytest.fixture(scope="session")
def profile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browsers of one process keep, one after another."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def profile(profile_folder: Path) -> Iterator[BrowserContext]:
    """A headless Chromium that knows scripts it has met before."""
    path = os.environ.get("CHROMIUM")
    if not path:
        if os.environ.get("CI") or os.environ.get("ACIP_REQUIRE_BROWSER"):
            pytest.fail("CHROMIUM names no browser; continuous integration runs the browser tests.")
        pytest.skip("no Chrome or Chromium: `make test` sets CHROMIUM to its path")
    with chromium(path, profile_folder) as profile:
        yield profile


@pytest.fixture(scope="module")
def browser(profile: BrowserContext) -> Browser:
    """The same, for pages that nobody has met."""
    assert profile.browser is not None
    return profile.browser


@pytest.fixture
def newcomer(profile: BrowserContext) -> Iterator[Newcomer]:
    """Gives the browser of somebody who was never on a page; a second one is another person."""
    with newcomers(profile) as newcomer:
        yield newcomer


@pytest.fixture(scope="session")
def app_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model's folder and its artifact's."""
    base = tiny_base()
    parent = tmp_path_factory.mktemp("app")
    save(base, parent / base.name)
    write_artifact(tiny_artifact(base), parent / "artifact")
    return parent / base.name, parent / "artifact"


@pytest.fixture(scope="session")
def coded_folders(app_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The same model's, and that of an artifact with operating points and adapters of coded layers."""
    folder = tmp_path_factory.mktemp("coded") / "artifact"
    shutil.copytree(app_folders[1], folder)
    save_with_coding(app_folders[0], folder)
    return str(app_folders[0]), folder
