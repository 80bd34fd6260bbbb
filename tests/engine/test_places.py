"""Reading what is to be measured, through the command line itself."""

import json
import shutil
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import harness.weights.locate
from harness.cli.metrics import app
from harness.data.datasets import Dataset, fingerprint_of, open_dataset, write_index
from harness.data.entry import Entry
from harness.data.pairs import PairSet
from harness.data.splits import make_splits
from harness.engine.load import load_study
from harness.engine.places import read_images, read_masks, read_predictions
from harness.engine.plan import build_plan
from harness.errors import DataError, HarnessError
from harness.home import data_folder
from harness.metrics.inputs.pictures import Pictures, matched
from harness.metrics.spec import segmentation_metrics
from harness.store.results import Store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, inception):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


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
    (tmp_path / "stage" / "result.json").write_text('{"kind": "sample"}')
    return tmp_path, images, masks


@pytest.mark.parametrize("place", ["set", "set.zip", "stage", "stage/pairs"])
def test_the_same_pictures_from_everywhere(pictures, place):
    root, images, masks = pictures
    found = read_images(str(root / place))
    np.testing.assert_array_equal(np.stack([found.images[i] for i in range(7)]), images)
    np.testing.assert_array_equal(read_masks(str(root / place)).masks, masks)


def test_a_dataset_by_its_name():
    found = read_images("phantom")
    assert len(found) == 200
    assert found.images[0].ndim == 3
    assert found.ids == tuple(f"phantom/0-{i:06d}" for i in range(200))
    assert found.lineage == tuple(frozenset({name}) for name in found.ids)


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
    assert found["sim-black"] == pytest.approx(1 - masks.reshape(7, -1).mean(axis=1).min())
    assert 0 < found["sim-real"] < 1


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
    assert list(found) == list(segmentation_metrics())
    assert list(found)[:6] == ["iou", "f1", "accuracy", "precision", "recall", "dice-loss"]
    assert found["iou"] == {"micro": 1.0, "micro-imagewise": 1.0}
    assert found["detection-rate"] == {"micro": 1.0, "micro-imagewise": 1.0}
    assert found["hausdorff-95"] == found["false-positives"] == {"micro-imagewise": 0.0}


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


def names_of(dataset, declaration, role, seed=0):
    return tuple(f"{dataset.name}/{name}" for name in make_splits(dataset, declaration, seed)[0].ids(role))


@pytest.mark.parametrize("role", ["fit", "select", "report"])
def test_a_role_of_the_split_that_a_study_has_when_it_says_nothing(temp_study, role):
    file = temp_study.file
    file.write_text(file.read_text().replace(", split: {holdout: {report: 0.34, select: 0.2}}", ""))
    split = build_plan(load_study("twelve")).splits[0]
    names = tuple(f"twelve/{name}" for name in split.ids(role))
    dataset = open_dataset("twelve")
    assert names_of(dataset, {"holdout": {"report": 0.3, "select": 0.1}}, role) == names
    found = read_images(f"twelve:{role}")
    assert found.ids == names
    assert found.lineage == tuple(frozenset({name}) for name in names)
    for name, image in zip(names, found.images, strict=True):
        file = dataset.folder / "images" / f"{name.partition('/')[2]}.png"
        np.testing.assert_array_equal(image, np.asarray(Image.open(file)))
    masked = read_masks(f"twelve:{role}")
    assert masked.ids == names
    np.testing.assert_array_equal(masked.masks, dataset.decode(256).select(names).masks)


@pytest.fixture
def kvasir():
    """A dataset with the ids of Kvasir-SEG and one picture for all of them."""
    splits = Path(harness.data.splits.__file__).parent / "named_splits" / "cpd"
    ids = [name for part in ("train", "val", "test") for name in (splits / f"{part}.txt").read_text().split()]
    rows = [Entry(i, "one.png", "one.png", 9, 9, 0.1, i, "0" * 16, "0" * 64) for i in sorted(ids)]
    folder = data_folder() / "kvasir-seg"
    dataset = Dataset("kvasir-seg", "", "", "", folder, tuple(rows), fingerprint_of(rows))
    folder.mkdir(parents=True)
    write_index(dataset, folder)
    return {part: {f"kvasir-seg/{i}" for i in (splits / f"{part}.txt").read_text().split()} for part in ("val", "test")}


