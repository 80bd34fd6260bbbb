"""What the suites share: a check and its outcome, the pairs to try plugins on, comparisons of samples."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from harness.data.pairs import PairSet
from harness.errors import PluginError
from harness.plugins.contract import Sample

#: Seeds that plugins are tried with: small, large, and in no order.
SEEDS = np.array([11, 4, 2**40 + 3, 0, 7, 123_456_789, 1], np.int64)


class Check(NamedTuple):
    """One thing that was tried, whether it held, and what was found."""

    name: str
    passed: bool
    sentence: str


class Broken(Exception):
    """A promise that the plugin does not keep; the message is the check's sentence."""


class Checks:
    """Runs checks one after the other and keeps what came of them."""

    def __init__(self) -> None:
        self.done: list[Check] = []

    def run(self, name: str, check: Callable[[], str]) -> bool:
        """Run one check; whatever a plugin raises is a failed check, not a crash of the suite."""
        try:
            outcome = Check(name, True, check())
        except (Broken, PluginError) as broken:
            outcome = Check(name, False, str(broken))
        except Exception as error:
            outcome = Check(name, False, f"It raised {type(error).__name__}: {error}")
        self.done.append(outcome)
        return outcome.passed

    def skip(self, names: list[str], reason: str) -> None:
        """Count checks that cannot be tried as failed."""
        self.done += [Check(name, False, f"Not tried, because {reason}.") for name in names]


def require(condition: bool, sentence: str) -> None:
    """Fail the check with a sentence unless the condition holds."""
    if not condition:
        raise Broken(sentence)


def example_values(plugin: type[Any]) -> dict[str, Any]:
    """Return the parameter values that make a run of a plugin short: its ``example()``."""
    return dict(plugin.example())


def drawn_pairs(count: int = 24, size: int = 32, seed: int = 0) -> PairSet:
    """Draw pairs to try plugins on: lit mucosa with a darker lumen and one, two or no bright ellipses.

    Args:
        count: how many.
        size: side in pixels.
        seed: of everything drawn.

    Returns:
        real pairs ``drawn/000``, ... whose arrays are read-only, as a store's are.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float64) / size
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for i in range(count):
        centre = rng.uniform(0.2, 0.8, 2)
        lumen = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 0.05)
        texture = rng.normal(0, 4, (size, size, 1))
        picture = np.array([190.0, 105.0, 85.0]) + rng.normal(0, 12, 3) - 70 * lumen[..., None] + texture
        for _ in range(0 if i % 8 == 5 else 2 if i % 8 == 3 else 1):
            middle, radii, turn = rng.uniform(0.25, 0.75, 2), rng.uniform(0.1, 0.24, 2), rng.uniform(0, np.pi)
            across, down = columns - middle[1], rows - middle[0]
            along = across * np.cos(turn) + down * np.sin(turn)
            athwart = down * np.cos(turn) - across * np.sin(turn)
            distance = (along / radii[0]) ** 2 + (athwart / radii[1]) ** 2
            masks[i][distance < 1] = 1
            picture += np.array([45.0, 40.0, 20.0]) * np.clip(1.2 - distance, 0, 1)[..., None]
        images[i] = np.clip(picture, 0, 255)
    images.flags.writeable = masks.flags.writeable = False
    return PairSet.real(images, masks, [f"drawn/{i:03d}" for i in range(count)])


@contextlib.contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Seed the global random states of Python, NumPy and torch inside, and put them back after."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def same(one: Sample, other: Sample) -> bool:
    """Say whether two samples are equal bit for bit."""
    if (one.images is None) != (other.images is None) or not np.array_equal(one.masks, other.masks):
        return False
    return one.images is None or other.images is None or np.array_equal(one.images, other.images)


def take(sample: Sample, positions: list[int]) -> Sample:
    """Return the items of a sample at ``positions``."""
    return Sample(sample.masks[positions], None if sample.images is None else sample.images[positions])


def check_arrays(sample: Sample, count: int, size: tuple[int, int], needs_images: bool) -> str:
    """Check shapes, types and ranges of what a generator or refiner returned."""
    masks, images = sample.masks, sample.images
    require(
        masks.dtype == np.uint8 and masks.shape == (count, *size),
        f"Its masks are {masks.dtype} {masks.shape}; they must be uint8 {(count, *size)}.",
    )
    require(bool(masks.max() <= 1), f"Its masks hold {int(masks.max())}; they must be 0 or 1.")
    if images is None:
        require(not needs_images, "It returned no images.")
        return f"{count} masks of {size[1]} x {size[0]} px."
    require(
        images.dtype == np.uint8 and images.shape == (count, *size, 3),
        f"Its images are {images.dtype} {images.shape}; they must be uint8 {(count, *size, 3)}.",
    )
    return f"{count} pairs of {size[1]} x {size[0]} px."


def check_sources(sample: Sample, count: int, given: frozenset[str]) -> str:
    """Check that the sources of ``count`` pairs are among the real ids that were given."""
    if sample.sources is None:
        return "It names no sources, so each pair counts as made from all that the fit has seen."
    require(len(sample.sources) == count, f"It gave sources for {len(sample.sources)} pairs of {count}.")
    strangers = sorted({source for sources in sample.sources for source in sources} - given)
    require(not strangers, f"It names {strangers[:1]} as a source, which it was not given.")
    require(all(sample.sources), "A pair has an empty list of sources; leave sources out when everything was used.")
    return "All sources are among the real pairs it was given."
