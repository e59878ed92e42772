"""Which layers of a model are compressed: the linear maps of its decoder blocks, narrowed by patterns.

Knows names and shapes of a transformers model's modules; nothing of factors, scores or sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError
from .kernels import Linear
from .layers import ElasticLinear
from .offloading import StoredWeights

_FORWARDS = (nn.Linear.forward, Linear.forward, ElasticLinear.forward)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # float8 has no arithmetic of its own
Layer = TypeVar("Layer", bound=nn.Linear, covariant=True)


class TargetLayers(Mapping[str, Layer]):
    """Linear layers of a model by name, in model order, resolved once.

    Attributes:
        shapes: (out_features m, in_features n) by name.
        aliases: all names that the model has for a layer, several where it is shared, by its name here.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]):
        self._model, self._layers = model, dict(layers)
        self.shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        names = module_names(model)
        self.aliases = {name: tuple(names[layer]) for name, layer in layers.items()}

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Their weights (m, n) by name, as they are in the model, without gradients; read when they are asked for where
        they lie in files."""
        if any(layer.weight.is_meta for layer in self._layers.values()):
            return StoredWeights(self._layers)
        return {name: layer.weight.detach() for name, layer in self._layers.items()}

    def weight_copies(self) -> dict[str, torch.Tensor]:
        """Copies of their weights (m, n) by name."""
        return {name: weight.clone() for name, weight in self.weights().items()}

    def replace(self, name: str, module: nn.Module) -> None:
        """Put another module wherever the model has this layer; here the layer stays."""
        for alias in self.aliases[name]:
            self._model.set_submodule(alias, module)


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer computes `x Wᵀ + b` from a floating-point matrix W (out_features, in_features) and nothing else.

    Classes derived from `nn.Linear` that compute something else have a `forward` of their own (routers, quantized
    layers), or a weight that is no parameter, or one of another type or shape.
    """
    wrapped = "forward" in vars(layer) and not hasattr(layer, "_hf_hook")  # accelerate's hooks change no output
    if not isinstance(layer, nn.Linear) or type(layer).forward not in _FORWARDS or wrapped:
        return False
    weight = layer._parameters.get("weight")
    shape = layer.out_features, layer.in_features
    return weight is not None and weight.dtype in FLOATS and tuple(weight.shape) == shape


def linearize(model: nn.Module) -> None:
    """Make every linear map of a model one `nn.Linear`, in place; its outputs and its state dict stay the same.

    transformers' `Conv1D` (GPT-2) becomes an `nn.Linear` whose weight is the transposed view, and layers that share
    weight and bias become one module, so that they are cut, and counted, once.
    """
    found = module_names(model)
    unique: dict[tuple[int, int], nn.Linear] = {}
    transposed: list[str] = []
    for layer, names in found.items():
        if not isinstance(layer, nn.Linear | Conv1D) or not (type(layer) is Conv1D or is_linear(layer)):
            continue
        key = id(layer.weight), id(layer.bias)
        linear = unique.get(key) or unique.setdefault(key, _linear(layer))
        if linear is not layer:
            for name in names:
                model.set_submodule(name, linear)
        if isinstance(layer, Conv1D) and layer.weight.is_meta:
            raise ModelError(
                f"{type(model).__name__} has weights of Conv1D layers, which cannot stay on disk; name a device with "
                "memory for it (ACIP_DEVICE=cpu or cuda)."
            )
        if isinstance(layer, Conv1D):
            transposed += [f"{name}.weight" for name in names]
    if transposed:
        _keep_states(model, transposed)


def _linear(layer: nn.Linear | Conv1D) -> nn.Linear:
    if isinstance(layer, nn.Linear):
        return layer
    linear = nn.Linear(layer.nx, layer.nf, device="meta")
    linear.weight = nn.Parameter(layer.weight.data.T, layer.weight.requires_grad)
    linear.bias = layer.bias
    return linear.train(layer.training)


