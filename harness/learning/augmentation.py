"""Augmentation of training batches, and the geometric transform that the ``resample`` generator is made of.

Each policy draws its parameters for every image of a batch separately, moves image and mask together, and runs on
the device the batch is on. All draws come from torch's global CPU generator, whatever that device, so that a seeded
step is augmented alike on a CPU and a GPU. The operations are torch's, and kornia's for colour spaces, filters,
perspective and CLAHE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from harness.errors import DeclarationError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Policy = Literal["paper-a", "light", "none"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

#: Maps images float (N, 3, H, W) in [0, 1] and masks float (N, 1, H, W) in {0, 1} to the same.
Augmentation = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


def make_augmentation(name: str) -> Augmentation:
    """Return the policy of that name.

    Args:
        name: ``paper-a`` (:func:`paper_a`), ``light`` (:func:`light`) or ``none``.

    Raises:
        DeclarationError: there is no such policy.
    """
    policies: dict[str, Augmentation] = {"paper-a": paper_a, "light": light, "none": unchanged}
    if name not in policies:
        raise DeclarationError(
            f"There is no augmentation {name!r}{nearest(name, POLICIES)}; there are: {', '.join(POLICIES)}."
        )
    return policies[name]


def unchanged(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch as it is."""
    return images, masks


