"""Reading what is to be measured, through the command line itself."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import harness.weights
from harness.cli.metrics import app
from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.metrics.inception import FidInception
from harness.metrics.pictures import read_images, read_masks


@pytest.fixture(scope="module")
def random_network():
    torch.manual_seed(0)
    return FidInception().eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, random_network):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(harness.weights, "fid_inception", lambda: random_network)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def pictures(tmp_path):
    """A folder with images/ and masks/, and the same as a zip and as a stored stage result."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (7, 24, 20, 3), dtype=np.uint8)
    masks = np.zeros((7, 24, 20), np.uint8)
    for i, mask in enumerate(masks):
        mask[4 : 8 + i, 3 : 9 + i] = 1
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(7):
        Image.fromarray(images[i]).save(root / "images" / f"{i}.png")
        Image.fromarray(masks[i] * 255).save(root / "masks" / f"{i}.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
        archive.writestr("__MACOSX/set/images/._0.png", b"resource fork")
    PairSet.real(images, masks, [f"d/{i}" for i in range(7)]).save(tmp_path / "stage" / "pairs")
    return tmp_path, images, masks


@pytest.mark.parametrize("place", ["set", "set.zip", "stage", "stage/pairs"])
def test_the_same_pictures_from_everywhere(pictures, place):
    root, images, masks = pictures
    found = read_images(str(root / place))
    np.testing.assert_array_equal(np.stack([found.images[i] for i in range(7)]), images)
    np.testing.assert_array_equal(read_masks(str(root / place))[1], masks)


def test_a_dataset_by_its_name():
    found = read_images("phantom")
    assert len(found) == 200
    assert found.images[0].ndim == 3


def test_fid_of_a_set_with_itself_is_zero(pictures):
    root, *_ = pictures
    found = run("fid", root / "set", root / "set.zip", "--json")
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    assert {"n_real": 7, "n_synthetic": 7, "network": "fid-inception", "mode": "clean"}.items() <= found.items()


def test_kid_prdc_and_sifid(pictures):
    root, *_ = pictures
    sides = (root / "set", root / "stage", "--json")
    assert run("kid", *sides)["kid"] <= 1e-9
    assert run("prdc", *sides)["coverage"] == 1
    found = run("sifid", root / "set", root / "set.zip", "--json")
    assert found["sifid"] == pytest.approx(0, abs=1e-6)


def test_sim_prints_its_references(pictures):
    root, _, masks = pictures
    found = run("sim", root / "set", root / "stage", "--json")
    assert found["sim"] == 1
    assert found["all-black"] == pytest.approx(1 - masks.reshape(7, -1).mean(axis=1).min())
    assert 0 < found["real-leave-one-out"] < 1


def test_memorisation_names_the_copies(pictures):
    root, *_ = pictures
    found = run("memorisation", root / "set", root / "set.zip", "--json")
    assert found["copies"] is True
    assert found["exact-copies"] == 7
    assert all(pair["synthetic"] == pair["real"] for pair in found["closest"])


def test_mask_areas(pictures):
    root, *_ = pictures
    found = run("mask-area", root / "set", root / "stage", "--json")
    assert found["mask-area"] == 0
    assert sum(found["histogram-real"]) == 7


def test_segmentation_has_the_agreed_shape(pictures):
    root, *_ = pictures
    found = run("segmentation", root / "set" / "masks", root / "set" / "masks", "--json")
    assert set(found) == {"iou", "f1", "accuracy", "precision", "recall", "dice-loss"}
    assert found["iou"] == {"micro": 1.0, "micro-imagewise": 1.0}


def test_one_picture_an_empty_folder_a_missing_one_and_a_broken_file(pictures, tmp_path):
    root, *_ = pictures
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "one" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    content = (root / "set" / "images" / "0.png").read_bytes()
    (tmp_path / "broken" / "bad.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "broken" / "good.png").write_bytes(content)
    (tmp_path / "note.txt").write_text("no picture")
    for place, words in {
        "one": "holds one picture",
        "empty": "holds no pictures",
        "broken": "bad.png",
        "missing": "does not exist",
        "note.txt": "neither a folder nor a zip",
    }.items():
        with pytest.raises(HarnessError, match=words):
            run("fid", root / "set", tmp_path / place, "--json")


def test_masks_of_different_sizes_are_named(pictures):
    root, *_ = pictures
    Image.new("L", (9, 9)).save(root / "set" / "masks" / "odd.png")
    with pytest.raises(HarnessError, match=r"odd\.png is 9x9 pixels, but 0 is 20x24"):
        run("sim", root / "set", root / "stage", "--json")


def test_sifid_needs_a_real_picture_for_each(pictures, tmp_path):
    root, *_ = pictures
    (tmp_path / "made").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "made" / "3_0001.png")
    assert run("sifid", root / "set", tmp_path / "made", "--json")["n_synthetic"] == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "made" / "stranger.png")
    with pytest.raises(HarnessError, match="'stranger'"):
        run("sifid", root / "set", tmp_path / "made", "--json")


def test_an_unknown_mode_or_device(pictures):
    root, *_ = pictures
    with pytest.raises(HarnessError, match="did you mean 'legacy'"):
        run("fid", root / "set", root / "set", "--mode", "legazy")
    with pytest.raises(HarnessError, match="--device warp"):
        run("fid", root / "set", root / "set", "--device", "warp")