def test_a_role_of_a_named_split(kvasir):
    assert set(read_images("kvasir-seg:cpd:report").ids) == kvasir["test"]
    assert set(read_images("kvasir-seg:cpd:select").ids) == kvasir["val"]
    assert set(read_images("kvasir-seg:cpd-300:report").ids) == kvasir["test"] | kvasir["val"]
    assert len(read_images("kvasir-seg:cpd-300:fit")) == 600


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("kvasir-seg:cpd:reprt", "no role 'reprt'; did you mean 'report'?; there are: fit, select, report"),
        ("kvasir-seg:fitt", "no role 'fitt'; did you mean 'fit'?"),
        ("kvasir-seg:cdp:fit", "no named split 'cdp'; did you mean 'cpd'?; there are: cpd, cpd-300"),
        ("kvasir-seg:cpd", "names a split and no role; write kvasir-seg:cpd:fit"),
        ("kvasir-seg:cpd:fit:1", "has 4 parts; write NAME, NAME:ROLE or NAME:SPLIT:ROLE"),
        ("kvasir:cpd:fit", "no dataset 'kvasir'; did you mean 'kvasir-seg'"),
        ("phantom:cpd:fit", "is a split of kvasir-seg"),
        ("here:and/there", "does not exist"),
        ("0123456789", "No stored result starts with '0123456789'"),
        ("01234", "no dataset '01234'"),
    ],
)
@pytest.mark.parametrize("metric", ["sifid", "sim"])
def test_a_place_that_is_not_there_is_one_sentence(kvasir, command, metric, place, told):
    answer = command("metrics", metric, place, place)
    assert answer.code == 1
    assert told in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def test_a_path_comes_before_a_role_and_before_a_key(pictures, monkeypatch):
    root, images, _ = pictures
    monkeypatch.chdir(root)
    for name in ("phantom:fit", "phantom", "abcdef01"):
        shutil.copytree(root / "set", root / name)
        found = read_images(name)
        np.testing.assert_array_equal(np.stack(found.images[:]), images)
        assert found.lineage is None
        assert len(read_masks(name)) == 7


KEYS = {
    "sample": ["abcdef" + "0" * 58, "abcdef" + "1" * 58],
    "refine": ["fedcba" + "0" * 58],
    "fit": ["123456" * 10, "abcdef1" + "2" * 57],
}


@pytest.fixture
def store(pictures):
    """Stored results: two samples whose keys start alike, a refinement, and two fits, one as a sample starts."""
    _, images, masks = pictures
    store = Store()
    for kind, keys in KEYS.items():
        for position, key in enumerate(keys):
            work = store.work_folder(key)
            work.mkdir(parents=True)
            if kind == "fit":
                # What a fit shows while it trains must not be measured in place of what it makes.
                (work / "images" / "samples").mkdir(parents=True)
                Image.fromarray(images[0]).save(work / "images" / "samples" / "1.png")
            else:
                made = PairSet(
                    images[position:], masks[position:], *(tuple(f"gan/{i}" for i in range(position, 7)),) * 2,
                    tuple(frozenset({f"d/{6 - i}"}) for i in range(position, 7)),
                )  # fmt: skip
                made.save(work / "pairs")
            store.commit(kind, key, {"kind": kind, "label": f"{kind} number {position}"})
    return store


@pytest.mark.parametrize("start", ["abcdef1", KEYS["sample"][1], "fedcba", "fedcba" + "0" * 30])
def test_a_stored_result_by_the_start_of_its_key(store, pictures, start):
    _, images, masks = pictures
    first = 1 if start.startswith("abcdef1") else 0
    found = read_images(start)
    np.testing.assert_array_equal(found.images, images[first:])
    assert found.ids[0] == f"gan/{first}"
    assert found.lineage[0] == frozenset({f"d/{6 - first}"})
    np.testing.assert_array_equal(read_masks(start).masks, masks[first:])