def light(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Augment mildly: the default, cheap enough never to be what training waits for.

    Horizontal and vertical flip (each p .5), rotation within 15 degrees, zoom 0.85 to 1.15, shift within 6 % of the
    side (one bilinear resampling; nearest for the mask; mirrored beyond the border), then brightness (added, within
    0.1), contrast and saturation (factors 0.85 to 1.15).

    Args:
        images: float (N, 3, H, W) in [0, 1].
        masks: float (N, 1, H, W) in {0, 1}.

    Returns:
        Images and masks of the same shapes and ranges.
    """
    n = len(images)
    grid = _affine_grid(
        tuple(images.shape[2:]),
        angle=_uniform(images, (n,), -15.0, 15.0),
        zoom=_uniform(images, (n,), 0.85, 1.15),
        shift=_uniform(images, (n, 2), -0.06, 0.06),
        mirror=_uniform(images, (n, 2), 0.0, 1.0).round(),
    )
    images, masks = _warp(images, masks, grid, "reflection")
    images = _brightness_contrast(images, _uniform(images, (n,), 0.85, 1.15), _uniform(images, (n,), -0.1, 0.1))
    grey = _luma(images)
    saturated = grey + (images - grey) * _column(_uniform(images, (n,), 0.85, 1.15))
    return saturated.clamp(0.0, 1.0), masks


def paper_a(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Augment as the mask-conditioned diffusion study (paper A) lists it, with albumentations 1.3.0 as the reference.

    In order: horizontal flip (p .5); zoom 0.5 to 1.5 and shift within 10 %, black beyond the border, no rotation (p
    1); Gaussian noise of variance 10 to 50 on the 0-255 scale (p .2); perspective with corner offsets of scale .05
    to .1 (p .5); one of CLAHE (clip limit 1 to 4, 8x8 tiles), brightness/contrast (each within .2) and gamma (0.8 to
    1.2) (p .9); one of sharpening (alpha .2 to .5, lightness .5 to 1), 3x3 box blur and 3x3 motion blur (p .9); one
    of contrast (within .2) and hue/saturation/value (40 degrees, 30/255, 20/255) (p .9).

    Where it deviates from the published pipeline:

    * it runs at the training size, after the resize to it, and not at the native size before; zoom and shift are
      relative, so the geometry is the same, but small images are resampled from fewer pixels;
    * flip, zoom and shift are one resampling;
    * images are float throughout and not rounded to 8 bits between operations;
    * CLAHE works on the luma, whose change is added to all three channels, and not on the L of CIELAB (three times
    as fast);
    * a motion blur goes along one of four directions through the centre of its kernel, and not between two random
    pixels of it;
    * perspective draws corner offsets as albumentations does, but keeps the frame's own corner order, without its
      search for degenerate quadrilaterals (offsets are capped at 30 % of the side, where none can arise).

    Args:
        images: float (N, 3, H, W) in [0, 1].
        masks: float (N, 1, H, W) in {0, 1}.

    Returns:
        Images and masks of the same shapes and ranges.
    """
    n = len(images)
    flips = _uniform(images, (n, 1), 0.0, 1.0).round()
    grid = _affine_grid(
        tuple(images.shape[2:]),
        angle=images.new_zeros(n),
        zoom=_uniform(images, (n,), 0.5, 1.5),
        shift=_uniform(images, (n, 2), -0.1, 0.1),
        mirror=flips * flips.new_tensor([[1.0, 0.0]]),
    )
    images, masks = _warp(images, masks, grid, "zeros")
    images = _apply(images, _choose(n, 0.2, 1) == 0, _gaussian_noise)
    images, masks = _perspective(images, masks, _choose(n, 0.5, 1) == 0)
    choice = _choose(n, 0.9, 3)
    for i, operation in enumerate((_clahe, _random_brightness_contrast, _gamma)):
        images = _apply(images, choice == i, operation)
    images = _sharpen_or_blur(images, _choose(n, 0.9, 3))
    choice = _choose(n, 0.9, 2)
    for i, operation in enumerate((_random_contrast, _hue_saturation_value)):
        images = _apply(images, choice == i, operation)
    return images, masks


def geometric_transform(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], seeds: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Move each pair by a random geometric transform of its own, which depends on its seed and on nothing else.

    Horizontal and vertical flip (each p .5), rotation within 30 degrees, zoom 0.8 to 1.25 (even in its logarithm),
    shift within 10 % of the side, and a smooth elastic displacement (a 4x4 lattice of offsets, standard deviation
    1.5 % of the side). One bilinear resampling (nearest for the mask), mirrored beyond the border. Colours stay as
    they are: nothing new is shown.

    Args:
        images: uint8 (N, H, W, 3).
        masks: uint8 (N, H, W) in {0, 1}.
        seeds: int64 (N,), not negative.

    Returns:
        Images uint8 (N, H, W, 3) and masks uint8 (N, H, W) in {0, 1}.

    Raises:
        ValueError: the three are not equally many.
    """
    import numpy as np

    if not len(images) == len(masks) == len(seeds):
        raise ValueError(f"{len(images)} images, {len(masks)} masks and {len(seeds)} seeds must be equally many")
    moved_images, moved_masks = np.empty(images.shape, np.uint8), np.empty(masks.shape, np.uint8)
    chunk = 32
    for start in range(0, len(seeds), chunk):
        part = slice(start, start + chunk)
        moved_images[part], moved_masks[part] = _geometric_chunk(images[part], masks[part], seeds[part])
    return moved_images, moved_masks


def _geometric_chunk(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], seeds: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    import numpy as np
    import torch
    from torch.nn import functional

    draws, offsets = [], []
    for seed in seeds:
        random = np.random.default_rng(int(seed))
        draws.append(random.random(6))
        offsets.append(random.standard_normal((2, 4, 4)))
    u = torch.from_numpy(np.stack(draws)).float()
    height, width = masks.shape[1:]
    grid = _affine_grid(
        (height, width),
        angle=60.0 * u[:, 0] - 30.0,
        zoom=torch.exp(math.log(1.25) * (2 * u[:, 1] - 1)),
        shift=0.2 * u[:, 2:4] - 0.1,
        mirror=u[:, 4:6].round(),
    )
    # A coordinate spans 2, so 1.5 % of the side is 0.03.
    lattice = 0.03 * torch.from_numpy(np.stack(offsets)).float()
    bend = functional.interpolate(lattice, size=(height, width), mode="bicubic", align_corners=True)
    pictures = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    shapes = torch.from_numpy(np.ascontiguousarray(masks))[:, None].float()
    pictures, shapes = _warp(pictures, shapes, grid + bend.permute(0, 2, 3, 1), "reflection")
    moved = pictures.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return moved, shapes[:, 0].to(torch.uint8).numpy()


# Draws: one number an image, from the global CPU generator, on the device of the batch.


def _uniform(like: Tensor, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    import torch

    return (low + (high - low) * torch.rand(shape)).to(like.device)


def _choose(n: int, probability: float, options: int) -> Tensor:
    """Return, on the CPU, one of ``options`` with a probability (all alike), else -1."""
    import torch

    taken = torch.rand(n) < probability
    return torch.where(taken, torch.randint(options, (n,)), torch.full((n,), -1))


def _column(values: Tensor) -> Tensor:
    """Shape (N,) as (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _apply(images: Tensor, chosen: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
    """Replace the chosen images by what the operation makes of them, clamped to [0, 1]."""
    where = chosen.nonzero()[:, 0].to(images.device)
    if not len(where):
        return images
    return images.index_copy(0, where, operation(images[where]).clamp(0.0, 1.0).to(images.dtype))


# Geometry. Coordinates are grid_sample's with align_corners=False: -1 and 1 are the outer edges of the frame.


def _coordinates(size: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixel centres of a frame, x (1, 1, W) and y (1, H, 1)."""
    import torch

    height, width = size
    x = torch.arange(width, device=like.device).add(0.5).mul(2 / width).sub(1)
    y = torch.arange(height, device=like.device).add(0.5).mul(2 / height).sub(1)
    return x.view(1, 1, -1), y.view(1, -1, 1)


def _affine_grid(
    size: tuple[int, ...], *, angle: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor | None = None
) -> Tensor:
    """Return the sampling grid (N, H, W, 2) of a mirror, then zoom and rotation about the centre, then shift.

    Written out element by element: torch's own goes through a matrix product, whose rounding may depend on the batch
    size.

    Args:
        size: height and width.
        angle: degrees, (N,).
        zoom: factors, (N,).
        shift: fractions of the side, (N, 2), x first.
        mirror: 1 where x or y is mirrored, else 0, (N, 2).
    """
    import torch

    x, y = _coordinates(size, angle)
    x, y = x - 2 * shift[:, 0].view(-1, 1, 1), y - 2 * shift[:, 1].view(-1, 1, 1)
    radians = torch.deg2rad(angle)
    cosine, sine = (torch.cos(radians) / zoom).view(-1, 1, 1), (torch.sin(radians) / zoom).view(-1, 1, 1)
    # The aspect ratio keeps a rotation a rotation on frames that are not square.
    aspect = size[0] / size[1]
    across, down = cosine * x + aspect * sine * y, cosine * y - sine / aspect * x
    if mirror is not None:
        across, down = across * (1 - 2 * mirror[:, 0].view(-1, 1, 1)), down * (1 - 2 * mirror[:, 1].view(-1, 1, 1))
    return torch.stack([across, down], dim=-1)


def _warp(images: Tensor, masks: Tensor, grid: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    from torch.nn import functional

    grid = grid.to(images.dtype)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    moved_masks = functional.grid_sample(masks, grid, mode="nearest", padding_mode=padding, align_corners=False)
    return moved, moved_masks


def _perspective(images: Tensor, masks: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch the chosen images so that a random quadrilateral near their border fills the frame."""
    import torch
    from kornia.geometry.transform import get_perspective_transform

    where = chosen.nonzero()[:, 0]
    if not len(where):
        return images, masks
    scale = 0.05 + 0.05 * torch.rand(len(where), 1, 1)
    inward = (torch.randn(len(where), 4, 2).abs() * scale).clamp(max=0.3)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]).expand(len(where), 4, 2)
    # Each corner moves towards the centre; a coordinate spans 2.
    to_input = get_perspective_transform(corners.contiguous(), corners * (1 - 2 * inward)).to(images.device)
    x, y = _coordinates(tuple(images.shape[2:]), images)
    m = to_input[:, :, :, None, None]
    depth = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    across = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / depth
    down = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) / depth
    where = where.to(images.device)
    moved, moved_masks = _warp(images[where], masks[where], torch.stack([across, down], dim=-1), "zeros")
    return images.index_copy(0, where, moved), masks.index_copy(0, where, moved_masks)


# Colour. Each takes float (N, 3, H, W) in [0, 1]; results may leave that range, _apply clamps them.


def _luma(images: Tensor) -> Tensor:
    """Return Rec. 601 luma, (N, 1, H, W)."""
    return 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]


