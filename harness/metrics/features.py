"""Features of images from a named network: computed once for a set of images, kept in the store, reused.

The procedure is clean-fid's (Parmar, Zhang and Zhu 2022, arXiv 2104.11222): mode ``clean`` resizes each channel as
floats with PIL's bicubic filter, bit-equal to that package; mode ``legacy`` is the older PyTorch practice (bilinear,
no antialiasing).
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.home import store_folder
from harness.metrics.networks import FeatureNetwork, Mode

if TYPE_CHECKING:
    import torch

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""uint8 (N, H, W, 3), or N arrays uint8 (H, W, 3) of any sizes (they may be decoded when asked for)."""

_WORKERS = 2  # decoding and resizing threads; PIL releases the interpreter's lock


def resize(image: NDArray[np.uint8], side: int, mode: Mode) -> NDArray[np.float32]:
    """Resize uint8 (H, W, 3) to float32 (3, side, side) with values 0 to 255, as clean-fid does in the same mode."""
    if mode == "legacy":
        import torch

        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
        size = (side, side)
        resized = torch.nn.functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]
        return resized.clamp(0, 255).numpy()
    from PIL import Image

    channels = [
        np.asarray(Image.fromarray(image[:, :, c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
        for c in range(3)
    ]
    return np.stack(channels).clip(0, 255)


def content_key(images: Images) -> str:
    """Return the SHA-256 of the images' sizes and pixels, in order; of their files' bytes when not decoded yet."""
    if hasattr(images, "content_key"):
        return str(images.content_key())
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _batches(images: Images, side: int, mode: Mode, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """Yield resized batches; the next ones are prepared by threads while the network works on the last."""
    starts = range(0, len(images), batch_size)
    with ThreadPoolExecutor(_WORKERS) as pool:

        def prepare(position: int) -> NDArray[np.float32]:
            return resize(images[position], side, mode)

        def begin(start: int) -> list[Future[NDArray[np.float32]]]:
            return [pool.submit(prepare, position) for position in range(start, min(start + batch_size, len(images)))]

        waiting = [begin(start) for start in starts[:2]]
        for position in range(len(starts)):
            ready = waiting.pop(0)
            if position + 2 < len(starts):
                waiting.append(begin(starts[position + 2]))
            yield np.stack([future.result() for future in ready])


def _compute(
    images: Images,
    network: FeatureNetwork,
    mode: Mode,
    device: torch.device,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    import torch

    network.module.to(device).to(memory_format=torch.channels_last)
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for batch in _batches(images, network.side, mode, batch_size):
            tensor = torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last)
            parts.append(network.extract(tensor).float().cpu().numpy())
            if progress:
                progress(sum(map(len, parts)), len(images))
    return np.concatenate(parts)


def features(
    images: Images,
    network: FeatureNetwork,
    *,
    device: torch.device,
    mode: Mode = "clean",
    batch_size: int = 32,
    keep: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the features of images, from the store when the same pictures were measured before.

    Args:
        images: N pictures, see :data:`Images`.
        network: which features.
        device: where to compute.
        mode: how pictures are resized to the network's input.
        batch_size: changes nothing but memory and speed (beyond rounding, 1e-5).
        keep: whether to read and write the store.
        progress: called with images done and images in all.

    Returns:
        float32 (N, D).

    Raises:
        DataError: there is no image.
    """
    if len(images) == 0:
        raise DataError("There are no images to take features of; give at least two.")
    if not keep or network.fingerprint is None:
        return _compute(images, network, mode, device, batch_size, progress)
    label = "-".join(part for part in (network.name, network.fingerprint, mode) if part)
    path = store_folder() / "features" / re.sub(r"[^\w.-]", "_", label) / f"{content_key(images)}.npy"
    if path.is_file():
        return np.load(path)
    computed = _compute(images, network, mode, device, batch_size, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.save(file, computed)
    os.replace(temporary, path)  # noqa: PTH105 - one atomic rename, so that no reader sees half a file
    return computed