def _keep_states(model: nn.Module, transposed: list[str]) -> None:
    """Write and read these weights as the model's own class does, whatever module stands in their place."""

    def turn(_: nn.Module, state: dict[str, torch.Tensor], prefix: str, *__: Any) -> None:
        for name in transposed:
            if prefix + name in state:
                state[prefix + name] = state[prefix + name].T

    model.register_state_dict_post_hook(turn)
    model.register_load_state_dict_pre_hook(turn)


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """The names of every module, several where it is shared."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    return found


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks and its name: the `ModuleList` that holds the most parameters.

    Raises:
        ModelError: the model has no such list.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of decoder blocks; only decoder language models can be compressed."
        )
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def target_layers(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> TargetLayers[nn.Linear]:
    """The linear layers of the decoder blocks by name, in model order; not embeddings, not the head.

    A layer that shares its weight with anything else of the model stays as it is.

    Args:
        include: patterns, one of which a layer must match; all layers when empty.
        exclude: patterns, none of which a layer may match. A pattern is a shell pattern for whole parts of a name:
            `up_proj`, `layers.0`, `self_attn.?_proj`.

    Raises:
        ModelError: no layer is left, a pattern matches none, or weights are fused into 3-D tensors.
    """
    kind = type(model).__name__
    if getattr(getattr(model, "config", None), "codes", None):
        raise ModelError("The weights of this model are codes already; compress the model it was exported from.")
    prefix, blocks = decoder_blocks(model)
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    layers = {
        f"{prefix}.{name}": layer
        for name, layer in blocks.named_modules()
        if is_linear(layer) and owners[id(layer.weight)] == 1 and layer.weight.numel()
    }
    fused = [f"{prefix}.{name}" for name in _fused_weights(blocks)]
    if not layers and getattr(getattr(model, "config", None), "quantized", None):
        raise ModelError("The layers of this model are quantized already; compress the model it was exported from.")
    if not layers:
        raise ModelError(f"The decoder blocks of {kind} hold no linear layers that can be compressed.")
    for pattern in (*include, *exclude):
        if not any(_matches(name, pattern) for name in (*layers, *fused)):
            reason = _why_unmatched(model, prefix, pattern)
            raise ModelError(
                f"No layer of {kind} matches the pattern '{pattern}'; {reason}"
                f"layers have names such as {next(reversed(layers))}."
            )

    def chosen(name: str) -> bool:
        wanted = not include or any(_matches(name, pattern) for pattern in include)
        return wanted and not any(_matches(name, pattern) for pattern in exclude)

    targets = TargetLayers(model, {name: layer for name, layer in layers.items() if chosen(name)})
    if left := [name for name in fused if chosen(name)]:
        others = (
            f"compress the other layers alone with {exclusions(left, layers)}" if targets else "choose other layers"
        )
        raise ModelError(
            f"{kind} keeps weights in fused 3-D tensors ({left[0]}), which cannot be factorized; {others}."
        )
    if not targets:
        raise ModelError(f"--include and --exclude leave none of {kind}'s {len(layers)} linear layers.")
    return targets


def exclusions(names: Collection[str], kept: Collection[str]) -> str:
    """The most general `--exclude` options that match all of `names` and none of `kept`."""
    patterns: list[str] = []
    for name in names:
        if not any(_matches(name, pattern) for pattern in patterns):
            patterns.append(next(p for p in _patterns(name) if not any(_matches(other, p) for other in kept)))
    return "`" + " ".join(f"--exclude {pattern}" for pattern in patterns) + "`"


def _patterns(name: str) -> list[str]:
    """Patterns that match a layer, the most general first: `experts`, a word of its name, an end of it, all of it."""
    parts = name.removesuffix(".weight").split(".")
    words = [part for part in reversed(parts) if not part.isdigit()]
    ends = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
    return [*(w for w in words if w == "experts"), *words, *(e for e in ends if not e.isdigit()), name]


def _why_unmatched(model: nn.Module, prefix: str, pattern: str) -> str:
    """Why a pattern matches no linear layer of the blocks, as the beginning of a clause."""
    if "," in pattern:
        return "give the option once for each pattern; "
    found = next((name for name, _ in model.named_modules() if _matches(name, pattern)), None)
    if not pattern or found is None:
        return ""
    if not found.startswith(f"{prefix}."):
        return f"{found} lies outside the decoder blocks, and embeddings and the head are never compressed; "
    return f"{found} is not a linear layer that can be compressed; "


def named_layers(model: nn.Module, names: Collection[str]) -> TargetLayers[nn.Linear]:
    """The linear layers with these names, in model order.

    Raises:
        ModelError: the model has no linear layer of such a name.
    """
    wanted = set(names)
    found = {name: m for name, m in model.named_modules() if name in wanted and is_linear(m)}
    if missing := sorted(wanted - set(found)):
        raise ModelError(f"{type(model).__name__} has no linear layer named {missing[0]}.")
    return TargetLayers(model, found)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def _fused_weights(blocks: nn.ModuleList) -> list[str]:
    """Names of the parameters that hold several matrices, as of experts; the kernels of convolutions are 3-D too."""
    return [
        f"{path}.{name}"
        for path, module in blocks.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape[1:]) > 1 and not isinstance(module, nn.modules.conv._ConvNd)
    ]
