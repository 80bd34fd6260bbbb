"""Masks of a folder: by name, by the rule of the import, at the study's size; what is wrong is told before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from generators.mask_folder import MaskFolder
from harness.conformance import check_plugin, drawn_pairs
from harness.data.decoding import binarise, resize_mask
from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.preflight import missing_weights
from harness.engine.stages.pool import pool_seeds
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, SampleContext

CPU = torch.device("cpu")


def write(folder: Path, name: str, columns: int, low: int = 0, high: int = 255) -> Path:
    """Write a mask of 60 x 40 pixels with so many polyp columns from the left."""
    folder.mkdir(exist_ok=True)
    mask = np.full((40, 60), low, np.uint8)
    mask[:, :columns] = high
    Image.fromarray(mask).save(folder / name)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three masks: a third, two thirds in two odd values, all but a sixth; and what is no picture."""
    folder = tmp_path / "some masks"
    write(folder, "b.png", 20)
    write(folder, "a.png", 40, 90, 110)
    write(folder, "c.PNG", 50)
    (folder / "readme.txt").write_text("no mask")
    (folder / ".hidden.png").write_text("no mask")
    return folder


def fitted(folder: Path, work: Path, geometry: str = "squash", size: int = 30) -> tuple[Checkpoint, WorkFolder]:
    context = WorkFolder(work, CPU, 0)
    context.geometry = geometry  # type: ignore[assignment]
    (checkpoint,) = run_fit(MaskFolder.create(path=str(folder)), drawn_pairs(2, size), context)
    return checkpoint, context


def made(checkpoint: Checkpoint, count: int, size: int = 30, seed: int = 0) -> Any:
    generator, pairs = MaskFolder.create(), drawn_pairs(2, size)
    seeds = pool_seeds(generator, checkpoint, pairs, seed, count)
    return generator.sample(checkpoint, seeds, SampleContext(CPU, pairs)).masks


def test_it_conforms(tmp_path: Path) -> None:
    assert not [check for check in check_plugin("generators", MaskFolder, tmp_path) if not check.passed]


@pytest.mark.parametrize(
    ("geometry", "columns"),
    # squash: 30 of 60 columns remain; crop: the middle 40 columns, from the tenth, become 30.
    [("squash", [20, 10, 25]), ("crop", [22.5, 7.5, 30])],
)
def test_item_i_is_picture_i_by_name_with_the_geometry_of_the_study(
    folder: Path, tmp_path: Path, geometry: str, columns: list[float]
) -> None:
    checkpoint, _ = fitted(folder, tmp_path / "fit", geometry)
    masks = made(checkpoint, 7)
    np.testing.assert_allclose(masks.mean(axis=1).sum(axis=1)[:3], columns, atol=0.5)
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, masks[i % 3])
    np.testing.assert_array_equal(masks, made(checkpoint, 9, seed=5)[:7])


def test_a_picture_becomes_a_mask_as_at_import(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "m").mkdir()
    rough = np.kron(rng.integers(0, 2, (7, 9)), np.ones((9, 9))).astype(np.uint8) * 255
    Image.fromarray(rough).save(tmp_path / "m" / "x.jpg", quality=80)
    checkpoint, _ = fitted(tmp_path / "m", tmp_path / "fit", size=25)
    with Image.open(tmp_path / "m" / "x.jpg") as picture:
        expected = resize_mask(binarise(picture), 25, "squash")
    np.testing.assert_array_equal(made(checkpoint, 1, size=25)[0], expected)


def test_every_report_is_told_that_nothing_is_known_of_them(folder: Path, tmp_path: Path) -> None:
    checkpoint, context = fitted(folder, tmp_path / "fit")
    (note,) = context.notes()
    assert note.startswith("The masks of mask-folder are 3 pictures of a folder.")
    assert str(folder) not in note
    # Nothing narrower is claimed than all real pairs that it was given.
    assert checkpoint.seen is None


