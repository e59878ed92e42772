"""Weights → factors (Step 1): the activation-aware singular directions of every target layer.

A factorized layer is `W = U (Uᵀ W)` with orthonormal `U` whose columns come in descending order of the output
energy they carry, so any prefix is the best truncation of that rank for the moment it was made from:

    C = L Lᵀ,   W L = U Σ Vᵀ        dropping direction i costs exactly σ_i² of E‖W x‖²   (L = I: plain SVD)

Two-sided, with G the second moment of the loss's gradients by the layer's output (K-FAC's other factor),

    G = K Kᵀ,   Kᵀ W L = U Σ Vᵀ,    W = (K⁻ᵀ U) (Uᵀ Kᵀ W)        dropping direction i costs σ_i² of the loss itself

`U` comes from an eigendecomposition of the smaller Gram matrix. With `Uᵀ W` as the other factor the full-rank
product is exact whatever the eigensolver's precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ..errors import ModelError
from ..progress import Progress, Steps
from .kernels import linear
from .second_moments import Basis, Root, SecondMoment

DAMPING = (1e-4, 1e-2)  # of the mean of C's, of G's diagonal: small moments are the noisiest
_FULL_RANK = 1e-9  # least share of the largest energy that leaves directions orthonormal to 2·10⁻⁷ without a QR
_WELL_CONDITIONED = 50  # growth of rounding errors up to which a Cholesky factorization of WᵀW serves


@dataclass(frozen=True)
class Factors:
    """Singular directions of one layer.

    Attributes:
        directions: (r, out_features), rows Uᵀ, two-sided Uᵀ Kᵀ, in descending order of energy, r = min(out, in).
        singular_values: (r,) root of the mean output energy each direction carries, two-sided of the loss in nats.
        turned: (r, out_features), rows Uᵀ K⁻¹; None one-sided, where rows are orthonormal and serve for both factors.
    """

    directions: torch.Tensor
    singular_values: torch.Tensor
    turned: torch.Tensor | None = None

    @property
    def up(self) -> torch.Tensor:
        """The output-side factor, (r, out_features)."""
        return self.directions if self.turned is None else self.turned

    def down(self, weight: torch.Tensor) -> torch.Tensor:
        """The input-side factor `Uᵀ W` (r, in_features)."""
        return linear(self.directions, weight.t())


def factorize_layer(weight: torch.Tensor, root: Root | None = None, side: str = "input") -> Factors:
    """Factorize one weight (out_features, in_features).

    Args:
        root: second moment of the layer's input or output, as `side` says; None is plain SVD.

    Reference: ACIP (arXiv 2502.01717) section 3.1; whitening as in SVD-LLM (arXiv 2403.07378).
    """
    w = weight.detach().float()
    if root is not None and side == "output":
        return _eigen(root.matrix())
    if w.shape[0] <= w.shape[1]:
        return _eigen(_images_gram(w, root))
    # A tall weight W = Q R: the left singular vectors of the square R, turned by Q, are those of W.
    triangle, failed = torch.linalg.cholesky_ex(_gram(w.T.contiguous()))  # Rᵀ
    if not failed:
        square = _eigen(_images_gram(triangle.T, root))
        inverse = torch.linalg.solve_triangular(triangle, square.directions, upper=False, left=False)  # U'ᵀ R⁻ᵀ
        # What it grows rounding errors by; those of SmolLM2-135M stay under 9.
        if inverse.norm(dim=1).max() * triangle.norm() < _WELL_CONDITIONED * len(triangle) ** 0.5:
            return Factors(linear(inverse, w), square.singular_values)
    q, r = torch.linalg.qr(w)  # slower, but safe
    square = _eigen(_images_gram(r, root))
    return Factors(linear(square.directions, q), square.singular_values)


def factorize_two_sided(weight: torch.Tensor, inputs: SecondMoment, gradients: SecondMoment) -> Factors:
    """Factorize one weight (m, n) by what dropping a direction costs the loss, tr(G ΔW C ΔWᵀ).

    In double precision throughout and with signs that do not depend on the eigensolver, so that every machine finds
    the same directions and a trained difference from them (`trained_factors`) fits.

    Args:
        inputs: of what it reads, C (n, n); gradients: by its output, G (m, m).
    """
    w = weight.detach().double()
    c, g = (
        _damped(moment.root(torch.float64).to(w.device), share)
        for moment, share in zip((inputs, gradients), DAMPING, strict=True)
    )
    if w.shape[0] <= w.shape[1]:
        k = torch.linalg.cholesky(g.matrix())
        energies, u = _descending(_images_gram(k.T @ w, c))
        turned = torch.linalg.solve_triangular(k.T, u, upper=True)
    else:
        images = w @ torch.linalg.cholesky(c.matrix())
        energies, v = _descending(_images_gram(images.T, g))
        if energies[-1] > _FULL_RANK * energies[0]:
            turned = images @ (v / energies.sqrt())  # K⁻ᵀ U = W L V Σ⁻¹
            u = _cholesky_images(g, turned)
        else:  # where that divides by what rounding left, QR still finds orthonormal directions
            k = torch.linalg.cholesky(g.matrix())
            u = torch.linalg.qr(k.T @ images @ v)[0]
            turned = torch.linalg.solve_triangular(k.T, u, upper=True)
    turned = turned * u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    directions = g.product(turned)  # K U = G K⁻ᵀ U
    return Factors(directions.T.float(), energies.sqrt().float(), turned.T.float())


def _damped(root: Root, share: float) -> Root:
    diagonal = root.diagonal.square()
    mean = (root.columns.square().sum() + diagonal.sum()) / len(diagonal)
    return Root(root.columns, (diagonal + share * mean).sqrt())


def _cholesky_images(root: Root, rows: torch.Tensor, block: int = 256) -> torch.Tensor:
    """`Kᵀ rows` for the Cholesky factor K of a moment, which is not formed: its columns are few beside its channels.

    Args:
        rows: (channels, r).
        block: channels that are factorized at a time.
    """
    result = torch.empty_like(rows)
    # K = columns Rᵀ below the diagonal; `left` is what I − Σ RᵀR leaves to the channels that follow.
    left = torch.eye(root.columns.shape[1], dtype=rows.dtype, device=rows.device)
    below = root.columns.T @ rows  # columnsᵀ rows of the channels below a block
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        columns, diagonal = root.columns[part], root.diagonal[part]
        k = torch.linalg.cholesky(columns @ left @ columns.T + diagonal.square().diag())
        r = torch.linalg.solve_triangular(k, columns @ left, upper=False)
        below = below - columns.T @ rows[part]
        result[part] = k.T @ rows[part] + r @ below
        left = left - r.T @ r
    return result


def _descending(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues in descending order, none negative, and eigenvectors as columns; only the lower triangle is read."""
    energies, vectors = torch.linalg.eigh(symmetric)
    return energies.flip(0).clamp_min(0), vectors.flip(1)