def test_a_key_that_another_result_stands_for(store, pictures):
    key = "77" * 32
    (store.root / "accepted").mkdir(parents=True)
    (store.root / "accepted" / key).write_text(KEYS["refine"][0])
    np.testing.assert_array_equal(read_images(key).images, pictures[1])


def test_a_dataset_comes_before_a_key(store, kvasir, pictures):
    shutil.copytree(data_folder() / "kvasir-seg", data_folder() / "fedcba")
    assert len(read_images("fedcba")) == 1000


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("abcdef", "2 stored results start with 'abcdef': abcdef000000 (sample number 0); abcdef111111 (sample number"),
        ("123456", "123456123456 is the result of a fit stage, which has no pairs; give the result of a refine or"),
        ("fedcbaa", "No stored result starts with 'fedcbaa'"),
    ],
)
def test_a_key_that_means_no_pairs_or_several_is_one_sentence(store, command, place, told):
    for metric in ("fid", "sim", "sifid"):
        answer = command("metrics", metric, place, place)
        assert answer.code == 1
        assert told in answer.err
        assert answer.err.count("\n") == 1


def test_the_folder_of_a_fit_has_no_pictures_to_measure(store):
    with pytest.raises(DataError, match="result of a fit stage, which has no pairs"):
        read_images(str(store.result_folder("fit", KEYS["fit"][0])))


def test_damaged_pairs_are_named(store):
    folder = store.result_folder("refine", KEYS["refine"][0]) / "pairs"
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:300])
    with pytest.raises(DataError, match=r"fedcba0+ are damaged"):
        read_images("fedcba")


def test_stored_results_are_matched_by_lineage_not_by_name(store, pictures, tmp_path):
    """Number i was made from real number 6 - i, whatever is called ``i``."""
    root, images, _ = pictures
    turned = [(6 - i, i) for i in range(7)]
    assert matched(read_images(str(root / "stage")), read_images("fedcba")) == turned
    assert matched(read_images(str(root / "set")), read_images("fedcba")) == turned
    for i in range(7):
        Image.fromarray(images[6 - i]).save(root / "set" / "images" / f"{i}.png")
    assert run("sifid", root / "set", "fedcba", "--json")["sifid"] == pytest.approx(0, abs=1e-6)
    assert run("sifid", root / "stage", "fedcba", "--json")["sifid"] > 1e-3


def described(names, lineage=None):
    images = np.zeros((len(names), 16, 16, 3), np.uint8)
    return Pictures(tuple(names), images, lineage=None if lineage is None else tuple(map(frozenset, lineage)))


@pytest.mark.parametrize(
    ("real", "synthetic", "pairs"),
    [
        (described(["d/a", "d/b"]), described(["g/0", "g/1"], [{"d/b"}, {"d/a"}]), [(1, 0), (0, 1)]),
        (
            described(["a", "b"]),
            described(["g/0", "g/1", "g/2"], [{"d/b"}, {"d/a"}, {"d/b"}]),
            [(1, 0), (0, 1), (1, 2)],
        ),
        (described(["d/a", "d/b"]), described(["b", "a_1", "b_0002"]), [(1, 0), (0, 1), (1, 2)]),
        (described(["d/a_1", "d/a"]), described(["a_1", "a_2"]), [(0, 0), (1, 1)]),
    ],
)
def test_ids_and_bare_names_are_matched(real, synthetic, pairs):
    assert matched(real, synthetic) == pairs


@pytest.mark.parametrize(
    ("synthetic", "told"),
    [
        (
            described(["g/0", "g/1"], [{"d/a"}, {"d/a", "d/b"}]),
            "1 of 2 synthetic ones .* 'g/1', made from 2",
        ),
        (described(["g/0"], [set()]), "'g/0', made from 0"),
        (described(["g/0", "g/1"], [{"e/a"}, {"d/a"}]), "1 of 2 .* not among those given, such as 'e/a'"),
        (described(["c_1", "a"]), "1 synthetic pictures have no real one of their name, such as 'c_1'"),
    ],
)
def test_what_cannot_be_matched_is_said(synthetic, told):
    with pytest.raises(HarnessError, match=told):
        matched(described(["d/a", "d/b"]), synthetic)


