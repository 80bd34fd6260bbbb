"""How well a first stage reconstructs images: PSNR, SSIM, LPIPS, and the FID of images and their reconstructions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.first_stage.autoencoder import Autoencoder
from harness.learning.measures import features, fid_network, frechet_distance
from harness.learning.perceptual import perceptual_network
from harness.learning.pretrained import find

#: What is measured here is logged, and nothing is made of it.
CHANGES_NO_RESULT = True

_CHUNK = 16
#: Of bytes that are off by rounding alone; a perfect reconstruction counts as this good, 58.9 dB.
_ROUNDING = 1 / 12
#: Pixels a side of SSIM's windows, and the fewest that LPIPS' network takes.
_WINDOW, _FEWEST = 11, 16


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    """Return the reconstructions of images, both uint8 (N, H, W, 3); the autoencoder stays in the mode it is in."""
    made = []
    for start in range(0, len(images), _CHUNK):
        real = _scaled(_planes(images[start : start + _CHUNK]).to(device))
        decoded = autoencoder(real).float().add(1).mul(127.5).round().clamp(0, 255)
        made.append(decoded.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(made)


def psnr(real: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image (N,) in dB: of images uint8 (N, H, W, 3), peak 255.

    The mean squared error counts as at least 1/12, so that an equal image has 58.9 dB rather than infinity.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    one, other = (_planes(images).double() for images in (real, made))
    found = peak_signal_noise_ratio(other, one, data_range=255.0, reduction="none", dim=(1, 2, 3)).numpy()
    return np.minimum(found, 10 * np.log10(255.0**2 / _ROUNDING))


def ssim(real: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the structural similarity of each image (N,), at most 1 (Wang et al. 2004, equation 13).

    Windows are Gaussian, 11 px wide with standard deviation 1.5, and lie inside the image; the mean is over windows
    and channels. In float32 on the CPU: to 1e-5, of images of one colour to 1e-3.

    Args:
        real: uint8 (N, H, W, 3), at least 11 pixels a side.
        made: likewise.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    border = _WINDOW // 2
    values = []
    for start in range(0, len(real), _CHUNK):
        one, other = (_planes(images[start : start + _CHUNK]).float() for images in (real, made))
        _, maps = structural_similarity_index_measure(
            other, one, data_range=255.0, reduction="none", return_full_image=True
        )
        values.append(maps[:, :, border:-border, border:-border].double().mean(dim=(1, 2, 3)).numpy())
    return np.concatenate(values)


def _planes(images: NDArray[np.uint8]) -> Tensor:
    """Return images uint8 (N, H, W, 3) as (N, 3, H, W)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def _scaled(planes: Tensor) -> Tensor:
    """Return bytes as float32 in [-1, 1], channels last."""
    return planes.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def lpips(
    real: NDArray[np.uint8], made: NDArray[np.uint8], device: torch.device | None = None
) -> NDArray[np.float64] | None:
    """Return LPIPS-VGG16 of each image (N,), at least 16 pixels a side; None without its weights.

    Args:
        real: uint8 (N, H, W, 3).
        made: likewise.
        device: to compute on; the CPU when left out.
    """
    found = find("vgg16-imagenet")
    if found is None or not found.pinned:
        return None
    network = perceptual_network(device or "cpu", name="vgg16-imagenet")
    assert network is not None
    values = []
    for start in range(0, len(real), _CHUNK):
        one, other = (_scaled(_planes(images[start : start + _CHUNK]).to(device)) for images in (real, made))
        values.append(network(one, other).double().cpu().numpy())
    return np.concatenate(values)


def measure(autoencoder: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> dict[str, float]:
    """Say how well an autoencoder reconstructs images.

    Args:
        autoencoder: on the device.
        images: uint8 (N, H, W, 3).
        device: to compute on.

    Returns:
        Means over images of ``psnr`` (dB), ``ssim``, and ``lpips`` when ``vgg16-imagenet`` is on this machine; and
        ``reconstruction-fid``, the FID between the images and their reconstructions, when there are two images or more
        and ``fid-inception`` is on this machine. What the images are too small for is left out.
    """
    training = autoencoder.training
    autoencoder.eval()
    made = reconstruct(autoencoder, images, device)
    autoencoder.train(training)
    found = {"psnr": psnr(images, made)}
    if min(images.shape[1:3]) >= _WINDOW:
        found["ssim"] = ssim(images, made)
    if min(images.shape[1:3]) >= _FEWEST and (distances := lpips(images, made, device)) is not None:
        found["lpips"] = distances
    told = {name: float(values.mean()) for name, values in found.items()}
    if len(images) > 1 and find("fid-inception") is not None:
        network = fid_network()
        real, synthetic = (features(pictures, network, device=device, cache=False) for pictures in (images, made))
        told["reconstruction-fid"] = frechet_distance(real, synthetic)
    return told
