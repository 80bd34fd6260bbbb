"""Single Image Fréchet Inception Distance (Rott Shaham, Dekel and Michaeli 2019, arXiv 1905.01164).

For one real and one synthetic image, the Fréchet distance between Gaussians over the positions of a shallow feature
map: the 64 channels before the first max pooling, at the image's own size. Here the network is the FID Inception;
SinGAN's own script takes torchvision's ImageNet Inception, so published values are comparable in order of magnitude
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.metrics.frechet import frechet_distance

if TYPE_CHECKING:
    import torch

    from harness.metrics.inception import FidInception

NETWORK = "fid-inception-64-before-pooling"
_SMALLEST = 16  # pixels a side: fewer leave too few positions for 64 channels


def _positions(image: NDArray[np.uint8], network: FidInception, device: torch.device) -> NDArray[np.float64]:
    """Return float64 (positions, 64)."""
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device).float()[None]
    with torch.inference_mode():
        found = network.before_pooling(planes / 127.5 - 1)[0]
    return found.flatten(1).T.cpu().numpy().astype(np.float64)


def single_image_distances(
    real: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    synthetic: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    device: torch.device,
    network: FidInception | None = None,
) -> NDArray[np.float64]:
    """Return the SIFID of each pair of images, (N,); an image with itself has 0 up to rounding.

    Args:
        real: N images uint8 (H, W, 3).
        synthetic: N images; number *i* is compared with real number *i*.
        device: where to compute.
        network: the FID Inception, loaded when not given.

    Raises:
        DataError: the sets are not equally many, or an image is smaller than 16 pixels.
        WeightsError: the network's weights are not on this machine.
    """
    if len(real) != len(synthetic):
        raise DataError(
            f"SIFID compares pairs of images, got {len(real)} real and {len(synthetic)} synthetic; "
            "give one real image for each."
        )
    if network is None:
        from harness.weights import fid_inception

        network = fid_inception()
    network = network.to(device)
    distances = np.empty(len(real))
    for i, (one, other) in enumerate(zip(real, synthetic, strict=True)):
        if min(*one.shape[:2], *other.shape[:2]) < _SMALLEST:
            sizes = f"{one.shape[:2]} and {other.shape[:2]}"
            raise DataError(f"SIFID needs images of at least {_SMALLEST} pixels a side, pair {i} has {sizes}.")
        distances[i] = frechet_distance(_positions(one, network, device), _positions(other, network, device))
    return distances