def test_two_real_pictures_of_one_name(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / folder / "a.png")
    with pytest.raises(HarnessError, match="Two real pictures are called 'a'"):
        run("sifid", tmp_path, tmp_path / "x")


@pytest.fixture
def sampled(temp_study, tmp_path):
    """A folder that ``harness generator sample`` wrote, from a generator that names one source a pair."""
    common = ["--data", "twelve", "--size", "32", "--no-track", "--executor", "in-process"]
    assert temp_study.command("generator", "fit", "resample", *common).code == 0
    folder = tmp_path / "made"
    answer = temp_study.command("generator", "sample", "--from", "fit resample", "-n", "10", "--out", str(folder))
    assert answer.code == 0, answer.err
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, Path("made") / file.relative_to(folder))
    return folder


@pytest.mark.parametrize("place", ["made", "made.zip", "made/images"])
def test_samples_are_matched_by_the_lineage_in_their_manifest(sampled, place):
    manifest = json.loads((sampled / "manifest.json").read_text())
    sources = [manifest["lineages"][row["lineage"]] for row in manifest["pairs"]]
    assert len({tuple(source) for source in sources}) > 2
    made = read_images(str(sampled.parent / place))
    assert made.ids == tuple(f"{i:06d}" for i in range(10))
    assert made.lineage == tuple(map(frozenset, sources))
    real = read_images("twelve:fit" if place == "made" else "twelve")
    split = make_splits(open_dataset("twelve"), {"holdout": {"report": 0.3, "select": 0.1}}, 0)[0]
    assert {name for (name,) in sources} <= {f"twelve/{name}" for name in split.ids("fit")}
    assert [(real.ids[i], j) for i, j in matched(real, made)] == [(name, j) for j, (name,) in enumerate(sources)]