def _eigen(symmetric: torch.Tensor) -> Factors:
    """Eigenvectors as rows in descending order; only the lower triangle is read."""
    energies, vectors = _descending(symmetric)
    return Factors(vectors.T.contiguous(), energies.sqrt())


def _images_gram(rows: torch.Tensor, root: Root | None) -> torch.Tensor:
    return _gram(rows if root is None else root.images(rows))


def _gram(rows: torch.Tensor, blocks: int = 6) -> torch.Tensor:
    """The lower triangle of `rows rowsᵀ`, in `blocks` steps that leave out most of what lies above the diagonal."""
    gram = rows.new_zeros(len(rows), len(rows))
    step = -(-len(rows) // blocks)
    for start in range(0, len(rows), step):
        gram[start:, start : start + step] = linear(rows[start:], rows[start : start + step])
    return gram


def factorize(
    weights: Mapping[str, torch.Tensor], basis: Basis, gradients: Basis | None = None
) -> Steps[dict[str, Factors]]:
    """Factorize all target layers, yielding progress.

    Eigensolvers of this size gain little from threads, so on the CPU each core works on a layer group of its own.

    Args:
        weights: (out_features, in_features) by layer name.
        basis: second moments by layer name.
        gradients: those of gradients, for a two-sided basis.

    Raises:
        ModelError: a weight is not finite, or it or its second moment is beyond the eigensolver.
    """
    for name, weight in weights.items():
        if not weight.sum(dtype=torch.float32).isfinite():
            raise ModelError(f"The weight {name} holds values that are not finite; the model is damaged.")
    groups = {id(m): m for m in basis.values()}.values()
    # The longest first, so that no core waits for another one at the end.
    moments = sorted(groups, key=lambda moment: -sum(weights[name].numel() for name in moment.layers))
    threads = torch.get_num_threads()
    workers = threads if next(iter(weights.values())).device.type == "cpu" else 1
    result: dict[str, Factors] = {}
    try:
        if workers > 1:
            torch.set_num_threads(1)
        with ThreadPoolExecutor(workers) as pool:
            for part in pool.map(lambda moment: _factorize_group(weights, moment, gradients), moments):
                result |= part
                yield Progress("factorizing", len(result), len(weights))
    finally:
        torch.set_num_threads(threads)
    return {name: result[name] for name in weights}


def _factorize_group(
    weights: Mapping[str, torch.Tensor], moment: SecondMoment, gradients: Basis | None
) -> dict[str, Factors]:
    names = moment.layers
    try:
        if gradients is not None:
            part = {name: factorize_two_sided(weights[name], moment, gradients[name]) for name in names}
        else:
            root = moment.root().to(weights[names[0]].device)
            part = {name: factorize_layer(weights[name], root, moment.side) for name in names}
        damaged = [name for name in names if not part[name].singular_values.isfinite().all()]
    except torch.linalg.LinAlgError:
        damaged = list(names)
    if damaged:
        raise ModelError(f"Cannot factorize {damaged[0]}: its weight or its second moment is damaged.")
    return part
