"""From noise to pictures, by the samplers of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.cuda_graph import CapturedStep
from generators.diffusion.denoiser import Denoiser
from generators.diffusion.parameters import DiffusionParameters
from generators.diffusion.process import variances_of

#: Pictures pass the network in chunks of this many, the last one padded: a convolution may round differently in
#: batches of another size, and a picture must not depend on how many are asked for.
CHUNK = 16
#: Likewise of small pictures that a GPU denoises, which 16 would leave idle; larger ones fill its memory sooner.
_CHUNK_ON_GPU, _SMALL = 64, 64


def scheduler_of(settings: DiffusionParameters, *, clip: bool, learned_variance: bool) -> Any:
    """Return the scheduler of diffusers that takes the steps of a sampler.

    Args:
        settings: of the model.
        clip: cut what is predicted of x_0 to [-1, 1] at each step.
        learned_variance: whether the network predicts variances; only ``ancestral`` uses them.

    Timesteps that are spaced as ``trailing`` start at T - 1 (Lin et al. 2024, arXiv 2305.08891).
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    leading = settings.spacing == "leading"
    whole = settings.sampling_steps == settings.timesteps
    common = {
        "num_train_timesteps": settings.timesteps,
        "trained_betas": variances_of(settings),
        "prediction_type": "epsilon" if settings.prediction == "noise" else "v_prediction",
        "timestep_spacing": settings.spacing,
        "steps_offset": 1 if leading and not whole else 0,
    }
    scheduler: Any
    if settings.sampler == "ancestral":
        variance = "learned_range" if learned_variance else "fixed_small"
        scheduler = DDPMScheduler(clip_sample=clip, variance_type=variance, **common)
    elif settings.sampler == "ddim":
        scheduler = DDIMScheduler(clip_sample=clip, set_alpha_to_one=not leading, **common)
    else:
        # Thresholding at a largest value of 1 is that cut.
        scheduler = DPMSolverMultistepScheduler(variance_type=None, thresholding=clip, sample_max_value=1.0, **common)
    scheduler.set_timesteps(settings.sampling_steps)
    return scheduler


def denoise(
    denoiser: Denoiser,
    settings: DiffusionParameters,
    shape: tuple[int, int, int],
    seeds: NDArray[np.int64],
    device: torch.device,
    *,
    learned_variance: bool = False,
    coverage: Tensor | None = None,
    guidance: float = 1.0,
    clip: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Sample one picture for each seed: a pure function of the network, the seed and the picture's mask.

    Args:
        denoiser: in evaluation mode.
        settings: of the model.
        shape: C, S, S of what is denoised.
        seeds: int64 (N,); each gives the first noise and that of every step.
        device: to compute on.
        learned_variance: whether the network predicts variances.
        coverage: by the masks, float (N, 1, S, S), of a network that takes them.
        guidance: 1 predicts with the mask; above that, what the mask changes is exaggerated (classifier-free guidance,
            Ho and Salimans 2022, arXiv 2207.12598), with a second evaluation of the network.
        clip: see :func:`scheduler_of`.
        progress: is told how many are done, after each chunk.

    Returns:
        float32 (N, C, S, S) on the CPU.
    """
    from harness.learning.precision import precision_of

    low = precision_of(settings.precision, device) == "bf16-mixed"
    chunk = _CHUNK_ON_GPU if device.type == "cuda" and shape[-1] <= _SMALL else CHUNK
    predict = CapturedStep(partial(_predict, denoiser, guidance))
    made = [torch.zeros(0, *shape)]
    for start in range(0, len(seeds), chunk):
        own = [int(seed) for seed in seeds[start : start + chunk]]
        randomness = [torch.Generator().manual_seed(seed) for seed in own + [0] * (chunk - len(own))]
        masks: tuple[Tensor, ...] = ()
        if coverage is not None:
            given = torch.zeros(chunk, *coverage.shape[1:])
            given[: len(own)] = coverage[start : start + chunk]
            masks = (given.to(device),)
        scheduler = scheduler_of(settings, clip=clip, learned_variance=learned_variance)
        current = torch.stack([torch.randn(shape, generator=own_randomness) for own_randomness in randomness])
        current = current.to(device)
        arguments: dict[str, Any] = {} if settings.sampler == "dpm-solver++" else {"generator": randomness}
        if settings.sampler == "ddim":
            arguments["eta"] = settings.eta
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            for timestep in scheduler.timesteps:
                at = torch.full((chunk,), int(timestep), dtype=torch.int64, device=device)
                predicted = predict(current, at, *masks)
                if settings.sampler != "ancestral":
                    predicted = predicted[:, : shape[0]]
                current = scheduler.step(predicted, timestep, current, **arguments).prev_sample
        made.append(current[: len(own)].float().cpu())
        progress(start + len(own))
    return torch.cat(made)


def in_chunks(
    network: Callable[[Tensor], Tensor], given: Tensor, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return what a network makes of each item, in chunks of one size, so that no item depends on the others.

    Args:
        network: maps float (n, ...) to float (n, *shape).
        given: float32 (N, ...).
        shape: of an item that it makes.
        device: of the network.

    Returns:
        float32 (N, *shape) on the CPU.
    """
    made = [torch.zeros(0, *shape)]
    for part in given.split(CHUNK):
        whole = torch.cat([part, part.new_zeros(CHUNK - len(part), *part.shape[1:])])
        with torch.no_grad():
            made.append(network(whole.to(device))[: len(part)].float().cpu())
    return torch.cat(made)


def _predict(
    denoiser: Denoiser, guidance: float, current: Tensor, at: Tensor, coverage: Tensor | None = None
) -> Tensor:
    """Return what the network predicts at timesteps (N,), in float32."""
    current = current.contiguous(memory_format=torch.channels_last)
    if coverage is None:
        return denoiser(current, at).float()
    if guidance == 1.0:
        return denoiser(current, at, coverage).float()
    given = torch.ones(2, len(current), device=current.device)
    given[1] = 0
    both = denoiser(current.repeat(2, 1, 1, 1), at.repeat(2), coverage.repeat(2, 1, 1, 1), given.flatten())
    with_mask, without = both.float().chunk(2)
    return without + guidance * (with_mask - without)
