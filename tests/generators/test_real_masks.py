"""Real masks: each once before any twice, as it is or moved as resample moves it, and named as its own source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generators.real_masks import RealMasks
from harness.conformance import check_plugin, drawn_pairs
from harness.data.pairs import PairSet
from harness.engine.stages.pool import pool_seeds
from harness.errors import HarnessError
from harness.learning.augmentation import geometric_transform
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, Sample, SampleContext

CPU = torch.device("cpu")


def fitted(folder: Path, pairs: PairSet, seed: int = 0) -> Checkpoint:
    (checkpoint,) = run_fit(RealMasks.create(), pairs, WorkFolder(folder, CPU, seed))
    return checkpoint


def pool(checkpoint: Checkpoint, pairs: PairSet, count: int, seed: int = 0, **values: Any) -> Sample:
    generator = RealMasks.create(**values)
    seeds = pool_seeds(generator, checkpoint, pairs, seed, count)
    made: Sample = generator.sample(checkpoint, seeds, SampleContext(CPU, pairs))
    return made


def names(sample: Sample) -> list[str]:
    assert sample.sources is not None
    return [name for (name,) in sample.sources]


def test_it_conforms(tmp_path: Path) -> None:
    assert not [check for check in check_plugin("generators", RealMasks, tmp_path) if not check.passed]


@given(count=st.integers(1, 30), several=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_real_mask_is_used_once_before_any_twice(
    tmp_path_factory: pytest.TempPathFactory, count: int, several: int, seed: int
) -> None:
    pairs = drawn_pairs(several, 16)
    checkpoint = fitted(tmp_path_factory.mktemp("fit"), pairs)
    used = Counter(names(pool(checkpoint, pairs, count, seed)))
    assert max(used.values()) - min(used.get(name, 0) for name in pairs.ids) <= 1
    assert names(pool(checkpoint, pairs, count, seed)) == names(pool(checkpoint, pairs, count + 5, seed))[:count]


def test_a_mask_is_that_of_the_real_pair_it_names(tmp_path: Path) -> None:
    pairs = drawn_pairs(8, 32)
    made = pool(fitted(tmp_path, pairs), pairs, 20)
    assert made.images is None
    for mask, name in zip(made.masks, names(made), strict=True):
        np.testing.assert_array_equal(mask, pairs.masks[pairs.ids.index(name)])


def test_a_small_pool_is_a_random_draw_not_the_first_by_name(tmp_path: Path) -> None:
    pairs = drawn_pairs(40, 16)
    draws = [names(pool(fitted(tmp_path / str(seed), pairs, seed), pairs, 10)) for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20
    # By a hypergeometric draw, each of the 40 is among the ten in a quarter of the fits.
    first = sum(pairs.ids[0] in draw for draw in draws)
    assert 0 < first < 13


def test_moved_masks_are_those_that_resample_would_make_of_the_same_pair(tmp_path: Path) -> None:
    pairs = drawn_pairs(6, 32)
    checkpoint = fitted(tmp_path, pairs)
    generator = RealMasks.create(augment="geometric")
    seeds = pool_seeds(generator, checkpoint, pairs, 3, 14)
    made = generator.sample(checkpoint, seeds, SampleContext(CPU, pairs, batch_size=4))
    positions = [pairs.ids.index(name) for name in names(made)]
    _, expected = geometric_transform(pairs.images[positions], pairs.masks[positions], seeds)
    np.testing.assert_array_equal(made.masks, expected)
    assert not np.array_equal(made.masks, pairs.masks[positions])
    # Twice the same real mask is two masks.
    polyps = [mask.tobytes() for mask in made.masks if mask.any()]
    assert len(set(polyps)) == len(polyps) > len(pairs)


def test_no_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no training pairs"):
        fitted(tmp_path, drawn_pairs(2).take([]))
