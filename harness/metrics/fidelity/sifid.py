"""Single Image Fréchet Inception Distance (Rott Shaham, Dekel and Michaeli 2019, arXiv 1905.01164).

For one real and one synthetic image, the Fréchet distance between Gaussians over the positions of a shallow feature
map: the 64 channels before the first max pooling, at the image's own size. Here the network is the FID Inception;
SinGAN's own script takes torchvision's ImageNet Inception, so published values are comparable in order of magnitude
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.metrics.features.extract import Images, chunks, content_key, on_cores
from harness.metrics.spec import FidelityMetric, Quantity, Sets, Values
from harness.store.cache import cached

if TYPE_CHECKING:
    import torch

    from harness.weights.inception import FidInception

NETWORK = "fid-inception-64-before-pooling"
_SMALLEST = 16  # pixels a side: fewer leave too few positions for 64 channels


def _chosen(images: Images, positions: Sequence[int]) -> Images:
    """Return the images at ``positions``; files stay undecoded."""
    if isinstance(images, np.ndarray):
        return images[list(positions)]
    select = getattr(images, "select", None)
    return select(positions) if select else [images[i] for i in positions]


def _gaussian(image: NDArray[np.uint8], network: FidInception, device: torch.device) -> NDArray[np.float32]:
    """Return an image's Gaussian over positions: its mean, and below it a root R with R'R its covariance, (65, 64)."""
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device).float()[None]
    planes = (planes / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = network.before_pooling(planes)[0].flatten(1).double()
        mean = found.mean(dim=1, keepdim=True)
        centred = found - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T / (found.shape[1] - 1))
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return torch.cat([mean.T, root]).float().cpu().numpy()


def _gaussians(
    images: Images, kind: str, network: Callable[[], FidInception], device: torch.device, cache: bool
) -> NDArray[np.float32]:
    """Return the Gaussian of each image, (N, 65, 64), from the store when the same images were measured before."""
    import torch

    def compute() -> NDArray[np.float32]:
        loaded = network().to(device).to(memory_format=torch.channels_last)

        def one(position: int) -> NDArray[np.float32]:
            image = images[position]
            if min(image.shape[:2]) < _SMALLEST:
                raise DataError(
                    f"SIFID needs images of at least {_SMALLEST} pixels a side, {kind} image {position} is "
                    f"{image.shape[1]}x{image.shape[0]}."
                )
            return _gaussian(image, loaded, device)

        def work(positions: range) -> NDArray[np.float32]:
            return np.stack([one(i) for i in positions])

        pieces = chunks(len(images), 1 if device.type == "cpu" else len(images))
        return np.concatenate(on_cores(work, pieces) if device.type == "cpu" else [work(one) for one in pieces])

    return cached("sifid", content_key(images), compute) if cache else compute()


def single_image_distances(
    real: Images,
    synthetic: Images,
    *,
    device: torch.device,
    pairs: Sequence[tuple[int, int]] | None = None,
    network: FidInception | None = None,
    cache: bool = False,
) -> NDArray[np.float64]:
    """Return the SIFID of pairs of images, (N,); an image with itself has 0 up to rounding.

    Each image goes through the network once, however many pairs it is in.

    Args:
        real: images uint8 (H, W, 3).
        synthetic: likewise.
        device: where to compute.
        pairs: positions (real, synthetic) of the images to compare; by default number *i* with number *i*.
        network: the FID Inception, loaded when not given.
        cache: whether to read and write the store.

    Raises:
        DataError: the sets are not equally many, or an image is smaller than 16 pixels.
        WeightsError: the network's weights are not on this machine.
    """
    from harness.weights.locate import fid_inception

    if pairs is None:
        if len(real) != len(synthetic):
            raise DataError(
                f"SIFID compares pairs of images, got {len(real)} real and {len(synthetic)} synthetic; "
                "give one real image for each."
            )
        pairs = [(i, i) for i in range(len(real))]
    originals, which = np.unique([i for i, _ in pairs], return_inverse=True)
    some_real, some_synthetic = _chosen(real, originals.tolist()), _chosen(synthetic, [j for _, j in pairs])

    def load() -> FidInception:
        return network if network is not None else fid_inception()

    kept_too = cache and network is None
    a = _gaussians(some_real, "real", load, device, kept_too)[which].astype(np.float64)
    b = _gaussians(some_synthetic, "synthetic", load, device, kept_too).astype(np.float64)
    difference = a[:, 0] - b[:, 0]
    roots, others = a[:, 1:], b[:, 1:]
    nuclear = np.linalg.svd(roots @ others.transpose(0, 2, 1), compute_uv=False).sum(axis=1)
    spread = (roots**2).sum(axis=(1, 2)) + (others**2).sum(axis=(1, 2))
    return (difference**2).sum(axis=1) + spread - 2 * nuclear


def _compute(sets: Sets) -> Values:
    position = {name: i for i, name in enumerate(sets.real.ids)}
    pairs: list[tuple[int, int]] = []
    for j, seen in enumerate(sets.synthetic.lineage or ()):
        source = next(iter(seen)) if len(seen) == 1 else ""
        if source not in position:
            none = "SIFID compares an image with the one real image it was made from; "
            none += "some here come from several." if len(seen) > 1 else "some here come from none of these."
            return {"sifid": float("nan"), "network": NETWORK, "notes": none}
        pairs.append((position[source], j))
    distances = single_image_distances(
        sets.real.images, sets.synthetic.images, device=sets.device, pairs=pairs, cache=True
    )
    deviation = float(distances.std())
    return {"sifid": float(distances.mean()), "sifid-deviation": deviation, "network": NETWORK, "mode": "native size"}


SIFID = FidelityMetric(
    name="sifid",
    label="SIFID",
    on="images",
    better="lower",
    lower=0.0,
    order=40,
    definition="Fréchet distance between an image and the one it came from.",
    source="Rott Shaham, Dekel and Michaeli 2019, arXiv 1905.01164",
    compute=_compute,
    needs_weights=("fid-inception",),
    needs_lineage=True,
    fewest=1,
    beside=(Quantity(name="sifid-deviation", label="Deviation of SIFID over images", lower=0.0, varies=False),),
)
