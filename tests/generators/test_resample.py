"""Resample: one real pair moved, image and mask together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generators.resample import Resample
from harness.conformance import drawn_pairs
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, SampleContext


def resample(pairs, seeds, batch_size=64):
    context = SampleContext(torch.device("cpu"), pairs, batch_size)
    return Resample.create().sample(Checkpoint(0, Path()), np.asarray(seeds, np.int64), context)


def test_every_pair_comes_from_the_one_it_names():
    """Each real pair has a colour of its own, so the colour says which one was moved."""
    pairs = drawn_pairs(8, 32)
    colours = np.arange(8, dtype=np.uint8) * 30 + 20
    pairs = replace(pairs, images=np.broadcast_to(colours[:, None, None, None], pairs.images.shape).copy())
    made = resample(pairs, range(60))
    for image, (source,) in zip(made.images, made.sources, strict=True):
        assert abs(int(np.median(image)) - int(colours[pairs.ids.index(source)])) <= 1
    assert len(set(made.sources)) == 8


def test_image_and_mask_move_together():
    pairs = drawn_pairs(8, 32)
    shown = np.repeat(pairs.masks[..., None] * np.uint8(255), 3, axis=3)
    made = resample(replace(pairs, images=shown), range(40))
    agree = ((made.images[..., 0] > 127) == (made.masks == 1)).mean()
    assert agree > 0.98
    sources = [pairs.ids.index(source) for (source,) in made.sources]
    moved = [not np.array_equal(m, pairs.masks[i]) for m, i in zip(made.masks, sources, strict=True) if m.any()]
    assert np.mean(moved) > 0.8


def test_no_pairs_is_an_error(tmp_path):
    with pytest.raises(HarnessError, match="no training pairs"):
        run_fit(Resample.create(), drawn_pairs(2).take([]), WorkFolder(tmp_path, torch.device("cpu"), 0))
