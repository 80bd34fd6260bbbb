"""Features of images from a named network: computed once for a set of images, kept in the store, reused.

The procedure is clean-fid's (Parmar, Zhang and Zhu 2022, arXiv 2104.11222): mode ``clean`` resizes each channel as
floats with PIL's bicubic filter, bit-equal to that package; mode ``legacy`` is the older PyTorch practice (bilinear,
no antialiasing).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.metrics.features.feature_network import FeatureNetwork, Mode
from harness.metrics.features.networks import network_named
from harness.store.cache import cached

if TYPE_CHECKING:
    import torch

    from harness.metrics.spec import Sets, Values

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""uint8 (N, H, W, 3), or N arrays uint8 (H, W, 3) of any sizes (they may be decoded when asked for)."""

_CORE_BATCH = 8  # images a core works on at once: a larger batch falls out of its cache
_DECODERS = 8  # threads that decode and resize for an accelerator; PIL releases the interpreter's lock
_BATCHES_AHEAD = 3


def resize(image: NDArray[np.uint8], side: int, mode: Mode) -> NDArray[np.float32]:
    """Resize uint8 (H, W, 3) to float32 (3, side, side) with values 0 to 255, as clean-fid does in the same mode."""
    if mode == "legacy":
        import torch

        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
        size = (side, side)
        resized = torch.nn.functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]
        return resized.clamp(0, 255).numpy()
    from PIL import Image

    planes_out = np.empty((3, side, side), dtype=np.float32)
    for channel, plane in zip(Image.fromarray(image).split(), planes_out, strict=True):
        resized_channel = channel.convert("F").resize((side, side), Image.Resampling.BICUBIC)
        np.clip(np.asarray(resized_channel), 0, 255, out=plane)
    return planes_out


def content_key(images: Images) -> str:
    """Return the SHA-256 of the images' sizes and pixels, in order; of their files' bytes when not decoded yet."""
    if hasattr(images, "content_key"):
        return str(images.content_key())
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def chunks(count: int, size: int) -> list[range]:
    """Cut ``count`` positions into ranges of at most ``size``."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def on_cores(work: Callable[[range], NDArray[Any]], positions: Sequence[range]) -> list[NDArray[Any]]:
    """Do a piece of work for each range of positions, every core of torch's at one of its own; in order.

    One core a range leaves no core waiting for another, neither at the end of a layer nor while one decodes; and the
    numbers do not depend on how many cores there are.
    """
    import torch

    cores = torch.get_num_threads()

    def alone(one: range) -> NDArray[Any]:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return work(one)

    try:
        with ThreadPoolExecutor(cores) as pool:
            return list(pool.map(alone, positions))
    finally:
        torch.set_num_threads(cores)


def _on_accelerator(
    images: Images,
    network: FeatureNetwork,
    mode: Mode,
    device: torch.device,
    batch_size: int,
    told: Callable[[int], None],
) -> list[NDArray[np.float32]]:
    """Compute on an accelerator, while threads decode and resize the batches to come."""
    import torch

    parts: list[NDArray[np.float32]] = []
    waiting: deque[list[Future[NDArray[np.float32]]]] = deque()
    ahead = iter(chunks(len(images), batch_size))
    with ThreadPoolExecutor(min(_DECODERS, os.cpu_count() or 1)) as pool, torch.inference_mode():

        def prepare(position: int) -> NDArray[np.float32]:
            return resize(images[position], network.side, mode)

        def begin() -> None:
            positions = next(ahead, range(0))
            if positions:
                waiting.append([pool.submit(prepare, position) for position in positions])

        for _ in range(_BATCHES_AHEAD):
            begin()
        while waiting:
            batch = np.stack([future.result() for future in waiting.popleft()])
            begin()
            tensor = torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last)
            parts.append(network.extract(tensor).float().cpu().numpy())
            told(len(batch))
    return parts


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
    done = 0
    lock = Lock()

    def told(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if progress:
                progress(done, len(images))

    def work(positions: range) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.stack([resize(images[i], network.side, mode) for i in positions]))
        found = network.extract(batch.contiguous(memory_format=torch.channels_last)).float().numpy()
        told(len(positions))
        return found

    if device.type == "cpu":
        return np.concatenate(on_cores(work, chunks(len(images), min(batch_size, _CORE_BATCH))))
    return np.concatenate(_on_accelerator(images, network, mode, device, batch_size, told))


def features(
    images: Images,
    network: FeatureNetwork,
    *,
    device: torch.device,
    mode: Mode = "clean",
    batch_size: int = 64,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the features of images, from the store when the same pictures were measured before.

    Args:
        images: N pictures, see :data:`Images`; on the CPU several threads ask for them at once.
        network: which features.
        device: where to compute.
        mode: how pictures are resized to the network's input.
        batch_size: at most so many at once; changes nothing but memory and speed (beyond rounding, 1e-5).
        cache: whether to read and write the store.
        progress: called with images done and images in all.

    Returns:
        float32 (N, D).

    Raises:
        DataError: there is no image.
    """
    if len(images) == 0:
        raise DataError("There are no images to take features of; give at least two.")

    def compute() -> NDArray[np.float32]:
        return _compute(images, network, mode, device, batch_size, progress)

    if not cache or network.fingerprint is None:
        return compute()
    label = "-".join(part for part in (network.name, network.fingerprint, mode) if part)
    return cached(label, content_key(images), compute)


def features_of_both(sets: Sets) -> tuple[NDArray[np.float32], NDArray[np.float32], Values]:
    """Return the features of the real and of the synthetic images by ``sets.network``, float32 (N, D) and (M, D), and
    what belongs beside every number made from them."""
    network = network_named(sets.network, sets.mode)
    real, synthetic = (
        features(side.images, network, device=sets.device, mode=sets.mode, progress=sets.progress)
        for side in (sets.real, sets.synthetic)
    )
    return real, synthetic, {"network": network.name, "mode": sets.mode}