def test_sifid_of_samples_through_the_command_line(sampled, command):
    answer = command("metrics", "sifid", "twelve:fit", str(sampled), "--json", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert answer.json["n_synthetic"] == 10
    answer = command("metrics", "sifid", "twelve:report", str(sampled), "--device", "cpu")
    assert (answer.code, answer.out) == (1, "")
    assert "10 of 10 synthetic pictures were made from real ones that are not among those given" in answer.err


@pytest.mark.parametrize(
    "manifest",
    [b"{", b"\xff", b"[]", b"{}", b'{"lineages": [["d/1"]], "pairs": [{"id": "g/0", "lineage": 0}]}',
     b'{"lineages": [["d/1"]], "pairs": [{"id": "g/0", "lineage": 3}]}', b'{"lineages": 3, "pairs": 4}'],
)  # fmt: skip
def test_a_manifest_of_another_program_or_of_other_pictures_says_nothing(pictures, manifest):
    root, *_ = pictures
    (root / "set" / "manifest.json").write_bytes(manifest)
    assert read_images(str(root / "set")).lineage is None
    assert run("sifid", root / "set", root / "set", "--json")["sifid"] == pytest.approx(0, abs=1e-6)


def place_with(folder, **pictures):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for name, content in pictures.items():
            if isinstance(content, bytes):
                (folder / kind / f"{name}.png").write_bytes(content)
            elif kind == "images":
                noise = np.random.default_rng(ord(name)).integers(0, 256, (content[1], content[0], 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / kind / f"{name}.png")
            else:
                Image.new("L", content, 255).save(folder / kind / f"{name}.png")
    return str(folder)


@pytest.mark.parametrize("side", ["real", "synthetic"])
@pytest.mark.parametrize("metric", ["fid", "sim", "sifid"])
def test_every_unreadable_file_is_named_at_once(pictures, command, tmp_path, metric, side):
    root, *_ = pictures
    broken = place_with(tmp_path / "broken", a=(20, 20), b=b"no picture", c=(20, 20), d=b"", e=b"\x89PNG\r\n\x1a\n")
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        for file in Path(broken).rglob("*.png"):
            archive.write(file, file.relative_to(broken))
    for place in (broken, f"{broken}.zip"):
        sides = (place, root / "set") if side == "real" else (root / "set", place)
        answer = command("metrics", metric, *map(str, sides), "--json")
        assert (answer.code, answer.out) == (1, "")
        lines = answer.err.splitlines()
        kind = "masks" if metric == "sim" else "images"
        assert [line.split()[1] for line in lines] == [f"{place}/{kind}/{name}.png" for name in "bde"]


@pytest.mark.parametrize("metric", ["fid", "sifid"])
def test_a_file_that_ends_early_is_named_when_it_is_decoded(pictures, command, tmp_path, metric):
    root, *_ = pictures
    shutil.copytree(root / "set", tmp_path / "cut")
    file = tmp_path / "cut" / "images" / "3.png"
    file.write_bytes(file.read_bytes()[:-200])
    answer = command("metrics", metric, str(root / "set"), str(tmp_path / "cut"), "--device", "cpu")
    assert (answer.code, answer.out) == (1, "")
    assert f"{file} cannot be decoded" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("metric", ["fid", "sim", "sifid"])
def test_nothing_to_measure(pictures, command, tmp_path, metric):
    root, *_ = pictures
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "no picture")
    for place in ("empty", "empty.zip"):
        answer = command("metrics", metric, str(root / "set"), str(tmp_path / place))
        assert (answer.code, answer.out) == (1, "")
        assert f"{place} holds no pictures; give a folder or zip" in answer.err


def test_one_picture_a_side_is_too_few_for_a_distribution_and_enough_for_the_others(command, tmp_path):
    one = place_with(tmp_path / "one", a=(20, 20))
    answer = command("metrics", "fid", one, one)
    assert (answer.code, answer.out) == (1, "")
    assert "one holds one picture; a distribution needs at least two" in answer.err
    answer = command("metrics", "sim", one, one, "--json")
    assert (answer.json["sim"], answer.json["sim-real"]) == (1, None)
    answer = command("metrics", "sifid", one, one, "--json", "--device", "cpu")
    assert answer.json["sifid"] == pytest.approx(0, abs=1e-6)


def test_sizes_matter_where_pixels_are_compared(command, tmp_path):
    small = place_with(tmp_path / "small", a=(20, 20), b=(20, 20))
    large = place_with(tmp_path / "large", a=(24, 30), b=(24, 30))
    mixed = place_with(tmp_path / "mixed", a=(20, 20), b=(24, 30), c=(20, 20), d=(9, 9))
    tiny = place_with(tmp_path / "tiny", a=(9, 9), b=(9, 9))
    for metric in ("fid", "sifid"):
        for sides in ((small, large), (mixed, small) if metric == "fid" else (mixed, large)):
            answer = command("metrics", metric, *sides, "--json", "--device", "cpu")
            assert answer.code == 0, answer.err
    assert "at least 16 pixels" in command("metrics", "sifid", small, tiny, "--device", "cpu").err
    answer = command("metrics", "sim", small, large)
    assert "the real masks are (20, 20) (height, width) and the synthetic ones (30, 24)" in answer.err
    lines = command("metrics", "sim", small, mixed).err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{mixed}/masks/{name}.png" for name in "bd"]


@pytest.fixture
def large_zip(tmp_path):
    """Forty pictures of noise in one zip, and what each shows."""
    draw = np.random.default_rng(1)
    images = draw.integers(0, 256, (40, 40, 40, 3), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{i:02d}.png")
    return tmp_path / "large.zip", images


def test_a_zip_is_opened_once_and_read_by_several_threads(large_zip, monkeypatch):
    place, images = large_zip
    opened, waiting, most = Counter(), [], []

    class Counting(zipfile.ZipFile):
        def __init__(self, file, *arguments, **options):
            opened[str(file)] += 1
            super().__init__(file, *arguments, **options)

        def open(self, *arguments, **options):
            waiting.append(None)
            most.append(len(waiting))
            time.sleep(0.0005)
            waiting.pop()
            return super().open(*arguments, **options)

    monkeypatch.setattr(zipfile, "ZipFile", Counting)
    found = read_images(str(place))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 10))
    started = threading.Barrier(8)

    def decode(part):
        started.wait()
        return [np.array_equal(found.images[int(i)], images[i]) for i in part]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(same) for same in pool.map(decode, np.array_split(order, 8)))
    found.images.content_key()
    assert opened == {str(place): 1}
    assert max(most) == 1


