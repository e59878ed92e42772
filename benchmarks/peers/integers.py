"""Round-to-nearest and GPTQ (arXiv 2210.17323): whole bits in groups of columns with a scale and an offset each.

W[i, j] ≈ scale[i, j // group] · (code[i, j] − zero[i, j // group])        code, zero of b bits, scale of 16
"""

from __future__ import annotations

import torch

from acip_core.model.codes import feedback
from acip_core.progress import Steps

from .stored import Stored, pack, unpack
from .subject import Peer, Subject, by_layer

GROUP = 64  # columns; 128, what GPTQ's authors use, divides neither 576 nor 192
FINE_GROUP = 32
_BITS = (4, 3, 2)
_DAMPING = 0.01  # of the mean of C's diagonal
_BLOCK = 64  # columns whose errors reach the others in one product
_SHRINK = tuple(1 - 0.02 * i for i in range(31))  # of a group's range, tried for the smallest error
_NORM = 2.4  # power of the errors that is minimized, as in GPTQ's own program


def rtn_peers(subject: Subject) -> list[Peer]:
    """Round-to-nearest between the smallest and the largest weight of a group."""
    return [
        Peer(
            "rtn",
            f"{bits} bits, groups of {GROUP}",
            lambda bits=bits: by_layer(subject, f"rounding to {bits} bits", lambda _, w: rounded(w, bits, GROUP)),
        )
        for bits in _BITS
    ]


def gptq_peers(subject: Subject) -> list[Peer]:
    """GPTQ in two sizes of groups, in the larger one also with the embedding in 4 bits."""
    latest: dict[tuple[int, int], dict[str, Stored]] = {}  # the layers, which the sizes of the embedding share

    def make(bits: int, group: int, tables: int | None = None) -> Steps[dict[str, Stored]]:
        if (bits, group) not in latest:
            latest.clear()
            moments = yield from subject.moments()
            label = f"GPTQ to {bits} bits, groups of {group}"
            layers = by_layer(subject, label, lambda name, weight: gptq(weight, moments[name], bits, group))
            latest[bits, group] = yield from layers
        stored = dict(latest[bits, group])
        if tables is not None:
            stored |= {name: rounded(subject.table(name), tables, FINE_GROUP, search=True) for name in subject.tables}
        return stored

    return [
        Peer("gptq", f"{bits} bits, groups of {group}{more}", lambda b=bits, g=group, t=tables: make(b, g, t))
        for bits in _BITS
        for group, tables, more in ((GROUP, None, ""), (GROUP, 4, ", embedding 4 bits"), (FINE_GROUP, None, ""))
    ]


@torch.no_grad()
def grid(weight: torch.Tensor, bits: int, group: int, search: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales, float16, and offsets, uint8, both (m, n / group); zero lies on the grid.

    Args:
        search: the range of least error, in place of that from the smallest to the largest weight.
    """
    grouped = weight.float().view(len(weight), -1, group)
    low, high = grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)
    top = 2**bits - 1
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.zeros_like(low, dtype=torch.float16), torch.zeros_like(low)
    for share in _SHRINK if search else (1.0,):
        s = (share * (high - low) / top).half().clamp_min(2**-24)
        z = (-share * low / s.float()).round().clamp(0, top)
        codes = (grouped / s.float()[..., None] + z[..., None]).round().clamp(0, top)
        error = ((codes - z[..., None]) * s.float()[..., None] - grouped).abs().pow(_NORM).sum(-1)
        better = error < best
        best, scale, zero = error.minimum(best), s.where(better, scale), z.where(better, zero)
    return scale, zero.to(torch.uint8)


def rounded(weight: torch.Tensor, bits: int, group: int, search: bool = False) -> Stored:
    """A matrix (m, n) on its grid, every entry rounded to the nearest."""
    scale, zero = grid(weight, bits, group, search)
    s, z = _wide(scale, group), _wide(zero, group)
    return _stored((weight.float() / s + z).round().clamp(0, 2**bits - 1), scale, zero, bits, group)


@torch.no_grad()
def gptq(weight: torch.Tensor, moment: torch.Tensor, bits: int, group: int) -> Stored:
    """A matrix (m, n) on its grid, each error moved onto the columns that are still to come, the strongest first.

    Args:
        moment: C (n, n), second moment of what the weight reads.
    """
    scale, zero = grid(weight, bits, group, search=True)
    order = moment.diagonal().argsort(descending=True)
    upper = feedback(moment[order][:, order], _DAMPING)
    s, z = _wide(scale, group)[:, order], _wide(zero, group)[:, order]
    left = weight.float()[:, order].T.contiguous()  # (n, m): a column is a row here
    s, z, codes = s.T.contiguous(), z.T.contiguous(), torch.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = left.new_empty(stop - start, left.shape[1])
        for j in range(start, stop):
            codes[j] = (left[j] / s[j] + z[j]).round().clamp(0, 2**bits - 1)
            errors[j - start] = (left[j] - (codes[j] - z[j]) * s[j]) / upper[j, j]
            left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
        left[stop:] -= upper[start:stop, stop:].T @ errors
    in_place = torch.empty_like(codes)
    in_place[order] = codes
    return _stored(in_place.T, scale, zero, bits, group)


def _wide(of_groups: torch.Tensor, group: int) -> torch.Tensor:
    return of_groups.float().repeat_interleave(group, 1)


def _stored(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, group: int) -> Stored:
    tensors = {"codes": pack(codes.contiguous(), bits), "scale": scale, "zero": pack(zero, bits)}
    read, offset = (unpack(tensors[name], bits, t.shape).float() for name, t in (("codes", codes), ("zero", zero)))
    return Stored(tensors, (read - offset.repeat_interleave(group, 1)) * _wide(scale, group))