def test_what_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    assert MaskFolder.create(path=str(folder)).missing_requirements() == []
    gone = str(tmp_path / "gone")
    (sentence,) = MaskFolder.create(path=gone).missing_requirements()
    assert sentence == f"mask-folder finds no folder {gone}; give path a folder of masks."
    (tmp_path / "empty").mkdir()
    (sentence,) = MaskFolder.create(path=str(tmp_path / "empty")).missing_requirements()
    assert "finds no pictures" in sentence
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60)).save(folder / "grey.png")
    (folder / "torn.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (sentence,) = MaskFolder.create(path=str(folder)).missing_requirements()
    assert sentence.startswith(f"The mask {folder}/grey.png is not a binary mask")
    assert sentence.endswith("(2 such files)")
    with pytest.raises(HarnessError, match=r"grey\.png is not a binary mask"):
        fitted(folder, tmp_path / "fit")


# in a study


def planned(study: Any, folder: Path) -> Plan:
    settings = (
        f'generators={{given: {{masks: {{plugin: mask-folder, path: "{folder}"}}}}}}', "segmenters=[]", "train=[]",
        "controls=[]", "compare.against=null", "fidelity=null",
    )  # fmt: skip
    return build_plan(load_study(study.name, settings=settings))


def keys(plan: Plan) -> set[str]:
    return {key for key, stage in plan.stages.items() if stage.kind != "dataset"}


def test_the_key_holds_the_content_of_the_folder_and_not_its_path(
    temp_study: Any, folder: Path, tmp_path: Path
) -> None:
    plan = planned(temp_study, folder)
    assert str(folder) not in json.dumps([stage.parts for stage in plan.stages.values()])
    moved = folder.rename(tmp_path / "elsewhere")
    assert keys(planned(temp_study, moved)) == keys(plan)
    content = (moved / "b.png").read_bytes()
    write(moved, "b.png", 21)
    assert not keys(planned(temp_study, moved)) & keys(plan)
    (moved / "b.png").write_bytes(content)
    assert keys(planned(temp_study, moved)) == keys(plan)
    for name in ("z.png", "bb.png"):  # the order of the masks is that of their names; a name counts in any case
        (moved / "b.png").rename(moved / name)
        assert not keys(planned(temp_study, moved)) & keys(plan)
        (moved / name).rename(moved / "b.png")


def test_a_missing_folder_is_told_before_anything_runs(temp_study: Any, tmp_path: Path) -> None:
    (sentence,) = missing_weights(planned(temp_study, tmp_path / "gone"))
    assert "generators.given.masks: mask-folder finds no folder" in sentence
    use = f'{{given: {{masks: {{plugin: mask-folder, path: "{tmp_path}/gone"}}}}}}'
    answer = temp_study.run("--set", f"generators={use}", "--set", "train=[{real: 4}]")
    assert answer.code == 2
    assert "mask-folder finds no folder" in answer.err
    assert not (temp_study.project / ".harness" / "store" / "results").exists()


def test_its_masks_feed_a_pipeline_and_the_report_says_where_they_are_from(temp_study: Any, folder: Path) -> None:
    from harness.data.pairs import PairSet
    from harness.engine.collect import collect
    from harness.engine.executors import make_executor
    from harness.engine.run import run_plan
    from harness.store.results import Store

    plan, store = planned(temp_study, folder), Store()
    assert run_plan(plan, store, make_executor("in-process", None)).complete
    (pool,) = plan.pools
    found = store.find("sample", pool.key)
    assert found is not None
    masks = PairSet.load(found.folder / "pairs").masks
    assert masks.shape == (24, 32, 32)
    np.testing.assert_allclose(masks[:3].mean(axis=(1, 2)), [2 / 3, 1 / 3, 5 / 6], atol=0.04)
    assert any(note.startswith("The masks of mask-folder are 3 pictures") for note in collect(plan, store).notes)
