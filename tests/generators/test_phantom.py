"""Phantom: fresh frames at any size, that owe nothing to a real image and are none of the embedded dataset."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from generators.phantom import Phantom
from harness.conformance import check_plugin, drawn_pairs
from harness.data import phantom
from harness.engine.fitted_generator import FittedGenerator
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import SampleContext

CPU = torch.device("cpu")


@pytest.fixture
def draw(tmp_path):
    """Fit on pairs of a size, and sample."""

    def run(seeds, size=32, pairs=None):
        pairs = drawn_pairs(4, size) if pairs is None else pairs
        (checkpoint,) = run_fit(Phantom.create(), pairs, WorkFolder(tmp_path / "fit", CPU, 0))
        return Phantom.create().sample(checkpoint, np.asarray(seeds, np.int64), SampleContext(CPU, pairs))

    return run


def test_real_pairs_change_nothing_but_the_size(draw):
    made = draw(range(4))
    other = draw(range(4), pairs=drawn_pairs(7, 32, seed=9))
    np.testing.assert_array_equal(other.images, made.images)
    np.testing.assert_array_equal(other.masks, made.masks)
    larger = draw(range(4), size=64)
    assert larger.images.shape == (4, 64, 64, 3)
    for small, large in zip(made.images, larger.images, strict=True):
        halved = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BOX)).astype(float)
        assert np.abs(halved - small).mean() < 12
        assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.95


def test_no_frame_is_one_of_the_embedded_dataset(draw):
    """Else a study on the phantom dataset would train on what it reports, with an empty lineage."""
    made = draw(range(8), size=16)
    known = {phantom.render(seed, index, 16)[0].tobytes() for seed in range(8) for index in range(8)}
    assert not known & {image.tobytes() for image in made.images}


def test_each_seed_has_a_patient_and_polyps_of_its_own(draw):
    made = draw(range(250), size=16)
    assert len({image.tobytes() for image in made.images}) == 250
    empty = (made.masks.max(axis=(1, 2)) == 0).mean()
    # Eight in a hundred frames have no polyp (within 4 deviations of a binomial share).
    assert empty == pytest.approx(0.08, abs=4 * np.sqrt(0.08 * 0.92 / 250))
    areas = made.masks.mean(axis=(1, 2))
    assert areas.max() > 0.2
    assert len(np.unique(areas)) > 50


def test_polyps_stand_out_where_the_mask_says(draw):
    made = draw(range(60), size=48)
    differences = []
    for image, mask in zip(made.images.astype(float), made.masks.astype(bool), strict=True):
        if mask.sum() > 20:
            tissue = ~mask & (image.sum(axis=2) > 60)
            differences.append(np.abs(image[mask].mean(axis=0) - image[tissue].mean(axis=0)).max())
    assert len(differences) > 40
    assert np.median(differences) > 10


def test_a_pair_depends_on_its_seed_alone(draw):
    seeds = [3, -3, 2**62, 0, -(2**63)]
    whole = draw(seeds)
    for i in (2, 0, 4, 3, 1):
        alone = draw(seeds[i : i + 1])
        np.testing.assert_array_equal(alone.images[0], whole.images[i])
        np.testing.assert_array_equal(alone.masks[0], whole.masks[i])
    assert len({image.tobytes() for image in whole.images}) == len(seeds)


def test_it_has_seen_nothing_and_says_so(tmp_path):
    pairs = drawn_pairs(4)
    context = WorkFolder(tmp_path, CPU, 0)
    (checkpoint,) = run_fit(Phantom.create(), pairs, context)
    found = FittedGenerator(Phantom.create(), "phantom", checkpoint, pairs, frozenset(), "", "")
    assert found.lineage(found.sample(np.arange(3), CPU)) == [frozenset()] * 3
    found.save(tmp_path / "model")
    again = FittedGenerator.load(tmp_path / "model")
    assert again.lineage(again.sample(np.arange(3), CPU)) == [frozenset()] * 3


def test_a_study_trains_on_it_under_the_clean_protocol(temp_study):
    """An empty lineage passes through sampling, training, the leak guard and the fidelity of the pool."""
    answer = temp_study.run(
        "--set", "generators={reference: {pairs: {plugin: phantom}}, noise: {pairs: {plugin: noise}}}",
        "--set", "train=[{real: 4}, {real: 4, synthetic: {reference: 6}}, {synthetic: {reference: 6}}]",
        "--set", "controls=[]", "--set", "seeds=1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    store = temp_study.project / ".harness" / "store" / "results"
    pools = {json.loads((p / "result.json").read_text())["label"]: p for p in (store / "sample").iterdir()}
    (pool,) = (p for label, p in pools.items() if "reference" in label)
    assert json.loads((pool / "provenance.json").read_text()) == {"fitted": [], "selected": []}
    assert json.loads((pool / "pairs" / "pairs.json").read_text())["lineages"] == [[]]
    fit = {f"twelve/{name}" for name in build_plan(load_study("twelve")).splits[0].ids("fit")}
    fewest = min((json.loads((p / "seen.json").read_text()) for p in (store / "train").iterdir()), key=len)
    assert not fit & set(fewest)  # trained on nothing real: only what its own checkpoint was selected on


def test_the_version_is_that_of_the_renderer():
    """The renderer is not in the fingerprint of a plugin's code, so its version must be in the plugin's."""
    assert Phantom.version == str(phantom.VERSION)


def test_it_conforms(tmp_path):
    assert not [check for check in check_plugin("generators", Phantom, tmp_path) if not check.passed]


def test_frames_that_are_not_square_are_refused(draw):
    pairs = drawn_pairs(2)
    wide = type(pairs).real(pairs.images[:, :20], pairs.masks[:, :20], pairs.ids)
    with pytest.raises(HarnessError, match="32x20 pixels"):
        draw([1], pairs=wide)


def test_contrast_is_that_of_the_dataset(tmp_path):
    pairs = drawn_pairs(4, 32)
    (checkpoint,) = run_fit(Phantom.create(), pairs, WorkFolder(tmp_path / "fit", CPU, 0))
    made = Phantom.create(contrast=6.0).sample(checkpoint, np.array([5]), SampleContext(CPU, pairs))
    np.testing.assert_array_equal(made.images[0], phantom.render(2**64 + 5, 0, 32, contrast=6)[0])
