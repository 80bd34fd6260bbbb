"""The masks that a trained segmenter predicts on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import OutOfMemory, WeightsError
from harness.learning.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from pytorch_lightning import LightningModule

    from harness.plugins.contract import Segmenter


def load_module(segmenter: Segmenter, weights: Path, device: torch.device) -> LightningModule:
    """Build a segmenter's module with trained weights, ready to predict (evaluation mode, no gradients).

    Args:
        segmenter: the plugin, with the parameters that it was trained with.
        weights: the safetensors file that training left.
        device: where it shall predict.

    Raises:
        WeightsError: the file is missing or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    module: Any = segmenter.bare_module()
    try:
        module.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"The trained weights {weights} cannot be read ({error}); train again.") from error
    except RuntimeError as error:
        raise WeightsError(
            f"The trained weights {weights} are not of {segmenter.label!r} as it is declared now; train it again."
        ) from error
    return module.to(device).eval().requires_grad_(False)


def predict_masks(
    module: LightningModule, images: NDArray[np.uint8], device: torch.device, batch_size: int = 32
) -> NDArray[np.uint8]:
    """Predict masks with a module, in evaluation mode and float32, and leave its modes as they were.

    Each image's mask depends on that image only; the batch size decides speed and memory.

    Args:
        module: maps float32 (N, 3, H, W) in [0, 1] to logits (N, 1, H, W); on ``device``.
        images: uint8 (N, H, W, 3).
        device: where the module is.
        batch_size: images at once.

    Returns:
        uint8 (N, H, W) in {0, 1}; 1 where the probability is above 0.5, as in both papers.

    Raises:
        OutOfMemory: the device had too little memory for a batch.
    """
    import torch

    masks = np.zeros(images.shape[:3], np.uint8)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(images), batch_size):
                part = slice(start, start + batch_size)
                # A copy, since memory-mapped images are read-only and torch wants writable ones.
                batch = torch.from_numpy(np.array(images[part])).to(device).permute(0, 3, 1, 2).float().div_(255)
                # sigmoid(x) > 0.5 exactly where x > 0.
                masks[part] = (module(batch)[:, 0] > 0).to(torch.uint8).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"Too little memory on {device} to predict {batch_size} images of {images.shape[2]}x{images.shape[1]} "
                "pixels at once; use a smaller batch or a smaller model."
            ) from error
        raise
    finally:
        for part_of_module, training in modes:
            part_of_module.training = training
    return masks


def predict(
    segmenter: Segmenter,
    weights: Path,
    images: NDArray[np.uint8],
    device: torch.device,
    batch_size: int = 32,
) -> NDArray[np.uint8]:
    """Load trained weights and predict masks: :func:`load_module`, then :func:`predict_masks`."""
    return predict_masks(load_module(segmenter, weights, device), images, device, batch_size)