def test_damaged_members_and_passwords_are_named(large_zip, command):
    """Bits flipped in compressed data, at its end and its start, a flag that asks for a password, and a cut."""
    place, _ = large_zip
    content = bytearray(place.read_bytes())
    with zipfile.ZipFile(place) as archive:
        starts = {name: archive.getinfo(name).header_offset for name in ("05.png", "06.png")}
    for name, offset in (("05.png", 200), ("06.png", 30 + len("06.png"))):
        content[starts[name] + offset] ^= 0x07
        place.write_bytes(content)
        answer = command("metrics", "fid", str(place), str(place), "--device", "cpu")
        assert (answer.code, answer.out) == (1, "")
        assert f"{place}/{name} cannot be" in answer.err
    central = content.rindex(b"PK\x01\x02")
    for offset in (content.rindex(b"PK\x03\x04") + 6, central + 8):
        content[offset] |= 1
    place.write_bytes(content)
    answer = command("metrics", "sim", str(place), str(place))
    assert (answer.code, answer.out) == (1, "")
    assert f"{place}/39.png cannot be read" in answer.err
    assert "password" in answer.err
    place.write_bytes(content[: central - 10] + content[central:])
    answer = command("metrics", "fid", str(place), str(place))
    assert (answer.code, answer.out) == (1, "")
    assert f"{place} is" in answer.err


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * (2**28 + 1))
    with pytest.raises(DataError, match=r"bomb\.png cannot be read \(it would unpack to more than 256 MiB\)"):
        read_images(str(tmp_path / "bomb.zip"))


def test_keys_of_files_follow_their_content_and_order(pictures):
    root, *_ = pictures
    key = read_images(str(root / "set")).images.content_key()
    assert read_images(str(root / "set.zip")).images.content_key() == key
    first, second = (root / "set" / "images" / f"{i}.png" for i in (0, 1))
    for old, new in ((first, root / "swap"), (second, first), (root / "swap", second)):
        old.rename(new)
    assert read_images(str(root / "set")).images.content_key() != key
    Image.new("RGB", (20, 24)).save(second)
    assert read_images(str(root / "set")).images.content_key() != key


def test_keys_of_a_dataset_need_no_file(temp_study):
    whole, part = read_images("twelve"), read_images("twelve:fit")
    key = whole.images.content_key()
    keys = {key, part.images.content_key()}
    shutil.rmtree(data_folder() / "twelve" / "images")
    assert read_images("twelve").images.content_key() == key
    assert len(keys) == 2
    with pytest.raises(DataError, match=r"twelve/frame00: .*import twelve again"):
        whole.images[0]


def test_masks_keep_their_order_and_every_problem_its_place(tmp_path):
    (tmp_path / "many").mkdir()
    for i in range(30):
        mask = np.zeros((8, 8), np.uint8)
        mask.flat[i] = 255
        Image.fromarray(mask).save(tmp_path / "many" / f"{i:02d}.png")
    found = read_masks(str(tmp_path / "many"))
    assert found.ids == tuple(f"{i:02d}" for i in range(30))
    assert found.masks.dtype == np.uint8
    assert [int(i) for i in found.masks.reshape(30, -1).argmax(axis=1)] == list(range(30))
    for i in (4, 11, 29):
        (tmp_path / "many" / f"{i:02d}.png").write_bytes(b"no mask")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(tmp_path / "many" / "17.png")
    with pytest.raises(DataError) as caught:
        read_masks(str(tmp_path / "many"))
    assert [Path(problem.split()[0]).stem for problem in caught.value.problems] == ["04", "11", "17", "29"]


