"""How well a first stage reconstructs images: PSNR, SSIM, and the FID between images and their reconstructions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.first_stage.autoencoder import Autoencoder
from harness.learning.measures import features, fid_network, frechet_distance
from harness.learning.pretrained import find

#: What is measured here is logged, and nothing is made of it.
CHANGES_NO_RESULT = True

_CHUNK = 16
#: Of bytes that are off by rounding alone; a perfect reconstruction counts as this good, 58.9 dB.
_ROUNDING = 1 / 12
_WINDOW, _SPREAD = 11, 1.5
_STABILISERS = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    """Return the reconstructions of images, both uint8 (N, H, W, 3); the autoencoder stays in the mode it is in."""
    made = []
    for start in range(0, len(images), _CHUNK):
        chunk = torch.from_numpy(np.array(images[start : start + _CHUNK])).to(device).permute(0, 3, 1, 2)
        real = chunk.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        decoded = autoencoder(real).float().add(1).mul(127.5).round().clamp(0, 255)
        made.append(decoded.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(made)


def psnr(real: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image (N,) in dB: of images uint8 (N, H, W, 3), peak 255.

    The mean squared error counts as at least 1/12, so that an equal image has 58.9 dB rather than infinity.
    """
    difference = real.astype(np.float64) - made
    error = np.maximum(np.square(difference).mean(axis=(1, 2, 3)), _ROUNDING)
    return 10 * np.log10(255.0**2 / error)


def ssim(real: NDArray[np.uint8], made: NDArray[np.uint8], device: torch.device | None = None) -> NDArray[np.float64]:
    """Return the structural similarity of each image (N,), at most 1 (Wang et al. 2004, equation 13).

    Windows are Gaussian, 11 px wide with standard deviation 1.5, and lie inside the image; the mean is over windows
    and channels.

    Args:
        real: uint8 (N, H, W, 3), at least 11 pixels a side.
        made: likewise.
        device: to compute on, in float64; the CPU when left out.

    Raises:
        ValueError: the images are smaller.
    """
    if min(real.shape[1:3]) < _WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {_WINDOW} pixels a side, got {real.shape[1]} x {real.shape[2]}."
        )
    down, across = (_windows(side).to(device) for side in real.shape[1:3])
    small, large = _STABILISERS
    values = []
    for start in range(0, len(real), _CHUNK):
        a, b = (
            torch.from_numpy(np.array(images[start : start + _CHUNK])).to(device).permute(0, 3, 1, 2).double()
            for images in (real, made)
        )
        mean_a, mean_b, square_a, square_b, product = (
            down @ planes @ across.T for planes in (a, b, a * a, b * b, a * b)
        )
        spread_a, spread_b = square_a - mean_a**2, square_b - mean_b**2
        together = product - mean_a * mean_b
        similar = (2 * mean_a * mean_b + small) * (2 * together + large)
        similar = similar / ((mean_a**2 + mean_b**2 + small) * (spread_a + spread_b + large))
        values.append(similar.mean(dim=(1, 2, 3)).cpu().numpy())
    return np.concatenate(values)


def _windows(side: int) -> Tensor:
    """Return (side - 10, side): in each row the weights of one window's pixels, which sum to 1."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - (_WINDOW - 1) / 2
    window = torch.softmax(-offsets.square() / (2 * _SPREAD**2), dim=0)
    weights = torch.zeros(side - _WINDOW + 1, side, dtype=torch.float64)
    for row in range(len(weights)):
        weights[row, row : row + _WINDOW] = window
    return weights


def measure(autoencoder: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> dict[str, float]:
    """Say how well an autoencoder reconstructs images.

    Args:
        autoencoder: on the device.
        images: uint8 (N, H, W, 3).
        device: to compute on.

    Returns:
        ``psnr`` (dB) and ``ssim``, means over images; and ``reconstruction-fid``, the FID between the images and their
        reconstructions, when there are two images or more and ``fid-inception`` is on this machine.
    """
    training = autoencoder.training
    autoencoder.eval()
    made = reconstruct(autoencoder, images, device)
    autoencoder.train(training)
    told = {"psnr": float(psnr(images, made).mean()), "ssim": float(ssim(images, made, device).mean())}
    if len(images) > 1 and find("fid-inception") is not None:
        network = fid_network()
        real, synthetic = (features(pictures, network, device=device, cache=False) for pictures in (images, made))
        told["reconstruction-fid"] = frechet_distance(real, synthetic)
    return told
