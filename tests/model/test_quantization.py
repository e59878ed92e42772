"""Fewer bits: values as an obvious loop makes them, bytes as promised, files that plain transformers reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.api import AcipModel
from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import AcipError, ArtifactError, PrecisionError
from acip_core.evaluation.curves import primary_curves
from acip_core.figures.chart import curve_figure
from acip_core.model.base_model import load_base
from acip_core.model.modeling import QuantizedMatrix
from acip_core.model.quantization import (
    FULL,
    PRECISIONS,
    Quantized,
    at_precision,
    pack,
    precision,
    precisions,
    quantize,
)
from acip_core.model.size_planner import DENSE
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.pipelines.size_curves import measure_precision
from acip_core.progress import finish
from acip_core.training.adapters import AdapterConfig
from tests.support.commands import run
from tests.support.exports import base_of, elastic_of, logits, stored
from tests.support.plain import read_by_others
from tests.support.tiny import generator, save, tiny_artifact, tiny_base, tiny_elastic


def unpacked(matrix: QuantizedMatrix) -> torch.Tensor:
    """The values one by one."""
    tensors, rows = matrix.state_dict(), []
    for codes, scales in zip(tensors.get("codes8", ()), tensors.get("scale8", ()), strict=True):
        group = len(codes) // len(scales)
        rows.append([code.item() * scales[i // group].item() for i, code in enumerate(codes)])
    for row, codes in enumerate(tensors.get("codes4", ())):
        scales = tensors["scale4"][row]
        nibbles = [half for byte in codes.tolist() for half in (byte >> 4, byte & 15)]
        group = len(nibbles) // len(scales)
        offsets = tensors["offset4"][row] if "offset4" in tensors else torch.zeros(len(scales))
        values = enumerate(matrix.levels[nibble] for nibble in nibbles)
        rows.append([value * scales[i // group].item() + offsets[i // group].item() for i, value in values])
    return torch.tensor(rows)


@pytest.mark.parametrize("name", precisions()[1:])
def test_values_are_those_of_the_stored_codes_and_close(name: str) -> None:
    matrix = torch.randn(40, 64, generator=generator())
    eight = 40 if name == "int8" else 8
    packed = pack(matrix, eight, precision(name, (64,)))
    values = packed()
    torch.testing.assert_close(values, unpacked(packed))
    error = (values - matrix).norm(dim=1) / matrix.norm(dim=1)
    assert error[:eight].max() < 0.01 and error.max() < 0.15
    assert pack(torch.zeros(8, 64), 4, precision(name, (64,)))().abs().max() < 1e-6


def test_the_four_bit_values_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    matrix = torch.randn(16, 64, generator=generator())
    for name in ("nf4", "fp4"):
        codes, state = functional.quantize_4bit(matrix, blocksize=32, quant_type=name)
        expected = functional.dequantize_4bit(codes, state)
        torch.testing.assert_close(pack(matrix, 0, precision(name, (64,)))(), expected, rtol=1e-3, atol=1e-3)


def test_int4_keeps_weights_that_have_sixteen_values_a_group() -> None:
    codes = torch.randint(0, 16, (12, 2, 32), generator=generator()).float()
    codes[..., 0], codes[..., 1] = 0, 15
    matrix = (codes * 0.125 - 0.75).flatten(1)
    torch.testing.assert_close(pack(matrix, 0, precision("int4", (64,)))(), matrix, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_files_hold_what_runs_in_as_many_bytes_as_promised(
    family: str, name: str, ratio: float, tmp_path: Path
) -> None:
    elastic = tiny_elastic(family, adapter_rank=2)
    quantized = finish(quantize(elastic, name))
    plan = elastic.set_size(ratio)
    write(elastic, quantized, tmp_path / "out")
    found = sum(t.numel() * t.element_size() for t in stored(tmp_path / "out").values())
    assert found == plan.bytes < plan.parameters * 4
    loaded = load_base(str(tmp_path / "out"))
    torch.testing.assert_close(logits(loaded.model), logits(elastic.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_layers_that_are_one_group_wide(width: int, name: str, ratio: float, tmp_path: Path) -> None:
    settings = {"hidden_size": width, "intermediate_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
    elastic = elastic_of(base_of("llama", **settings))
    quantized = finish(quantize(elastic, name))
    elastic.set_size(ratio)
    write(elastic, quantized, tmp_path / "out")
    assert all(t.ndim == 2 for key, t in stored(tmp_path / "out").items() if key.rpartition(".")[2][:5] == "scale")
    torch.testing.assert_close(logits(load_base(str(tmp_path / "out")).model), logits(elastic.model))


def write(elastic, quantized: Quantized, folder: Path, dense: bool = False) -> None:
    finish(export(elastic, tiny_artifact(tiny_base()), elastic.plan, folder, dense, quantized=quantized))


def test_nothing_of_ours_is_needed_to_read_it(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    quantized = finish(quantize(elastic, "int4"))
    elastic.set_size(0.6)
    write(elastic, quantized, tmp_path / "out")
    found = read_by_others(tmp_path / "out", tmp_path)
    torch.testing.assert_close(found, logits(elastic.model), rtol=1e-4, atol=1e-4)
    assert "# tiny-llama at 60" in (card := (tmp_path / "out/README.md").read_text()) and "size, int4" in card


def test_multiplied_out_it_is_the_base_models_class(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    quantized = finish(quantize(elastic, "int4"))
    elastic.set_size(0.6)
    write(elastic, quantized, tmp_path / "out", dense=True)
    loaded = load_base(str(tmp_path / "out"))
    assert type(loaded.model) is type(elastic.model)
    torch.testing.assert_close(logits(loaded.model), logits(elastic.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_bytes_of_every_size(name: str) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    before = elastic.planner
    finish(quantize(elastic, name))
    planner = elastic.planner
    plans = [planner.at_ratio(percent / 100) for percent in range(100, 34, -1)]
    assert [plan.ranks for plan in plans] == [before.at_ratio(percent / 100).ranks for percent in range(100, 34, -1)]
    assert all(plan.bytes < plan.base_bytes == before.at_ratio(1.0).bytes for plan in plans)
    for plan in plans:
        layers = zip(elastic.elastic_layers().values(), plan.ranks, strict=True)
        stored = precision(name, (8,)).storage
        expected = planner.footprint.other_parameters * 4.0
        for layer, rank in layers:
            m, n = layer.weight.shape
            leading = min(rank, stored.directions)
            row = (2 + leading) * stored.leading + (rank - leading) * stored.rest
            expected += m * n * stored.dense if rank == DENSE else (m + n) * row
        assert plan.bytes == round(expected)
        found = planner.at_bytes(plan.bytes)
        assert found.bytes <= plan.bytes and found.target_parameters >= plan.target_parameters


def test_bytes_that_no_size_has() -> None:
    elastic = tiny_elastic(adapter_rank=2)
    finish(quantize(elastic, "int4"))
    planner = elastic.planner
    for size in (10, planner.at_ratio(1.0).base_bytes, float("nan"), "much"):
        with pytest.raises(AcipError, match=r"size|cut"):
            planner.at_bytes(size)


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> tuple[str, Path]:
    """A model's folder and its artifact's."""
    base = tiny_base()
    save(base, tmp_path / "tiny-llama")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(tmp_path / "tiny-llama"), tmp_path / "artifact"


def test_a_model_opened_at_a_precision(model: tuple[str, Path], tmp_path: Path) -> None:
    opened = AcipModel.from_pretrained(model[0], artifact=model[1], precision="int4")
    elastic = tiny_elastic(adapter_rank=2)
    artifact = read_artifact(model[1])
    assert opened.plan.bytes < opened.plan.base_bytes
    assert opened.artifact.curves == ()  # not measured at this precision: others are not passed for its own
    opened.set_size(0.6)
    opened.save_pretrained(tmp_path / "out")
    torch.testing.assert_close(
        logits(load_base(str(tmp_path / "out")).model), logits(opened.elastic.model), rtol=1e-4, atol=1e-4
    )
    assert artifact.curves and elastic.planner.footprint.storage is None
    full = AcipModel.from_pretrained(model[0], artifact=model[1], precision=FULL)
    assert full.artifact.curves == artifact.curves


def test_its_curve_is_kept_beside_the_artifacts_own(
    model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = model
    (tmp_path / "text.txt").write_text("\n\n".join(f"line {i} of a text that is long enough" for i in range(200)))
    text = str(tmp_path / "text.txt")
    old = read_artifact(folder)
    curve = replace(old.curves[0], corpus=text, tokens=4 * 31)
    write_artifact(replace(old, curves=(curve,), recipe=old.recipe | {"window": 32}), folder)
    (folder / "completions.json").write_text('[{"prompt": "a", "new_tokens": 1, "texts": {"100": "b"}}]')
    code, output = run(
        monkeypatch, capsys, "measure", "precision", source, "--artifact", str(folder), "--precision", "int8"
    )
    assert code == 0, output
    new = read_artifact(folder)
    added = new.curves[-1]
    assert new.curves[:-1] == (curve,) and added.method == at_precision(curve.method, "int8")
    assert (added.corpus, added.tokens, added.base_perplexity) == (text, 4 * 31, curve.base_perplexity)
    assert (folder / "completions.json").is_file()
    opened = finish(open_model(source, folder, precision="int8"))
    assert primary_curves(opened.artifact.curves) == [added] and opened.completions == ()
    assert added.points[0].bytes == opened.elastic.planner.at_ratio(1.0).bytes
    names = [trace.get("name") for trace in curve_figure(opened.artifact.curves, 30)["data"]]
    assert "full precision" in names and "int8" not in names
    names = [trace.get("name") for trace in curve_figure(new.curves, 30)["data"]]
    assert "int8" in names and "full precision" not in names
    with pytest.raises(ArtifactError, match="has no curve"):
        finish(measure_precision(source, FULL, folder))


def test_scored_when_quantized_and_used_in_full(model: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"line {i} of a text that is long enough" for i in range(200)))
    recipe = PrecomputeConfig(
        corpora=(str(tmp_path / "text.txt"),), window=32, moment_windows=4, score_windows=4, basis_rank=16,
        adapters=AdapterConfig(rank=2, alpha=4, steps=6, smallest=0.4), curve_windows=3, ratios=(1.0, 0.6),
        comparisons=False, examples=(), quantized="int4", refining=None,
    )  # fmt: skip
    folder = finish(precompute(model[0], recipe, tmp_path / "from-int4"))
    opened = finish(open_model(model[0], folder))
    assert "quantized to int4" in opened.note
    full = load_base(model[0]).model
    assert torch.equal(logits(opened.elastic.model), logits(full))  # at 100 % the full weights, untouched
    opened.elastic.set_size(0.6)
    assert torch.isfinite(logits(opened.elastic.model)).all()
    assert finish(open_model(model[0], folder, precision="int4")).quantized is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--precision", "int3"), "There is no precision 'int3' here, but full, int8, int4"),
        (("--precision", "nf4"), "nf4 needs layers whose widths are multiples of 32; this model's have 8 in common"),
    ],
)
def test_precisions_that_cannot_be_had(
    arguments: tuple[str, ...],
    sentence: str,
    model: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, folder = model
    out = str(tmp_path / "out")
    code, output = run(
        monkeypatch, capsys, "export", source, out, "--size", "0.6", "--artifact", str(folder), *arguments
    )
    assert code == 2 and sentence in output and "Traceback" not in output and not Path(out).exists()


def test_without_bitsandbytes_its_precisions_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert precisions() == (FULL, *PRECISIONS[:2])
    with pytest.raises(PrecisionError, match="install bitsandbytes"):
        precision("nf4", (64,))
