"""Everything that can be wrong with a folder or a zip, one case each: the sentence, and that nothing is left behind."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import phantom
from harness.data.checking import check_dataset, export_dataset
from harness.data.datasets import available, open_dataset
from harness.data.importing import import_dataset
from harness.errors import DataError
from harness.home import data_folder

Break = Callable[[Path], None]


def pack(root: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(root).as_posix())
    return target


def fail(origin: Path, **options: object) -> list[str]:
    """Import, expect it to fail, and return the problems; nothing may be left."""
    with pytest.raises(DataError) as caught:
        import_dataset("folder", origin, **{"name": "mine", **options})
    assert not data_folder().exists() or list(data_folder().iterdir()) == []
    assert not caught.value.__cause__
    return caught.value.problems


def save_mask(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def truncate(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


BROKEN: dict[str, tuple[Break, str, str]] = {
    "missing mask": (lambda r: (r / "masks/frame1.png").unlink(), "images/frame1.png", "has no mask"),
    "missing image": (lambda r: (r / "images/frame1.png").unlink(), "masks/frame1.png", "has no image"),
    "sizes differ": (
        lambda r: save_mask(r / "masks/frame1.png", np.zeros((48, 47))),
        "masks/frame1.png",
        "47x48 pixels but its image frame1.png 48x48",
    ),
    "truncated image": (lambda r: truncate(r / "images/frame1.png"), "images/frame1.png", "truncated"),
    "truncated mask": (lambda r: truncate(r / "masks/frame1.png", 0.7), "masks/frame1.png", "cannot be decoded"),
    "empty file": (lambda r: (r / "images/frame1.png").write_bytes(b""), "images/frame1.png", "not a picture"),
    "text": (lambda r: (r / "images/frame1.png").write_text("no picture"), "images/frame1.png", "not a picture"),
    "mask of three values": (
        lambda r: save_mask(r / "masks/frame1.png", np.tile(np.arange(48) // 16 * 100, (48, 1))),
        "masks/frame1.png",
        "not a binary mask",
    ),
    "image as mask": (
        lambda r: (r / "masks/frame1.png").write_bytes((r / "images/frame1.png").read_bytes()),
        "masks/frame1.png",
        "not a binary mask",
    ),
    "duplicate image": (
        lambda r: Image.open(r / "images/frame1.png").save(r / "images/frame1.jpg"),
        "frame1",
        "several images have this id (frame1.jpg, frame1.png)",
    ),
    "duplicate mask": (
        lambda r: Image.open(r / "masks/frame1.png").save(r / "masks/frame1.bmp"),
        "frame1",
        "several masks have this id",
    ),
    "pixel bomb": (
        lambda r: Image.new("1", (9_000, 8_000)).save(r / "images/frame1.png"),
        "images/frame1.png",
        "bomb",
    ),
    "several frames": (
        lambda r: Image.new("L", (48, 48)).save(
            r / "images/frame1.png", save_all=True, append_images=[Image.new("L", (48, 48), 9)], default_image=False
        ),
        "images/frame1.png",
        "holds 2 frames",
    ),
    "floats": (
        lambda r: [
            Image.fromarray(np.random.default_rng(0).random((48, 48)).astype(np.float32)).save(r / "images/frame1.tif"),
            (r / "images/frame1.png").unlink(),
        ],
        "images/frame1.tif",
        "32-bit pixels",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_bad_file_is_named_and_nothing_is_left(kind, packed, write_dataset, tmp_path):
    root = write_dataset()
    spoil, file, sentence = BROKEN[kind]
    spoil(root)
    problems = fail(pack(root, tmp_path / "origin.zip") if packed else root)
    assert len(problems) == 2, problems
    assert "1 problem." in problems[0]
    assert problems[1].startswith(f"{file}: ")
    assert sentence in problems[1]


def test_truncated_jpeg_is_found_however_little_is_missing(write_dataset):
    root = write_dataset()
    for share in (0.2, 0.6, 0.95):
        Image.fromarray(phantom.render(0, 0, 48)[0]).save(root / "images" / "frame1.jpg", quality=90)
        (root / "images/frame1.png").unlink(missing_ok=True)
        truncate(root / "images/frame1.jpg", share)
        assert fail(root)[1].startswith("images/frame1.jpg: ")


def test_all_problems_are_reported_at_once(write_dataset):
    root = write_dataset(count=6)
    (root / "masks/frame0.png").unlink()
    (root / "images/frame1.png").unlink()
    truncate(root / "images/frame2.png")
    save_mask(root / "masks/frame2.png", np.tile(np.arange(48) * 5, (48, 1)))
    save_mask(root / "masks/frame3.png", np.zeros((9, 9)))
    problems = fail(root)
    assert "5 problems" in problems[0]
    assert sorted(problem.partition(":")[0] for problem in problems[1:]) == [
        "images/frame0.png",
        "images/frame2.png",
        "masks/frame1.png",
        "masks/frame2.png",
        "masks/frame3.png",
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../outside.png", "climbs out"),
        ("images/../../outside.png", "climbs out"),
        ("/outside.png", "absolute"),
        ("C:\\outside.png", "absolute"),
        ("..\\outside.png", "climbs out"),
    ],
)
def test_zip_that_climbs_out_is_refused(name, sentence, write_dataset, tmp_path):
    archive = pack(write_dataset(), tmp_path / "bad.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, b"x")
    problems = fail(archive)
    assert sentence in problems[1]
    assert repr(name.replace("\\", "/"))[1:-1].split("/")[-1] in problems[1].replace("\\\\", "/")
    assert not list(tmp_path.rglob("outside.png"))


def test_zip_with_a_link_is_refused(write_dataset, tmp_path):
    archive = pack(write_dataset(), tmp_path / "bad.zip")
    member = zipfile.ZipInfo("images/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(member, "/etc/hostname")
    assert "symbolic link" in fail(archive)[1]


def test_zip_bomb_is_refused_before_it_unpacks(write_dataset, tmp_path):
    archive = pack(write_dataset(), tmp_path / "bad.zip")
    with (
        zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened,
        opened.open("images/zeros.png", "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(bytes(1 << 20))
    [_, problem] = fail(archive)
    assert "images/zeros.png" in problem
    assert "decompression bomb" in problem


def test_encrypted_zip_is_refused(write_dataset, tmp_path):
    archive = pack(write_dataset(), tmp_path / "bad.zip")
    content = bytearray(archive.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1
    archive.write_bytes(bytes(content))
    assert "is encrypted; unpack the archive with its password" in fail(archive)[1]


def test_damaged_member_is_named(write_dataset, tmp_path):
    root, archive = write_dataset(), tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(root.rglob("*.png")):
            opened.write(path, path.relative_to(root).as_posix())
    content = archive.read_bytes()
    pixels = (root / "images/frame1.png").read_bytes()
    at = content.index(pixels) + len(pixels) // 2
    archive.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    assert fail(archive)[1].startswith("images/frame1.png: is damaged in the archive")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and then nothing"])
def test_what_is_no_zip_is_refused(content, tmp_path):
    (tmp_path / "bad.zip").write_bytes(content)
    assert "neither a folder nor a zip" in fail(tmp_path / "bad.zip")[0]


def test_cut_off_zip_is_refused(write_dataset, tmp_path):
    archive = pack(write_dataset(), tmp_path / "bad.zip")
    truncate(archive, 0.9)
    assert "get it again" in fail(archive)[0]


def test_places_without_pictures(tmp_path, write_dataset):
    (tmp_path / "empty").mkdir()
    assert "is empty" in fail(tmp_path / "empty")[0]
    assert "There is no file or folder" in fail(tmp_path / "nowhere")[0]
    (tmp_path / "text/images").mkdir(parents=True)
    (tmp_path / "text/masks").mkdir()
    (tmp_path / "text/images/a.txt").write_text("a")
    (tmp_path / "text/masks/a.txt").write_text("a")
    assert "there are no pictures in images" in fail(tmp_path / "text")[0]


def test_folders_that_cannot_be_told(write_dataset, tmp_path):
    root = write_dataset()
    assert "cannot lie in one folder" in fail(root, images="images", masks="images")[0]
    assert "did you mean 'masks'" in fail(root, images="images", masks="mask")[0]
    assert "Give both folders" in fail(root, images="images")[0]
    (root / "images").rename(root / "pictures")
    assert "it has: masks, pictures" in fail(root)[0]
    write_dataset(folder="twice/a")
    write_dataset(folder="twice/b")
    assert "several image folders (a/images and b/images)" in fail(tmp_path / "twice")[0]


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        ("folder", None, "add --name"),
        ("kvasir", "x", "did you mean 'kvasir-seg'"),
        ("phantom", None, "built in"),
        ("folder", "../x", "cannot be used"),
        ("folder", "kvasir-seg", "belongs to a built-in source"),
    ],
)
def test_wrong_names(source, name, sentence, write_dataset):
    with pytest.raises(DataError, match=sentence.replace("(", r"\(")):
        import_dataset(source, write_dataset(), name=name)


LAYOUTS = {
    "kvasir-seg": ("Kvasir-SEG/images", "Kvasir-SEG/masks"),
    "hyperkvasir": ("segmented-images/images", "segmented-images/masks"),
    "cvc-clinicdb": ("CVC-ClinicDB/Original", "CVC-ClinicDB/Ground Truth"),
    "etis-larib": ("ETIS/images", "ETIS/masks"),
}


@pytest.mark.parametrize("source", LAYOUTS)
def test_official_layouts_are_found(source, write_dataset, tmp_path):
    root, archive = write_dataset(), tmp_path / "official.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for kind, folder in zip(("images", "masks"), LAYOUTS[source], strict=True):
            for path in (root / kind).iterdir():
                opened.write(path, f"{folder}/{path.name}")
        opened.writestr("labeled-images/images/other.jpg", b"not for us")
        opened.writestr("__MACOSX/images/._frame0.png", b"nor this")
    sentences: list[str] = []
    dataset = import_dataset(source, archive, say=sentences.append)
    assert dataset.ids == ("frame0", "frame1", "frame2")
    assert any("was published with" in sentence for sentence in sentences)
    assert [summary.imported for summary in available() if summary.name == source] == [True]


def test_files_are_kept_byte_for_byte_and_facts_are_right(write_dataset):
    root = write_dataset()
    dataset = import_dataset("folder", root, name="mine")
    for entry in dataset.entries:
        assert dataset.native_files(entry) == (
            (root / "images" / f"{entry.id}.png").read_bytes(),
            (root / "masks" / f"{entry.id}.png").read_bytes(),
        )
        truth = np.asarray(Image.open(root / "masks" / f"{entry.id}.png")) > 0
        assert (entry.width, entry.height, entry.polyp_fraction) == (48, 48, pytest.approx(truth.mean(), abs=1e-6))
    assert open_dataset("mine") == dataset
    assert check_dataset(dataset) == []


def test_masks_may_have_names_of_their_own_and_folders_may_nest(write_dataset, tmp_path):
    root = write_dataset()
    for path in list((root / "masks").iterdir()):
        (root / "images/masks").mkdir(exist_ok=True)
        path.rename(root / "images/masks" / f"{path.stem}_mask.png")
    (root / "images/patient").mkdir()
    (root / "images/masks/patient").mkdir()
    (root / "images/frame0.png").rename(root / "images/patient/frame0.png")
    (root / "images/masks/frame0_mask.png").rename(root / "images/masks/patient/frame0_mask.png")
    dataset = import_dataset("folder", root, name="mine", images="images", masks="images/masks")
    assert dataset.ids == ("frame1", "frame2", "patient/frame0")
    assert dataset.decode(16).ids[2] == "mine/patient/frame0"


def test_same_content_again_is_a_no_op_and_other_content_an_error(write_dataset, tmp_path):
    first = import_dataset("folder", write_dataset(), name="mine")
    before = sorted((path, path.stat().st_mtime_ns) for path in first.folder.rglob("*"))
    sentences: list[str] = []
    archive = pack(write_dataset(), tmp_path / "again.zip", prefix="elsewhere/")
    again = import_dataset("folder", archive, name="mine", say=sentences.append)
    assert again.fingerprint == first.fingerprint
    assert "imported already" in sentences[-1]
    with pytest.raises(DataError, match="choose another name with --name"):
        import_dataset("folder", write_dataset(4, "other"), name="mine")
    assert sorted((path, path.stat().st_mtime_ns) for path in first.folder.rglob("*")) == before
    assert [path.name for path in first.folder.parent.iterdir()] == ["mine"]


def test_fingerprint_is_of_ids_contents_and_groups_not_of_places(write_dataset, tmp_path):
    base = import_dataset("folder", write_dataset(), name="one").fingerprint
    assert import_dataset("folder", write_dataset(), name="two").fingerprint == base
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\nframe0,a\nframe1,a\nframe2,b\n")
    assert import_dataset("folder", write_dataset(), name="three", groups=groups).fingerprint != base
    other = write_dataset(folder="other")
    pixels = np.asarray(Image.open(other / "masks/frame0.png")).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    save_mask(other / "masks/frame0.png", pixels)
    assert import_dataset("folder", other, name="four").fingerprint != base


def test_given_groups_and_near_duplicates_join(write_dataset, tmp_path):
    root = write_dataset(count=4)
    Image.open(root / "images/frame3.png").save(root / "images/copy.jpg", quality=85)
    (root / "masks/copy.png").write_bytes((root / "masks/frame3.png").read_bytes())
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\nframe0,p1\nframe1,p1\nframe2,p2\nframe3.png,p2\ncopy,p9\n")
    dataset = import_dataset("folder", root, name="mine", groups=groups)
    assert {entry.id: entry.group for entry in dataset.entries} == {
        "copy": "p2",
        "frame0": "p1",
        "frame1": "p1",
        "frame2": "p2",
        "frame3": "p2",
    }
    assert [(pair.first, pair.second) for pair in dataset.near_duplicates] == [("copy", "frame3")]


def test_problems_of_a_groups_file(write_dataset, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\nframe0,a\nframe0,b\nframe9,a\nframe1,\n")
    problems = fail(write_dataset(), groups=groups)
    assert problems[1:] == [
        "groups.csv, line 3: 'frame0' is in group 'b' and in 'a'.",
        "groups.csv, line 4: there is no image 'frame9'.",
        "groups.csv, line 5: 'frame1' has no group.",
        "frame1: groups.csv gives it no group.",
        "frame2: groups.csv gives it no group.",
    ]
    groups.write_text("name,patient\nframe0,a\n")
    assert "columns id and group" in fail(write_dataset(), groups=groups)[0]


def test_import_that_dies_half_way_leaves_nothing(write_dataset, monkeypatch, home):
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.data.importing.write_index", die)
    with pytest.raises(KeyboardInterrupt):
        import_dataset("folder", write_dataset(), name="mine")
    assert list((home / "data").iterdir()) == []


def test_check_finds_what_happened_since(write_dataset):
    dataset = import_dataset("folder", write_dataset(count=4), name="mine")
    truncate(dataset.folder / "images/frame1.png", 0.9)
    (dataset.folder / "masks/frame2.png").unlink()
    problems = check_dataset(dataset)
    assert len(problems) == 2
    assert problems[0].startswith("frame1: its image or mask has changed")
    assert "frame2" in problems[1]


def test_index_changed_by_hand_is_refused(write_dataset):
    dataset = import_dataset("folder", write_dataset(), name="mine")
    index = dataset.folder / "dataset.json"
    index.write_text(index.read_text().replace('"group": "frame1"', '"group": "frame0"'))
    with pytest.raises(DataError, match="changed by hand"):
        open_dataset("mine")


@pytest.mark.parametrize("target", ["out", "out.zip"])
def test_export_and_import_come_back_to_the_same_dataset(target, tmp_path, write_dataset):
    groups = tmp_path / "groups.csv"
    groups.write_text("id,group\nframe0,a\nframe1,a\nframe2,b\n")
    dataset = import_dataset("folder", write_dataset(), name="mine", groups=groups)
    export_dataset(dataset, tmp_path / target)
    exported = tmp_path / "groups-again.csv"
    if target.endswith("zip"):
        with zipfile.ZipFile(tmp_path / target) as archive:
            exported.write_bytes(archive.read("groups.csv"))
    else:
        exported.write_bytes((tmp_path / target / "groups.csv").read_bytes())
    again = import_dataset("folder", tmp_path / target, name="again", groups=exported)
    assert again.fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match="exists already"):
        export_dataset(dataset, tmp_path / target)


def test_phantom_can_be_exported_and_imported(tmp_path):
    phantoms = open_dataset("phantom", count=2)
    export_dataset(phantoms, tmp_path / "out")
    dataset = import_dataset("folder", tmp_path / "out", name="mine")
    assert dataset.ids == phantoms.ids
    assert (dataset.entries[0].width, dataset.entries[0].height) == (512, 512)
    native = np.asarray(Image.open(tmp_path / "out/masks/0-000000.png"))
    assert dataset.entries[0].polyp_fraction == pytest.approx((native > 0).mean(), abs=1e-6)


def test_missing_dataset_says_which_command_brings_it():
    with pytest.raises(DataError, match="harness data import kvasir-seg --from PATH"):
        open_dataset("kvasir-seg")
    with pytest.raises(DataError, match="did you mean 'phantom'"):
        open_dataset("phanton")
    with pytest.raises(DataError, match="no dataset"):
        open_dataset("../data")


def test_groups_of_an_earlier_rule_are_kept_and_what_is_new_is_named(write_dataset, monkeypatch):
    root = write_dataset(count=4)
    Image.open(root / "images/frame3.png").transpose(Image.Transpose.ROTATE_90).save(root / "images/turned.png")
    Image.open(root / "masks/frame3.png").transpose(Image.Transpose.ROTATE_90).save(root / "masks/turned.png")
    with monkeypatch.context() as earlier:
        earlier.setattr("harness.data.duplicates.pairs_within", lambda stack: [])
        dataset = import_dataset("folder", root, name="mine")
    assert open_dataset("mine").fingerprint == dataset.fingerprint
    assert check_dataset(dataset) == ["frame3 and turned show the same frame but are in different groups."]
    with pytest.raises(DataError, match=r"same images and masks but in other groups.*newer rule"):
        import_dataset("folder", root, name="mine")


def write_manifest(root: Path, lineages: dict[str, list[str]], **more: object) -> None:
    rows = [{"id": f"paint/{name}", "lineage": i} for i, name in enumerate(lineages)]
    (root / "manifest.json").write_text(json.dumps({"lineages": list(lineages.values()), "pairs": rows} | more))


def test_samples_keep_what_they_were_made_from(write_dataset, tmp_path):
    root = write_dataset()
    lineages = {"frame0": ["d/a", "d/b"], "frame1": ["d/a", "d/b"], "frame2": ["d/c"]}
    write_manifest(root, lineages)
    said: list[str] = []
    dataset = import_dataset("folder", root, name="mine", say=said.append)
    assert open_dataset("mine").made_from == {name: frozenset(ids) for name, ids in lineages.items()}
    assert "the 3 real images behind them" in said[0]
    packed = import_dataset("folder", pack(root, tmp_path / "made.zip", "inside/"), name="packed")
    assert packed.made_from == dataset.made_from
    export_dataset(dataset, tmp_path / "out")
    assert import_dataset("folder", tmp_path / "out", name="again").fingerprint == dataset.fingerprint


def test_samples_of_another_lineage_are_another_dataset(write_dataset):
    root = write_dataset()
    plain = import_dataset("folder", root, name="plain")
    assert plain.made_from == {}
    write_manifest(root, {key: ["d/a"] for key in plain.ids})
    made = import_dataset("folder", root, name="made")
    write_manifest(root, {key: ["d/b"] for key in plain.ids})
    other = import_dataset("folder", root, name="other")
    assert len({plain.fingerprint, made.fingerprint, other.fingerprint}) == 3
    with pytest.raises(DataError, match="another lineage"):
        import_dataset("folder", root, name="made")


def test_samples_of_samples_are_followed_to_the_real_images(write_dataset):
    root = write_dataset()
    write_manifest(root, {"frame0": ["d/a"], "frame1": ["d/b"], "frame2": ["d/c"]})
    import_dataset("folder", root, name="first")
    write_manifest(root, {key: ["first/frame0", "first/frame2", "e/x"] for key in ("frame0", "frame1", "frame2")})
    second = import_dataset("folder", root, name="second")
    assert second.made_from["frame1"] == {"first/frame0", "first/frame2", "d/a", "d/c", "e/x"}


def test_samples_that_do_not_say_what_they_were_made_from_are_refused(write_dataset):
    root = write_dataset()
    write_manifest(root, {"frame0": ["d/a"], "frame2": ["d/a"]})
    [_, problem] = fail(root)
    assert problem.startswith("frame1: manifest.json does not say what it was made from")
    rows = [{"id": f"paint/frame{i}", "seed": i} for i in range(3)]
    (root / "manifest.json").write_text(json.dumps({"fit": "1234", "checkpoint": 10, "pairs": rows}))
    [_, problem] = fail(root)
    assert "not from which real ones" in problem


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"name": "an app", "icons": []}'])
def test_the_manifest_of_another_program_is_left_alone(write_dataset, content):
    root = write_dataset()
    (root / "manifest.json").write_text(content)
    assert import_dataset("folder", root, name="mine").made_from == {}