def _brightness_contrast(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    return (images * _column(contrast) + _column(brightness)).clamp(0.0, 1.0)


def _random_brightness_contrast(images: Tensor) -> Tensor:
    n = len(images)
    return _brightness_contrast(images, _uniform(images, (n,), 0.8, 1.2), _uniform(images, (n,), -0.2, 0.2))


def _random_contrast(images: Tensor) -> Tensor:
    return images * _column(_uniform(images, (len(images),), 0.8, 1.2))


def _gamma(images: Tensor) -> Tensor:
    return images.pow(_column(_uniform(images, (len(images),), 0.8, 1.2)))


def _gaussian_noise(images: Tensor) -> Tensor:
    import torch

    deviation = _uniform(images, (len(images),), 10.0, 50.0).sqrt() / 255.0
    return images + _column(deviation) * torch.randn(images.shape).to(images.device)


def _clahe(images: Tensor) -> Tensor:
    """Equalise the luma locally, and add its change to every channel."""
    import torch
    from kornia.enhance import equalize_clahe

    luma = _luma(images).clamp(0.0, 1.0)
    limits = (1.0 + 3.0 * torch.rand(len(images))).tolist()
    equalised = [
        equalize_clahe(one[None], clip_limit=limit, grid_size=(8, 8)) for one, limit in zip(luma, limits, strict=True)
    ]
    return images + (torch.cat(equalised) - luma)


def _hue_saturation_value(images: Tensor) -> Tensor:
    """Shift hue (40 degrees), saturation (30/255) and value (20/255), as OpenCV's 8-bit HSV units 20, 30, 20 mean."""
    import torch
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    n = len(images)
    hue, saturation, value = rgb_to_hsv(images).chunk(3, dim=1)
    hue = (hue + math.radians(40.0) * _column(_uniform(images, (n,), -1.0, 1.0))) % (2 * math.pi)
    saturation = (saturation + 30.0 / 255.0 * _column(_uniform(images, (n,), -1.0, 1.0))).clamp(0.0, 1.0)
    value = (value + 20.0 / 255.0 * _column(_uniform(images, (n,), -1.0, 1.0))).clamp(0.0, 1.0)
    return hsv_to_rgb(torch.cat([hue, saturation, value], dim=1))


def _sharpen_or_blur(images: Tensor, choice: Tensor) -> Tensor:
    """Filter each image by a 3x3 kernel of its own: 0 sharpens, 1 blurs, 2 blurs along a line, -1 leaves as it is."""
    import torch
    from kornia.filters import filter2d

    n = len(images)
    identity = torch.zeros(3, 3)
    identity[1, 1] = 1.0
    edges = torch.full((n, 3, 3), -1.0)
    edges[:, 1, 1] = 8.0 + (0.5 + 0.5 * torch.rand(n))
    alpha = (0.2 + 0.3 * torch.rand(n)).view(-1, 1, 1)
    lines = torch.stack([torch.eye(3), torch.eye(3).flip(0), torch.zeros(3, 3), torch.zeros(3, 3)]) / 3.0
    lines[2, 1, :], lines[3, :, 1] = 1 / 3, 1 / 3
    options = torch.stack(
        [
            (1 - alpha) * identity + alpha * edges,
            torch.full((n, 3, 3), 1 / 9),
            lines[torch.randint(4, (n,))],
            identity.expand(n, 3, 3),
        ]
    )
    kernels = options[choice, torch.arange(n)].to(images.device)
    return filter2d(images, kernels, border_type="reflect").clamp(0.0, 1.0)
