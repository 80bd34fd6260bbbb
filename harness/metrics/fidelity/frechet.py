"""The Fréchet distance between Gaussians fitted to two sets of vectors.

``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500). With
the centred and scaled vectors in the rows of A and B, ``C1 = A'A`` and ``C2 = B'B``, and the trace of the root is the
nuclear norm of ``A B'``: no matrix square root, no imaginary parts, no added diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.metrics.features.extract import features_of_both
from harness.metrics.spec import FidelityMetric, Quantity, Sets, Values

#: Features of the Inception network: of fewer images a covariance has not full rank, and the FID is biased upwards.
FULL_RANK = 2048


def _centred(vectors: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean, and a matrix R with at most D rows whose R'R is the unbiased covariance."""
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        count = len(matrix) if matrix.ndim else 0
        raise DataError(f"A Fréchet distance needs at least two {name} images, got {count}: one image has no spread.")
    mean = matrix.mean(axis=0)
    scaled = (matrix - mean) / np.sqrt(len(matrix) - 1)
    if len(scaled) > scaled.shape[1]:
        scaled = np.linalg.qr(scaled, mode="r")
    return mean, scaled


def frechet_distance(real: ArrayLike, synthetic: ArrayLike) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of vectors (unbiased covariances).

    It is not a distance between the sets: with fewer vectors than dimensions it is dominated by a bias that grows as
    1/N.

    Args:
        real: (N, D) with N at least 2.
        synthetic: (M, D) with M at least 2.

    Returns:
        At least 0 up to rounding; NaN when a vector holds NaN or infinity.

    Raises:
        DataError: a set has fewer than two vectors.
    """
    mean_real, root_real = _centred(real, "real")
    mean_synthetic, root_synthetic = _centred(synthetic, "synthetic")
    if mean_real.shape != mean_synthetic.shape:
        raise ValueError(
            f"features have {len(mean_real)} and {len(mean_synthetic)} dimensions; they must be of one network"
        )
    if not (np.isfinite(root_real).all() and np.isfinite(root_synthetic).all()):
        return float("nan")
    nuclear = np.linalg.svd(root_real @ root_synthetic.T, compute_uv=False).sum()
    difference = mean_real - mean_synthetic
    return float(difference @ difference + np.sum(root_real**2) + np.sum(root_synthetic**2) - 2 * nuclear)


_FRACTIONS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of the images a side that each subset of a curve holds
_REPEATS = 4  # random subsets of each size
_FEWEST = 16  # images a side: with fewer, the smallest subsets have no covariance to speak of


class _Subsets:
    """Fréchet distances between subsets of two sets, from their products with each other, which are computed once."""

    def __init__(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        centre = b.mean(axis=0)  # far from the origin, products lose digits
        self.a, self.b = a - centre, b - centre
        self.products = self.a @ self.b.T

    def distance(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> float:
        """Return the distance between the vectors at positions ``i`` of the one set and ``j`` of the other."""
        a, b = self.a[i], self.b[j]
        difference = a.mean(axis=0) - b.mean(axis=0)
        block = self.products[np.ix_(i, j)]
        block = block - block.mean(axis=0) - block.mean(axis=1, keepdims=True) + block.mean()
        # The product of both square roots of len - 1 scales the centred vectors to roots of the covariances.
        nuclear = np.linalg.svd(block, compute_uv=False).sum() / np.sqrt((len(i) - 1.0) * (len(j) - 1.0))
        spread = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
        return float(difference @ difference + spread - 2 * nuclear)


def _sizes(largest: int) -> NDArray[np.intp]:
    return np.unique((np.array(_FRACTIONS) * largest).astype(np.intp))


def _shift(real: NDArray[np.float64], largest: int, draw: np.random.Generator) -> float:
    """Return s in ``distance(n) = A / (n + s)`` for subsets of one set against others of it, where the limit is 0.

    The reciprocal is linear in n over the sizes of one curve, and bends slowly over larger ones: so the subsets are as
    large as those that the shift is for, when there are enough vectors for two of them. At least 0.
    """
    subsets = _Subsets(real, real)
    sizes, means = _sizes(min(largest, len(real) // 2)), []
    for size in sizes:
        orders = [draw.permutation(len(real)) for _ in range(_REPEATS)]
        means.append(np.mean([subsets.distance(order[:size], order[size : 2 * size]) for order in orders]))
    slope, intercept = np.polyfit(sizes, 1 / np.array(means), 1)
    return max(0.0, float(intercept / slope))


def corrected_frechet_distance(real: ArrayLike, synthetic: ArrayLike, *, seed: int = 0) -> float:
    """Return the Fréchet distance that infinitely many vectors a side would have, extrapolated from subsets.

    The distance of n vectors a side is biased upwards. Chong and Forsyth (2020, arXiv 1911.07023) fit a line in 1/n
    over subsets of different sizes and take it at 0. With fewer vectors than dimensions the bias falls more slowly
    than 1/n, and their line stops half-way. Here the line is in 1/(n + s), and s comes from the real set itself: its
    halves against each other must extrapolate to 0. On Kvasir-SEG, 500 real images against 500 others have 43 and are
    corrected to 6 (a line in 1/n gives 29); 200 against 200 have 76 and are corrected to 16 (60).

    Args:
        real: (N, D).
        synthetic: (M, D).
        seed: of the subsets.

    Returns:
        May be a little below 0; NaN with fewer than 16 vectors a side, and when the real vectors have no spread.
    """
    a, b = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    largest = min(len(a), len(b))
    if largest < _FEWEST or not (np.isfinite(a).all() and np.isfinite(b).all()) or not a.var(axis=0).any():
        return float("nan")
    draw = np.random.default_rng(seed)
    shift = _shift(a, largest, draw)
    subsets = _Subsets(a, b)
    sizes, means = _sizes(largest), []
    for size in sizes:
        pairs = [(draw.permutation(len(a))[:size], draw.permutation(len(b))[:size]) for _ in range(_REPEATS)]
        every = size == len(a) == len(b)  # one subset only, whatever the order
        means.append(np.mean([subsets.distance(i, j) for i, j in (pairs[:1] if every else pairs)]))
    return float(np.polyfit(1 / (sizes + shift), means, 1)[1])


def beside_fid(real: NDArray[np.float32], synthetic: NDArray[np.float32], seed: int = 0) -> Values:
    """Return what must stand beside a FID of few images: KID, a corrected FID and a sentence; nothing for many.

    Args:
        real: (N, D) features.
        synthetic: (M, D) features.
        seed: of the subsets that both draw.
    """
    from harness.metrics.fidelity.kid import kernel_distance

    smallest = min(len(real), len(synthetic))
    if smallest >= FULL_RANK:
        return {}
    kid = kernel_distance(real, synthetic, seed=seed)
    note = (
        f"FID of {smallest} images is biased upwards (fewer than {FULL_RANK}): compare it only at equal numbers of "
        "images. KID has no such bias, and fid-corrected extrapolates to infinitely many images."
    )
    return {
        "fid-corrected": corrected_frechet_distance(real, synthetic, seed=seed),
        "kid": kid.value,
        "kid-deviation": kid.deviation,
        "notes": note,
    }


def _fid(sets: Sets) -> Values:
    real, synthetic, facts = features_of_both(sets)
    return {"fid": frechet_distance(real, synthetic), **facts, **beside_fid(real, synthetic, sets.seed)}


def fid_by_clean_fid(sets: Sets) -> Values:
    """Return the FID that the clean-fid package computes of the same images with the same network, as ``clean-fid``.

    The images are written as PNG files, which lose nothing, since that program reads folders.

    Raises:
        WeightsError: the Inception weights are not on this machine.
    """
    import tempfile
    from pathlib import Path

    import torch
    from cleanfid.fid import compute_fid
    from PIL import Image

    from harness.weights import locate

    found = locate.find("fid-inception")
    # The published program where its file is on this machine, else the same network in PyTorch's own layout.
    program = found is not None and found.path.suffix == ".pt"
    network = torch.jit.load(found.path).eval() if found is not None and program else locate.fid_inception()
    network = network.to(sets.device)

    def extract(images: torch.Tensor) -> torch.Tensor:
        scaled = (images - 128) / 128 if sets.mode == "clean" else (images - 127.5) / 127.5
        return torch.as_tensor(network(scaled))

    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, kind) for kind in ("real", "synthetic")]
        for place, side in zip(places, (sets.real, sets.synthetic), strict=True):
            place.mkdir()
            for i in range(len(side)):
                Image.fromarray(side.images[i]).save(place / f"{i:06d}.png")
        value = compute_fid(
            *map(str, places),
            mode="clean" if sets.mode == "clean" else "legacy_pytorch",
            custom_feat_extractor=extract,
            num_workers=0,
            device=sets.device,
            use_dataparallel=False,
            verbose=False,
        )
    return {"clean-fid": float(value)}


def _frechet_distance(sets: Sets) -> Values:
    real, synthetic, facts = features_of_both(sets)
    return {"frechet-distance": frechet_distance(real, synthetic), **facts}


FID = FidelityMetric(
    name="fid",
    label="FID",
    on="images",
    better="lower",
    lower=0.0,
    digits=2,
    order=10,
    definition="Fréchet Inception Distance, clean-fid's procedure.",
    source="Heusel et al. 2017, arXiv 1706.08500; Parmar, Zhang and Zhu 2022, arXiv 2104.11222",
    compute=_fid,
    network="fid-inception",
    needs_weights=("fid-inception",),
    draws=True,
    biased_below=FULL_RANK,
    other_network="frechet-distance",
    published=fid_by_clean_fid,
    beside=(
        Quantity(
            name="fid-corrected",
            label="Corrected FID",
            heading="Corrected\nFID",
            better="lower",
            digits=2,
            table="fidelity",
            note="Corrected FID: that of subsets of different sizes, extrapolated to infinitely many images.",
        ),
    ),
)

FRECHET_DISTANCE = FidelityMetric(
    name="frechet-distance",
    label="Fréchet distance",
    heading="Fréchet\ndistance",
    on="images",
    better="lower",
    lower=0.0,
    digits=2,
    order=50,
    definition="Fréchet distance of the features of another network, which is named beside it; no FID.",
    source="Heusel et al. 2017, arXiv 1706.08500",
    compute=_frechet_distance,
    needs_network=True,
)
