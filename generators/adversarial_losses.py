"""Adversarial losses on the scores (logits) that a discriminator gives to real and made pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor


def binary_cross_entropy(real: Tensor, fake: Tensor, real_label: float = 1.0) -> Tensor:
    """Return the discriminator's loss of Goodfellow et al. 2014; a label below 1 smooths one side (Salimans 2016)."""
    target = real.new_full(real.shape, real_label)
    return functional.binary_cross_entropy_with_logits(real, target) + functional.softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """Return the generator's loss that goes with it: -log sigmoid of the scores of what it made."""
    return functional.softplus(-fake).mean()


def hinge(real: Tensor, fake: Tensor, margins: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)) -> Tensor:
    """Return the discriminator's hinge loss (Lim and Ye 2017); FastGAN draws each margin from [0.8, 1).

    Args:
        real: scores of real pictures.
        fake: scores of made ones.
        margins: of the real and of the made ones, one for all or of their shape.
    """
    return functional.relu(margins[0] - real).mean() + functional.relu(margins[1] + fake).mean()


def wasserstein(real: Tensor, fake: Tensor, drift: float = 0.0) -> Tensor:
    """Return the critic's loss (Arjovsky et al. 2017), with a small pull of real scores to 0 (Karras et al. 2018)."""
    return fake.mean() - real.mean() + drift * real.square().mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return the penalty of WGAN-GP (Gulrajani et al. 2017, equation 3), not yet weighted.

    Args:
        critic: scores pictures (N, ...); (N,) comes out.
        real: pictures (N, ...).
        fake: made pictures (N, ...), no gradient is taken to them.
        share: of the real picture at the place between the two, in [0, 1], (N, 1, 1, 1).

    Returns:
        The mean squared distance of the gradient's norm from 1.
    """
    between = torch.lerp(fake.detach(), real, share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.float().flatten(1).norm(dim=1) - 1).square().mean()


def real_gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return R1 of Mescheder, Geiger and Nowozin 2018 (arXiv 1801.04406, equation 9), not yet weighted.

    Args:
        judge: scores pictures (N, ...); (N,) comes out.
        real: pictures (N, ...).

    Returns:
        Half the mean squared norm of the scores' gradient at real pictures.
    """
    at = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(at).sum(), at, create_graph=True)
    return gradient.float().flatten(1).square().sum(dim=1).mean() / 2
