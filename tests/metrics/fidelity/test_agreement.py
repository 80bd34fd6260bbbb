"""Agreement: IoU by hand, chance against a double loop, what is empty, pairs that belong together and that do not."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.places import read_pairs
from harness.errors import DataError, DeclarationError
from harness.learning.judge import TrainedSegmenter, train_on
from harness.metrics.fidelity import agreement as module
from harness.metrics.fidelity.agreement import AGREEMENT, agreement
from harness.metrics.fidelity.measure import Values, measure, of_masks
from harness.metrics.spec import Sets
from harness.plugins.registry import load_plugin
from harness.store.results import Store

CPU = torch.device("cpu")
BRIGHT = TrainedSegmenter("bright", lambda images: (images[..., 0] > 127).astype(np.uint8))


def squares(*corners: tuple[int, int] | None, size: int = 16, side: int = 4) -> NDArray[np.uint8]:
    """Masks of a square each, at a corner (y, x); None is an empty mask."""
    masks = np.zeros((len(corners), size, size), np.uint8)
    for mask, corner in zip(masks, corners, strict=True):
        if corner is not None:
            mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = 1
    return masks


def random_masks(seed: int, count: int = 9) -> NDArray[np.uint8]:
    """Masks of all densities, the first two of them empty."""
    draw = np.random.default_rng(seed)
    masks = (draw.random((count, 6, 6)) < draw.random((count, 1, 1))).astype(np.uint8)
    masks[:2] = 0
    return masks


def drawn(count: int = 40, seed: int = 0, size: int = 32) -> PairSet:
    """Dark noisy images with a bright square each, and its mask."""
    draw = np.random.default_rng(seed)
    corners = [(int(y), int(x)) for y, x in draw.integers(0, size - 10, (count, 2))]
    masks = squares(*corners, size=size, side=10)
    images = np.where(masks[..., None] == 1, 200, 50) + draw.integers(-30, 30, (count, size, size, 3))
    return PairSet.real(images.astype(np.uint8), masks, [f"drawn/{i}" for i in range(count)])


def with_masks(pairs: PairSet, masks: NDArray[np.uint8]) -> PairSet:
    return PairSet(pairs.images, masks, pairs.ids, pairs.groups, pairs.lineage)


def measured(real: PairSet, made: PairSet) -> Values:
    """What agreement tells, asked of the segmenter that takes bright for polyp."""
    return measure([AGREEMENT], Sets(real, made, CPU, segmenter=BRIGHT))["agreement"]


def test_iou_by_hand() -> None:
    # equal: 1; half overlapping: 8 of 24; apart: 0
    found = agreement(squares((0, 0), (0, 0), (0, 0)), squares((0, 0), (0, 2), (8, 8)))
    assert found.value == pytest.approx((1 + 8 / 24 + 0) / 3)
    # every prediction is the same square: with the other masks it is (8/24 + 0) + (1 + 0) + (1 + 8/24)
    assert found.chance == pytest.approx((8 / 24 + 0 + 1 + 0 + 1 + 8 / 24) / 6)
    assert found.pairs == 3


def test_empty_with_empty_says_nothing_and_empty_with_something_is_zero() -> None:
    found = agreement(squares(None, None, (0, 0), (4, 4)), squares(None, (0, 0), None, (4, 4)))
    assert found.pairs == 3
    assert found.value == pytest.approx(1 / 3)


def test_nothing_anywhere_has_no_value() -> None:
    found = agreement(squares(None, None), squares(None, None))
    assert found.pairs == 0
    assert math.isnan(found.value)
    assert math.isnan(found.chance)


def test_one_pair_has_no_chance_since_there_is_no_other_image() -> None:
    found = agreement(squares((0, 0)), squares((0, 0)))
    assert found.value == 1
    assert math.isnan(found.chance)


@pytest.mark.parametrize("at_once", [36, 100, 2**24])
def test_chance_is_that_of_a_double_loop_however_it_is_cut(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    predictions, masks = random_masks(1), random_masks(2)[::-1]
    scores = []
    for i, prediction in enumerate(predictions):
        for j, mask in enumerate(masks):
            either = np.logical_or(prediction, mask).sum()
            if i != j and either:
                scores.append(np.logical_and(prediction, mask).sum() / either)
    assert len(scores) < 9 * 8  # some have both empty
    assert agreement(predictions, masks).chance == pytest.approx(np.mean(scores))


def test_pairs_that_belong_together_score_near_one_and_shuffled_ones_near_chance() -> None:
    pairs = drawn()
    shuffled = with_masks(pairs, np.roll(pairs.masks, 1, axis=0))
    together, apart = (measured(pairs, made) for made in (pairs, shuffled))
    assert together["agreement"] == 1
    assert together["agreement-chance"] < 0.2
    assert apart["agreement"] == pytest.approx(together["agreement-chance"], abs=0.05)
    assert (together["network"], together["agreement-pairs"], together["n_synthetic"]) == ("bright", 40, 40)
    assert f"agree {together['agreement-chance']:.4f} (chance)" in str(together["notes"])
    assert "left out" not in str(together["notes"])


def test_the_order_of_pairs_and_the_real_ones_change_nothing() -> None:
    pairs = drawn(12)
    moved = with_masks(pairs, np.roll(pairs.masks, 3, axis=1))
    turned = moved.take(range(11, -1, -1))
    first, second = (measured(real, made) for real, made in ((pairs, moved), (drawn(12, 5), turned)))
    assert first["agreement"] == pytest.approx(second["agreement"])
    assert first["agreement-chance"] == pytest.approx(second["agreement-chance"])
    assert 0.2 < float(first["agreement"]) < 0.9


def test_pairs_that_are_left_out_are_told() -> None:
    pairs = drawn(6)
    images, masks = pairs.images.copy(), pairs.masks.copy()
    masks[:2] = 0
    images[0] = 10
    values = measured(pairs, PairSet.real(images, masks, pairs.ids))
    assert values["agreement-pairs"] == 5
    assert values["agreement"] == pytest.approx(4 / 5)
    assert "mask and prediction are empty: 1." in str(values["notes"])
    images[:] = np.minimum(images, 100)
    nothing = PairSet.real(images, np.zeros_like(masks), pairs.ids)
    values = measured(pairs, nothing)
    assert math.isnan(float(values["agreement"]))
    assert "every prediction is empty" in str(values["notes"])


def test_masks_as_pictures_and_one_picture_again_and_again_have_no_value() -> None:
    pairs = drawn(6)
    values = measured(pairs, of_masks(pairs))
    assert math.isnan(float(values["agreement"]))
    assert "The images are the masks" in str(values["notes"])
    same = PairSet.real(np.repeat(pairs.images[:1], 6, axis=0), pairs.masks, pairs.ids)
    values = measured(pairs, same)
    assert math.isnan(float(values["agreement"]))
    assert "are the same picture" in str(values["notes"])


def test_without_a_segmenter_there_is_one_sentence() -> None:
    with pytest.raises(DeclarationError, match="agreement asks a segmenter"):
        measure([AGREEMENT], Sets(drawn(4), drawn(4), CPU))


# a training of its own


def tiny(temp_study: Any) -> Any:
    return load_plugin("segmenters", f"{temp_study.plugins}:Tiny").create(rate=2.0)


def test_the_real_pairs_are_parted_by_group_and_the_held_out_ones_are_never_seen(
    temp_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.learning.train_segmenter

    pairs = drawn(60)
    grouped = PairSet(pairs.images, pairs.masks, pairs.ids, tuple(f"g{i // 3}" for i in range(60)), pairs.lineage)
    given = {}
    train = harness.learning.train_segmenter.train_segmenter

    def watched(segmenter: Any, training: PairSet, order: Any, selection: PairSet, **more: Any) -> Any:
        given.update(training=training, selection=selection, order=order.tolist())
        return train(segmenter, training, order, selection, **more)

    monkeypatch.setattr(harness.learning.train_segmenter, "train_segmenter", watched)
    done = train_on(grouped, tiny(temp_study), steps=3, seed=4, device=CPU, folder=tmp_path / "a")
    parts = [set(part.groups) for part in (given["training"], given["selection"], done.held_out)]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert set.union(*parts) == set(grouped.groups)
    assert sum(len(p) for p in (given["training"], given["selection"], done.held_out)) == 60
    assert given["order"] == list(range(42))
    assert (done.trained_on, done.outcome.steps) == (42, 3)
    other = train_on(grouped, tiny(temp_study), steps=1, seed=5, device=CPU, folder=tmp_path / "b")
    assert set(other.held_out.ids) != set(done.held_out.ids)


def test_a_trained_segmenter_finds_the_squares(temp_study: Any, tmp_path: Path) -> None:
    done = train_on(drawn(40), tiny(temp_study), steps=120, seed=0, device=CPU, folder=tmp_path / "t")
    made = drawn(20, 9)
    found = agreement(done.segmenter.predict(made.images), made.masks)
    assert found.value > 0.95
    assert found.chance < 0.2
    assert done.segmenter.label == "tiny"


def test_too_few_real_pairs_are_told(temp_study: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 9 groups"):
        train_on(drawn(9), tiny(temp_study), steps=1, seed=0, device=CPU, folder=tmp_path)


# the command


@pytest.fixture
def places(temp_study: Any, tmp_path: Path) -> tuple[str, str, str]:
    """A folder of pairs, the same with every mask at the next image, and the tiny segmenter."""
    good, bad = tmp_path / "twelve", tmp_path / "shifted"
    shutil.copytree(good, bad)
    for i in range(12):
        shutil.copy(good / "masks" / f"frame{i:02d}.png", bad / "masks" / f"frame{(i + 1) % 12:02d}.png")
    return str(good), str(bad), f"{temp_study.plugins}:Tiny"


def test_the_command_trains_and_says_on_what_and_how_long(places: tuple[str, str, str], command: Any) -> None:
    good, bad, plugin = places
    options = ["--segmenter", plugin, "--set", "rate=2.0", "--steps", "150", "--size", "32", "--json"]
    together, apart = (command("metrics", "agreement", good, made, *options) for made in (good, bad))
    assert together.code == 0, together.err
    said = together.json
    assert said["agreement"] > 0.8 > 0.5 > said["agreement-chance"]
    assert said["agreement-real"] > 0.8
    assert said["agreement-real-chance"] < 0.5
    assert (said["n_real"], said["n_synthetic"], said["agreement-pairs"]) == (2, 12, 12)
    assert (said["trained-on"], said["steps"], said["size"], said["network"]) == (9, 150, 32, "tiny")
    assert said["segmenter"] == {"plugin": plugin, "rate": 2.0}
    assert 0 < said["best-step"] <= 150
    assert said["selection-iou"] > 0.8
    assert apart.json["agreement"] < 0.5
    assert "training 150/150 steps" in together.err


def test_the_command_takes_a_trained_segmenter_and_real_pairs_that_it_has_not_seen(
    temp_study: Any, places: tuple[str, str, str], command: Any
) -> None:
    settings = ["--set", "budget.steps=150", "--set", "segmenters.0.rate=2.0"]
    assert temp_study.run("--profile", "short", *settings, "--only", "tiny * real=4").code == 0
    (path,) = (temp_study.project / ".harness/store/results/train").glob("*/seen.json")
    key, seen = path.parent.name, json.loads(path.read_text())
    said = command("metrics", "agreement", "twelve", places[1], "--trained", key[:12], "--size", "32", "--json").json
    assert said["n_real"] == 12 - len(seen) > 2
    assert (said["trained-on"], said["steps"]) == (4, 150)
    assert "train tiny * real=4 * seed=0" in said["notes"]
    assert said["agreement-real"] > said["agreement"]
    stored = Store().find("train", key)
    assert stored is not None
    weights = stored.folder / stored.values["weights"]
    judge = TrainedSegmenter.load(load_plugin("segmenters", places[2]).create(rate=2.0), weights, CPU)
    real = read_pairs("twelve", 32)
    unseen = real.select([name for name in real.ids if name not in seen])
    ceiling, of_all = (agreement(judge.predict(pairs.images), pairs.masks) for pairs in (unseen, real))
    assert said["agreement-real"] == pytest.approx(ceiling.value) != pytest.approx(of_all.value)
    assert said["agreement-real-chance"] == pytest.approx(ceiling.chance)
    both = command("metrics", "agreement", "twelve", places[1], "--trained", key, "--set", "rate=1.0")
    assert both.code == 2
    assert "--trained brings its own segmenter" in both.err
    assert "0 stored train results" in command("metrics", "agreement", "twelve", "twelve", "--trained", "none").err
    path.write_text(json.dumps(dict.fromkeys(read_pairs("twelve", 32).ids, "it was trained on it")))
    answer = command("metrics", "agreement", "twelve", places[1], "--trained", key)
    assert answer.code == 1
    assert "has seen all 12 real pairs" in answer.err


def test_without_weights_the_default_is_a_small_random_network_and_says_so(
    harness_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.weights.locate
    from harness.cli.metrics import _declared_segmenter

    monkeypatch.setattr(harness.weights.locate, "find", lambda name: None)
    judge, named = _declared_segmenter("", [])
    assert named["encoder_weights"] == "random"
    assert judge.weights() == ()
    assert any("from random weights" in note for note in judge.notes())
    monkeypatch.setattr(harness.weights.locate, "find", lambda name: Path("here"))
    judge, named = _declared_segmenter("", ["loss=bce"])
    assert named == {"plugin": "smp", "arch": "Unet", "encoder": "tu-tf_efficientnet_lite0", "loss": "bce"}
    assert judge.weights() == ("efficientnet-lite0-imagenet",)
    with pytest.raises(DeclarationError, match=r"segmenter\.arch: there is no architecture 'Unett'"):
        _declared_segmenter("", ["arch=Unett"])


def test_pairs_of_a_place_come_as_squares_of_one_size(
    temp_study: Any, places: tuple[str, str, str], tmp_path: Path
) -> None:
    from_folder, from_dataset = read_pairs(places[0], 24), read_pairs("twelve", 24)
    np.testing.assert_array_equal(from_folder.images, from_dataset.images)
    np.testing.assert_array_equal(from_folder.masks, from_dataset.masks)
    assert len(read_pairs("twelve:fit", 24)) < 12
    read_pairs("twelve", 48).save(tmp_path / "stored")
    resized = read_pairs(str(tmp_path / "stored"), 24)
    assert resized.size == (24, 24)
    assert set(np.unique(resized.masks)) == {0, 1}
    np.testing.assert_array_equal(read_pairs(str(tmp_path / "stored"), 48).masks, read_pairs("twelve", 48).masks)


def test_images_and_masks_that_do_not_match_are_named(places: tuple[str, str, str], tmp_path: Path) -> None:
    good = Path(places[0])
    (good / "masks" / "frame03.png").unlink()
    (good / "images" / "frame05.png").unlink()
    with pytest.raises(DataError) as caught:
        read_pairs(str(good), 32)
    assert "frame03 is an image without a mask" in str(caught.value)
    assert "frame05 is a mask without an image" in str(caught.value)
    with pytest.raises(DataError, match="has no folders images and masks"):
        read_pairs(str(good / "images"), 32)