@pytest.fixture
def drawn():
    rng = np.random.default_rng(1)
    return {f"frame-{i}": (rng.random((12, 10)) < 0.4) for i in range(4)}


def write(folder, masks, suffix=".png", high=255, low=0):
    folder.mkdir()
    for name, mask in masks.items():
        Image.fromarray(np.where(mask, high, low).astype(np.uint8)).save(folder / f"{name}{suffix}")
    return str(folder)


def test_predictions_are_matched_by_name_in_any_format_of_any_two_values(tmp_path, drawn):
    predicted = {name: np.roll(mask, 1, axis=0) for name, mask in drawn.items()}
    found = read_predictions(
        write(tmp_path / "p", predicted, ".bmp", 1),
        write(tmp_path / "t", dict(reversed(drawn.items())), high=200, low=50),
    )
    for side, masks in zip(found, (predicted, drawn), strict=True):
        np.testing.assert_array_equal(np.stack(side), np.stack(list(masks.values())).astype(np.uint8))


def test_predictions_of_several_sizes_in_a_zip_as_jpeg_in_colour(tmp_path):
    smooth = {"a": np.pad(np.ones((16, 16), bool), 24), "b": np.zeros((64, 48), bool)}
    with zipfile.ZipFile(tmp_path / "true.zip", "w") as archive:
        for name, mask in smooth.items():
            picture = tmp_path / f"{name}.jpg"
            Image.fromarray(np.repeat(np.uint8(mask)[..., None] * 255, 3, axis=2)).save(picture, quality=85)
            archive.write(picture, f"masks/{name}.jpg")
            archive.writestr(f"__MACOSX/masks/._{name}.jpg", b"not an image")
    predicted, true = read_predictions(write(tmp_path / "p", smooth), str(tmp_path / "true.zip"))
    for one, other, mask in zip(predicted, true, smooth.values(), strict=True):
        np.testing.assert_array_equal(one, mask)
        np.testing.assert_array_equal(other, mask)


def test_every_problem_of_predictions_is_named_at_once(tmp_path, drawn, command):
    predicted, true = Path(write(tmp_path / "p", drawn)), write(tmp_path / "t", drawn)
    (predicted / "frame-0.png").rename(predicted / "frame-O.png")
    Image.fromarray(np.zeros((5, 10), np.uint8)).save(predicted / "frame-1.png")
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(12, 10) * 2).save(predicted / "frame-2.png")
    (predicted / "frame-3.png").write_bytes(b"broken")
    answer = command("metrics", "segmentation", str(predicted), true)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 5
    assert f"frame-0: {predicted} has no prediction of that name; did you mean 'frame-O'?" in answer.err
    assert f"frame-O: {true} has no true mask of that name; did you mean 'frame-0'?" in answer.err
    assert "frame-1: the predicted mask is 10x5 pixels and the true one 10x12" in answer.err
    assert "frame-2.png is not a binary mask" in answer.err
    assert "frame-3.png is not a picture that can be read" in answer.err


def test_missing_and_empty_places_and_equal_names_of_predictions(tmp_path, drawn):
    full = write(tmp_path / "full", drawn)
    with pytest.raises(DataError, match="does not exist"):
        read_predictions(str(tmp_path / "absent"), full)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        read_predictions(str(tmp_path / "empty"), full)
    (tmp_path / "full" / "again").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "full" / "again" / "frame-0.png")
    with pytest.raises(DataError, match="have the same name 'frame-0'"):
        read_predictions(full, full)


def test_predictions_are_scored_against_a_dataset_at_their_own_size(temp_study, tmp_path, command):
    truth = open_dataset("twelve").decode(24)
    (tmp_path / "made").mkdir()
    for name, mask in zip(truth.ids, truth.masks, strict=True):
        Image.fromarray(mask * np.uint8(255)).save(tmp_path / "made" / f"{name.partition('/')[2]}.png")
    answer = command("metrics", "segmentation", str(tmp_path / "made"), "twelve", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["iou"] == {"micro": 1.0, "micro-imagewise": 1.0}
