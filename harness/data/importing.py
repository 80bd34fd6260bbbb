"""Bringing a dataset in: every file is checked, every problem is reported, and nothing is half-imported."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from harness.data import decoding, duplicates
from harness.data.archives import Origin, open_origin
from harness.data.datasets import INDEX, THUMBNAILS, Dataset, NearDuplicate, fingerprint_of, read_index, write_index
from harness.data.entry import Entry
from harness.data.lineage import MANIFEST, lineages_in, tells_of_samples
from harness.data.sources import COMMON_LAYOUTS, FOLDER, PHANTOM, SOURCES, Source
from harness.errors import DataError, nearest
from harness.home import data_folder

Say = Callable[[str], None]
Progress = Callable[[int, int], None]

#: Endings and beginnings by which datasets tell a mask's name from its image's (``frame_mask.png``, ``pframe.tif``).
_MASK_AFFIX = re.compile(
    r"^(?:mask[_-]|p)|[_-](?:mask|masks|segmentation|seg|label|labels|gt|groundtruth)$", re.IGNORECASE
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class _Candidate:
    """An image and a mask that belong together by name."""

    id: str
    image: PurePosixPath
    mask: PurePosixPath


@dataclass(frozen=True)
class _Checked:
    """What a candidate turned out to be: an entry (not yet grouped) with its thumbnail, or problems."""

    entry: Entry | None
    thumbnail: NDArray[np.uint8] | None
    problems: tuple[str, ...] = ()


def import_dataset(
    source: str,
    origin: Path,
    name: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    groups: Path | None = None,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
) -> Dataset:
    """Import a zip or a folder of images and masks.

    Images and masks pair up by file name without extension; files are kept byte for byte. Importing the same content
    again changes nothing and says so.

    Args:
        source: a known source, or ``folder`` for anything.
        origin: zip or folder; it is only read.
        name: of the dataset; the source's own by default, needed for ``folder``.
        images: folder of the images inside the origin, when it is not found by itself.
        masks: folder of the masks.
        groups: CSV with the columns ``id`` and ``group`` (patient, video); it must name every image.
        progress: called with pairs checked and their total.
        say: takes sentences for the user that are not errors.

    Returns:
        The dataset, ready to use.

    Raises:
        DataError: something is wrong with the files (one line each, with the file's name), or the name is taken by
            other content. Nothing of the import is left then.
    """
    known, name = _resolve_name(source, name)
    target = data_folder() / name
    with open_origin(origin) as opened:
        image_folder, mask_folder = _find_folders(opened, origin, known, images, masks)
        candidates, problems, ignored = _pair_up(opened.files(), image_folder, mask_folder)
        if not candidates and not problems:
            raise DataError(f"Nothing was imported: there are no pictures in {image_folder} of {origin}.")
        _require_room(opened, origin)
        given, group_problems = _read_groups(groups, [candidate.id for candidate in candidates])
        made_from, lineage_problems = _read_lineages(opened, image_folder, [candidate.id for candidate in candidates])
        with decoding.staging_folder(data_folder()) as staging:
            checked = _check_all(opened, candidates, staging, progress)
            problems += (
                group_problems + lineage_problems + [problem for result in checked for problem in result.problems]
            )
            if problems:
                count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
                raise DataError([f"Nothing was imported from {origin}: {count}.", *problems])
            dataset = _index(checked, given, made_from, known, name, staging)
            fresh = decoding.put_in_place(staging, target) if not target.exists() else False
    _report(dataset, known, ignored, say)
    return read_index(target) if fresh else _same_or_error(dataset, target, say)


def _resolve_name(source: str, name: str | None) -> tuple[Source | None, str]:
    if source == PHANTOM:
        raise DataError("The dataset 'phantom' is built in and needs no import.")
    if source != FOLDER and source not in SOURCES:
        offered = [*SOURCES, FOLDER]
        raise DataError(f"There is no source {source!r}{nearest(source, offered)}; there are: {', '.join(offered)}.")
    if not name and source == FOLDER:
        raise DataError("A folder of your own needs a name; add --name NAME.")
    name = name or source
    if not _NAME.fullmatch(name):
        raise DataError(
            f"The name {name!r} cannot be used; take lower-case letters, digits, dots, dashes and underscores, such "
            f"as 'my-polyps'."
        )
    if name != source and name in (*SOURCES, PHANTOM, FOLDER):
        raise DataError(f"The name {name!r} belongs to a built-in source; choose another with --name.")
    return SOURCES.get(source), name


def _ends_with(folder: PurePosixPath, wanted: str) -> bool:
    ending = tuple(part.casefold() for part in PurePosixPath(wanted).parts)
    return tuple(part.casefold() for part in folder.parts)[-len(ending) :] == ending


def _find_folders(
    origin: Origin, path: Path, source: Source | None, images: str | None, masks: str | None
) -> tuple[PurePosixPath, PurePosixPath]:
    """Find the image folder and the mask folder: as given, else by the source's layouts, else by common names."""
    files = origin.files()
    if not files:
        raise DataError(f"Nothing was imported: {path} is empty.")
    folders = sorted(
        {parent for file in files for parent in file.parents}, key=lambda folder: (len(folder.parts), folder)
    )
    shown = ", ".join(str(folder) for folder in folders[1:13]) or "no folders, only files"
    if images or masks:
        if not (images and masks):
            raise DataError("Give both folders, --images DIR and --masks DIR, or neither.")
        found = _given_folder(folders, images, path, shown), _given_folder(folders, masks, path, shown)
        if found[0] == found[1]:
            raise DataError(
                f"Images and masks cannot lie in one folder, but both are {str(found[0])!r} in {path}; separate them."
            )
        return found
    for image_name, mask_name in source.layouts if source else COMMON_LAYOUTS:
        found_pairs = [
            (first, second)
            for first in folders
            for second in folders
            if _ends_with(first, image_name)
            and _ends_with(second, mask_name)
            and first.parts[: -len(PurePosixPath(image_name).parts)]
            == second.parts[: -len(PurePosixPath(mask_name).parts)]
        ]
        shallowest = [pair for pair in found_pairs if len(pair[0].parts) == len(found_pairs[0][0].parts)]
        if len(shallowest) == 1:
            return shallowest[0]
        if shallowest:
            several = " and ".join(str(first) for first, _ in shallowest[:3])
            raise DataError(
                f"{path} has several image folders ({several}); say which with --images DIR and --masks DIR."
            )
    raise DataError(
        f"{path} has no folders of images and masks that can be told by their names (it has: {shown}); name them "
        f"with --images "
        "DIR and --masks DIR."
    )


def _given_folder(folders: Sequence[PurePosixPath], wanted: str, path: Path, shown: str) -> PurePosixPath:
    exact = PurePosixPath(wanted)
    if exact in folders:
        return exact
    found = [folder for folder in folders if _ends_with(folder, wanted)]
    if len(found) > 1:
        raise DataError(
            f"{path} has several folders {wanted!r} ({', '.join(map(str, found[:3]))}); give a longer path."
        )
    if not found:
        raise DataError(f"{path} has no folder {wanted!r}{nearest(wanted, list(map(str, folders)))}; it has: {shown}.")
    return found[0]


def _pictures(
    files: Iterable[PurePosixPath], folder: PurePosixPath, other: PurePosixPath
) -> tuple[dict[str, list[PurePosixPath]], list[PurePosixPath]]:
    """Return pictures under ``folder`` by id (path without extension), and the files there that are none."""
    pictures: dict[str, list[PurePosixPath]] = defaultdict(list)
    ignored = []
    for file in files:
        inside = file.is_relative_to(folder)
        # One of the two folders may lie within the other.
        if not inside or (other != folder and other.is_relative_to(folder) and file.is_relative_to(other)):
            continue
        if file.suffix.lower() in decoding.EXTENSIONS:
            pictures[file.relative_to(folder).with_suffix("").as_posix()].append(file)
        else:
            ignored.append(file)
    return pictures, ignored


def _pair_up(
    files: Sequence[PurePosixPath], image_folder: PurePosixPath, mask_folder: PurePosixPath
) -> tuple[list[_Candidate], list[str], list[PurePosixPath]]:
    """Pair images and masks by name; return pairs, a problem for each file without a partner, and other files."""
    images, ignored = _pictures(files, image_folder, mask_folder)
    found, ignored_masks = _pictures(files, mask_folder, image_folder)
    masks: dict[str, list[PurePosixPath]] = defaultdict(list)
    for name, paths in found.items():
        path = PurePosixPath(name)
        bare = path.with_name(_MASK_AFFIX.sub("", path.name) or path.name).as_posix()
        masks[name if name in images or bare not in images else bare] += paths
    problems, candidates = [], []
    for name, paths in sorted(images.items()):
        partners = masks.get(name, [])
        if len(paths) > 1:
            problems.append(f"{name}: several images have this id ({', '.join(p.name for p in paths)}); keep one.")
        elif not partners:
            problems.append(f"{paths[0]}: has no mask in {mask_folder}.")
        elif len(partners) > 1:
            problems.append(f"{name}: several masks have this id ({', '.join(p.name for p in partners)}); keep one.")
        else:
            candidates.append(_Candidate(name, paths[0], partners[0]))
    problems += [
        f"{paths[0]}: has no image in {image_folder}." for name, paths in sorted(masks.items()) if name not in images
    ]
    return candidates, problems, [*ignored, *ignored_masks]


def _require_room(opened: Origin, origin: Path) -> None:
    data_folder().mkdir(parents=True, exist_ok=True)
    needed, free = opened.total_bytes(), shutil.disk_usage(data_folder()).free
    if needed > free:
        raise DataError(
            f"{origin} needs up to {needed / 1e9:.1f} GB but {data_folder()} has {free / 1e9:.1f} GB free; make "
            f"room, or move "
            "HARNESS_HOME to a larger disk."
        )


def _read_groups(path: Path | None, ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read a groups file; return the group of each id and the problems found."""
    if path is None:
        return {}, []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The groups file {path} cannot be read ({error}); give a CSV with the columns id and group."
        ) from None
    if not rows or not {"id", "group"} <= set(rows[0]):
        raise DataError(f"The groups file {path} must be a CSV with the columns id and group and at least one row.")
    known, problems = set(ids), []
    given: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, group = (row["id"] or "").strip(), (row["group"] or "").strip()
        name = name if name in known else PurePosixPath(name).with_suffix("").as_posix()
        if name not in known:
            problems.append(f"{path.name}, line {number}: there is no image {row['id']!r}.")
        elif not group:
            problems.append(f"{path.name}, line {number}: {name!r} has no group.")
        elif given.setdefault(name, group) != group:
            problems.append(f"{path.name}, line {number}: {name!r} is in group {group!r} and in {given[name]!r}.")
    return given, problems + [f"{name}: {path.name} gives it no group." for name in ids if name not in given]


def _read_lineages(
    opened: Origin, image_folder: PurePosixPath, ids: Sequence[str]
) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Read the manifest that lies beside samples; return what each image was made from, and the problems found.

    Real images have none. What a lineage names of a dataset of samples is followed to what that was made from.
    """
    folders = (image_folder, *image_folder.parents)
    beside = next((folder / MANIFEST for folder in folders if folder / MANIFEST in opened.files()), None)
    if beside is None or not tells_of_samples(content := opened.read(beside)):
        return {}, []
    try:
        named = lineages_in(content)
    except (ValueError, TypeError, AttributeError, LookupError):
        return {}, [
            f"{beside}: says that a generator made these images, but not from which real ones, so that the leak guard "
            "could not know; make them again with harness generator sample."
        ]
    found = {name: named.get(name) for name in ids}
    problems = [
        f"{name}: {beside} does not say what it was made from; import images that it does not name by themselves."
        for name, lineage in found.items()
        if lineage is None
    ]
    known = {lineage: _followed(lineage) for lineage in set(found.values()) if lineage is not None}
    return {name: known[lineage] for name, lineage in found.items() if lineage is not None}, problems


def _followed(lineage: frozenset[str]) -> frozenset[str]:
    """Return a lineage with what those of its images that are samples themselves were made from."""
    whole = set(lineage)
    for name in {one.partition("/")[0] for one in lineage}:
        if (data_folder() / name / INDEX).is_file():
            made_from = read_index(data_folder() / name).made_from
            whole.update(*(made_from.get(one.partition("/")[2], ()) for one in lineage if one.startswith(f"{name}/")))
    return frozenset(whole)


def _check_all(
    opened: Origin, candidates: Sequence[_Candidate], staging: Path, progress: Progress | None
) -> list[_Checked]:
    checked = []
    work = decoding.in_threads(lambda index: _check(opened, candidates[index], staging), range(len(candidates)))
    for result in work:
        checked.append(result)
        if progress:
            progress(len(checked), len(candidates))
    return checked


def _check(opened: Origin, candidate: _Candidate, staging: Path) -> _Checked:
    """Read, decode, compare and keep one pair."""
    problems, contents = [], []
    for path in (candidate.image, candidate.mask):
        try:
            contents.append(opened.read(path))
        except DataError as error:
            problems.append(f"{path}: {error}.")
    if problems:
        return _Checked(None, None, tuple(problems))
    image_size = mask_size = thumbnail = mask = None
    try:
        with decoding.open_picture(io.BytesIO(contents[0])) as picture:
            image_size, thumbnail = picture.size, duplicates.thumbnail(decoding.to_rgb(picture))
    except DataError as error:
        problems.append(f"{candidate.image}: {error}.")
    try:
        with decoding.open_picture(io.BytesIO(contents[1])) as picture:
            mask_size, mask = picture.size, decoding.binarise(picture)
    except DataError as error:
        problems.append(f"{candidate.mask}: {error}.")
    if image_size and mask_size and image_size != mask_size:
        sizes = "{}x{} pixels but its image {} {}x{}".format(*mask_size, candidate.image.name, *image_size)
        problems.append(f"{candidate.mask}: has {sizes}; they must agree.")
    if problems or image_size is None or thumbnail is None or mask is None:
        return _Checked(None, None, tuple(problems))
    kept = []
    for kind, path, content in zip(("images", "masks"), (candidate.image, candidate.mask), contents, strict=True):
        kept.append(f"{kind}/{candidate.id}{path.suffix}")
        (staging / kept[-1]).parent.mkdir(parents=True, exist_ok=True)
        (staging / kept[-1]).write_bytes(content)
    entry = Entry(
        id=candidate.id,
        image=kept[0],
        mask=kept[1],
        width=image_size[0],
        height=image_size[1],
        polyp_fraction=round(float(mask.mean()), 6),
        group=candidate.id,
        fingerprint=duplicates.perceptual_hash(thumbnail),
        sha256=content_hash(contents[0], contents[1]),
    )
    return _Checked(entry, thumbnail)


def content_hash(image: bytes, mask: bytes) -> str:
    """Return the SHA-256 of a pair's two files: of the SHA-256 of each, so that the border between them counts."""
    return hashlib.sha256(hashlib.sha256(image).digest() + hashlib.sha256(mask).digest()).hexdigest()


def _index(
    checked: Sequence[_Checked],
    given: dict[str, str],
    made_from: dict[str, frozenset[str]],
    source: Source | None,
    name: str,
    staging: Path,
) -> Dataset:
    """Find near-duplicates, make groups, and write the index and the thumbnails; entries are sorted by id already."""
    results = sorted(
        ((result.entry, result.thumbnail) for result in checked if result.entry and result.thumbnail is not None),
        key=lambda result: result[0].id,
    )
    bare = [entry for entry, _ in results]
    stack = np.stack([thumbnail for _, thumbnail in results])
    linked = duplicates.pairs_within(stack)
    groups = duplicates.join_groups([given.get(entry.id, entry.id) for entry in bare], [(i, j) for i, j, _ in linked])
    entries = tuple(Entry(**{**vars(entry), "group": group}) for entry, group in zip(bare, groups, strict=True))
    lineages = tuple(made_from[entry.id] for entry in entries) if made_from else ()
    dataset = Dataset(
        name=name,
        title=source.title if source else name,
        licence=source.licence if source else "not stated",
        citation=source.citation if source else "not stated",
        folder=data_folder() / name,
        entries=entries,
        fingerprint=fingerprint_of(entries, lineages),
        source=source.name if source else FOLDER,
        near_duplicates=tuple(NearDuplicate(bare[i].id, bare[j].id, score) for i, j, score in linked),
        given_groups=bool(given),
        lineages=lineages,
    )
    np.save(staging / THUMBNAILS, stack)
    write_index(dataset, staging)
    return dataset


def _same_or_error(dataset: Dataset, target: Path, say: Say) -> Dataset:
    """Return what already lies at ``target`` when it is the same content."""
    if (target / INDEX).is_file():
        existing = read_index(target)
        if existing.fingerprint == dataset.fingerprint:
            say(f"{dataset.name} is imported already, with the same {len(dataset)} pairs; nothing was changed.")
            return existing
        if [(one.id, one.sha256) for one in existing.entries] == [(one.id, one.sha256) for one in dataset.entries]:
            raise DataError(
                f"{dataset.name} is imported already, with the same images and masks but in other groups or of another "
                "lineage: --groups or a manifest differs, or near-duplicate frames are found by a newer rule now. To "
                f"take the new ones, remove {target} and import it again; what is stored of its studies then stays "
                "behind, since splits and keys know them."
            )
    raise DataError(
        f"There is another dataset {dataset.name!r} with different images, masks or groups in {target}; choose "
        f"another name with "
        "--name, or remove that folder first."
    )


def _report(dataset: Dataset, source: Source | None, ignored: Sequence[PurePosixPath], say: Say) -> None:
    if ignored:
        kinds = Counter(path.suffix or path.name for path in ignored)
        say(f"Left out {len(ignored)} files that are no pictures ({', '.join(sorted(kinds))}).")
    if source and source.published and len(dataset) != source.published:
        say(f"{source.title} was published with {source.published} pairs; this archive has {len(dataset)}.")
    if dataset.lineages:
        behind = len(frozenset().union(*dataset.lineages))
        say(f"A generator made these images: the leak guard knows the {behind} real images behind them.")
    for pair in dataset.near_duplicates:
        say(
            f"{pair.first} and {pair.second} show the same frame (correlation {pair.correlation:.3f}) and share a "
            f"group."
        )
