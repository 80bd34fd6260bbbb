"""Which images a step sees: a function of (seed, step), so that a resumed run is equal to an uninterrupted one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# What a seed is for: each purpose has random numbers of its own.
_INITIALISATION, _ORDER, _STEP = 0, 1, 2


def steps_for_epochs(images: int, batch_size: int, epochs: int) -> int:
    """Return the optimiser steps of ``epochs`` passes over ``images``, a pass's last batch counting as a whole one.

    50 epochs over 100 images in batches of 8 are 650 steps, as in paper A.
    """
    return epochs * math.ceil(images / batch_size)


def initialisation_seed(seed: int) -> int:
    """Return the seed of torch's generators while the network of a run seeded with ``seed`` is built."""
    return _derive(seed, _INITIALISATION)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generators during step ``step`` (from 0) of a run seeded with ``seed``."""
    return _derive(seed, _STEP, step)


def batch_positions(order: NDArray[np.intp], batch_size: int, seed: int, step: int) -> NDArray[np.intp]:
    """Return what the batch of a step holds.

    The stream is one seeded shuffle of ``order`` after another, cut into batches of ``batch_size``. A batch that
    reaches the end of one shuffle goes on with the next, so that every batch is full (batch normalisation never sees
    a remainder of one image) and all entries of ``order`` are shown equally often, to within one.

    Args:
        order: positions into the training set; a position may come several times.
        batch_size: images a step.
        seed: of the run.
        step: from 0.

    Returns:
        ``batch_size`` entries of ``order``.
    """
    stream = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(stream, len(order))
    shuffles = {int(e): _shuffle(order, seed, int(e)) for e in np.unique(epochs)}
    return np.array([shuffles[int(e)][p] for e, p in zip(epochs, places, strict=True)], dtype=np.intp)


def _shuffle(order: NDArray[np.intp], seed: int, epoch: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(order)


def _derive(seed: int, purpose: int, number: int = 0) -> int:
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def validation_steps(steps: int, validations: int) -> list[int]:
    """Return after which steps the selection set is scored: ``validations`` of them, evenly spread, the last one too.

    More validations than steps are one a step; fewer than one is one, at the end.
    """
    count = max(1, min(validations, steps))
    return [round(steps * (i + 1) / count) for i in range(count)]
