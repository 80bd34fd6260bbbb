"""The noising process, what a network learns to predict in it, and the losses of a prediction.

Notation of Ho, Jain and Abbeel 2020 (arXiv 2006.11239): pictures x_0, noise levels t = 0 to T - 1 (their 1 to T),
variances beta_t, alpha_t = 1 - beta_t, and x_t = sqrt(alphabar_t) x_0 + sqrt(1 - alphabar_t) noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.diffusion.parameters import DiffusionParameters, Schedule

#: At which signal-to-noise ratio min-snr cuts.
_SNR_CUT = 5.0

#: The largest beta.
_LARGEST = 0.999

#: Half the distance between two of 256 levels in [-1, 1].
_HALF_LEVEL = 1 / 255


def variances(schedule: Schedule, timesteps: int, first: float, last: float, shift: float = 1.0) -> NDArray[np.float64]:
    """Return beta_t for every noise level.

    Args:
        schedule: ``linear`` in beta_t; ``scaled-linear`` in its square root (as latent diffusion has it); ``cosine``,
            of Nichol and Dhariwal 2021 (arXiv 2102.09672, equation 17), which needs no first and last.
        timesteps: T.
        first: beta of the first level.
        last: beta of the last.
        shift: divides the signal-to-noise ratio alphabar_t / (1 - alphabar_t) by its square (Hoogeboom, Heek and
            Salimans 2023, arXiv 2301.11093, section 3.1).

    Returns:
        float64 (T,), in (0, 1).
    """
    if schedule == "linear":
        betas = np.linspace(first, last, timesteps)
    elif schedule == "scaled-linear":
        betas = np.linspace(math.sqrt(first), math.sqrt(last), timesteps) ** 2
    else:
        offset = 0.008
        at = (np.arange(timesteps + 1) / timesteps + offset) / (1 + offset)
        remaining = np.cos(at * np.pi / 2) ** 2
        betas = np.minimum(1 - remaining[1:] / remaining[:-1], _LARGEST)
    if shift == 1:
        return betas
    kept = np.append(1.0, np.cumprod(1 - betas))
    shifted = kept / (kept + shift**2 * (1 - kept))
    return np.minimum(1 - shifted[1:] / shifted[:-1], _LARGEST)


def variances_of(settings: DiffusionParameters) -> NDArray[np.float64]:
    """Return beta_t of a model's schedule."""
    first, last = settings.beta_start, settings.beta_end
    return variances(settings.noise_schedule, settings.timesteps, first, last, settings.noise_shift)


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, each of its pictures (N,): of the prediction, and the variational term in bits a dimension."""

    prediction: Tensor
    variational: Tensor | None

    def total(self) -> Tensor:
        """Return the objective of each picture."""
        return self.prediction if self.variational is None else self.prediction + self.variational


class Process:
    """The noising process of one schedule on one device."""

    def __init__(self, settings: DiffusionParameters, device: torch.device, *, learned_variance: bool = False) -> None:
        """Tabulate it.

        Args:
            settings: of the model.
            device: where the tables lie.
            learned_variance: whether networks predict variances too.
        """
        self.settings = settings
        self.learned_variance = learned_variance
        self.betas = variances_of(settings)
        kept = np.cumprod(1 - self.betas)
        before = np.append(1.0, kept[:-1])
        posterior = self.betas * (1 - before) / (1 - kept)
        # The first posterior variance is 0; its logarithm is replaced by the next.
        clipped = np.append(posterior[1], posterior[1:])
        snr = kept / (1 - kept)
        cut = np.minimum(snr, _SNR_CUT)
        weight = {"noise": cut / snr, "velocity": cut / (snr + 1)}[settings.prediction]

        def table(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values).float().to(device)

        self._signal, self._noise = table(np.sqrt(kept)), table(np.sqrt(1 - kept))
        self._weight = table(weight)
        self._mean_of_start = table(self.betas * np.sqrt(before) / (1 - kept))
        self._mean_of_current = table((1 - before) * np.sqrt(1 - self.betas) / (1 - kept))
        self._smallest, self._largest = table(np.log(clipped)), table(np.log(self.betas))

    def noised(self, start: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t of pictures (N, C, H, W), noise of their shape, and timesteps int64 (N,)."""
        return _at(self._signal, timesteps) * start + _at(self._noise, timesteps) * noise

    def target(self, start: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what a network is to predict: the noise, or sqrt(alphabar) noise - sqrt(1 - alphabar) x_0."""
        if self.settings.prediction == "noise":
            return noise
        return _at(self._signal, timesteps) * noise - _at(self._noise, timesteps) * start

    def start(self, predicted: Tensor, current: Tensor, timesteps: Tensor) -> Tensor:
        """Return the x_0 that a prediction at x_t amounts to."""
        signal, noise = _at(self._signal, timesteps), _at(self._noise, timesteps)
        if self.settings.prediction == "noise":
            return (current - noise * predicted) / signal
        return signal * current - noise * predicted

    def losses(self, output: Tensor, start: Tensor, noise: Tensor, current: Tensor, timesteps: Tensor) -> Losses:
        """Return the losses of a network's output.

        The prediction's is the mean absolute or squared error (weighted by ``weighting``). With learned variances the
        output has twice the channels, and the variational term is added as in the hybrid objective of Nichol and
        Dhariwal 2021 (equation 16): in bits a dimension, times T / 1000, and the gradient reaches the variances only.

        Args:
            output: float (N, C or 2 C, H, W).
            start: x_0, (N, C, H, W) in [-1, 1].
            noise: that was added.
            current: x_t.
            timesteps: int64 (N,).
        """
        channels = start.shape[1]
        predicted = output[:, :channels].float()
        error = predicted - self.target(start, noise, timesteps)
        each = (error.abs() if self.settings.loss == "l1" else error.square()).flatten(1).mean(dim=1)
        if self.settings.weighting == "min-snr":
            each = each * self._weight[timesteps]
        if not self.learned_variance:
            return Losses(each, None)
        bits = self.variational_term(predicted.detach(), output[:, channels:].float(), start, current, timesteps)
        return Losses(each, bits * (self.settings.timesteps / 1000))

    def variational_term(
        self, predicted: Tensor, variance: Tensor, start: Tensor, current: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Return the term of the variational bound at each picture's timestep, in bits a dimension (N,).

        KL divergence of the reverse step from the posterior; at t = 0 the negative log-likelihood of x_0 as one of 256
        levels under a Gaussian (Ho et al. 2020, equations 5 and 13).

        Args:
            predicted: what the network predicts, (N, C, H, W).
            variance: what it says of the variance, of that shape: -1 is the posterior's, 1 is beta_t, and between
                them lies the logarithm (Nichol and Dhariwal 2021, equation 15).
            start: x_0.
            current: x_t.
            timesteps: int64 (N,).
        """
        smallest, largest = _at(self._smallest, timesteps), _at(self._largest, timesteps)
        share = (variance + 1) / 2
        log_variance = share * largest + (1 - share) * smallest
        mean = self._posterior_mean(self.start(predicted, current, timesteps), current, timesteps)
        true_mean = self._posterior_mean(start, current, timesteps)
        squared = (true_mean - mean).square()
        divergence = 0.5 * (
            log_variance - smallest - 1 + torch.exp(smallest - log_variance) + squared * torch.exp(-log_variance)
        )
        first = (timesteps == 0)[:, None, None, None]
        bits = torch.where(first, _negative_log_likelihood(start, mean, log_variance), divergence)
        return bits.flatten(1).mean(dim=1) / math.log(2)

    def _posterior_mean(self, start: Tensor, current: Tensor, timesteps: Tensor) -> Tensor:
        return _at(self._mean_of_start, timesteps) * start + _at(self._mean_of_current, timesteps) * current


def _at(table: Tensor, timesteps: Tensor) -> Tensor:
    return table[timesteps][:, None, None, None]


def _negative_log_likelihood(levels: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return -log P(level) of values on 256 levels in [-1, 1]; the outermost levels take the tails."""
    deviation = torch.exp(0.5 * log_variance)
    above = (levels + _HALF_LEVEL - mean) / deviation
    below = (levels - _HALF_LEVEL - mean) / deviation
    within = torch.special.ndtr(above) - torch.special.ndtr(below)
    likelihood = torch.where(
        levels < -0.999,
        torch.special.log_ndtr(above),
        torch.where(levels > 0.999, torch.special.log_ndtr(-below), torch.log(within.clamp(min=1e-12))),
    )
    return -likelihood
