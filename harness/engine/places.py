"""Pictures to measure, wherever they are.

A place is what ``harness metrics`` calls REAL and SYNTHETIC:

* a folder or a zip of pictures; with the manifest that ``harness generator sample`` writes, they have a lineage;
* a dataset, ``NAME``, or the images of one role, ``NAME:SPLIT:ROLE`` or, of the split that a study has when it says
  nothing, ``NAME:ROLE``;
* a stored stage result with pairs, by its folder or by its key (the first six digits or more).

What exists on the disk comes first, then datasets, then keys.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.data.lineage import MANIFEST, lineages_in
from harness.engine.stages import kinds
from harness.engine.stages.pool import PoolStage
from harness.errors import DataError, nearest
from harness.metrics.inputs.image_files import (
    PLACES,
    Found,
    PictureFile,
    PictureFiles,
    as_mask,
    files_at,
    on_disk,
    pictures_among,
)
from harness.metrics.inputs.pictures import Pictures, bare_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from harness.data.datasets import Dataset
    from harness.data.entry import Entry
    from harness.data.pairs import PairSet
    from harness.store.results import Result

_MASK_SIDE = 256  # pixels a side at which the masks of a dataset are compared
_KEY = re.compile(r"[0-9a-f]{6,64}")


def _sampled_lineage(found: Found, where: str, names: Sequence[str]) -> tuple[frozenset[str], ...] | None:
    """Return the lineage that ``harness generator sample`` wrote beside its pictures; None when it made not all."""
    manifests = [file for path, file in found if path.name == MANIFEST]
    place = Path(where).expanduser()
    if place.name == "images" and (beside := place.parent / MANIFEST).is_file():
        manifests.append(on_disk(beside))
    if len(manifests) != 1:
        return None
    try:
        by_name = lineages_in(manifests[0].read())
        return tuple(by_name[name] for name in names)
    except (ValueError, TypeError, AttributeError, LookupError):  # another program's manifest, or of other pictures
        return None


def _names_a_dataset(where: str) -> bool:
    return not Path(where).expanduser().exists() and "/" not in where


def _part(where: str) -> tuple[Dataset, list[Entry]]:
    """Open the dataset that ``NAME``, ``NAME:ROLE`` or ``NAME:SPLIT:ROLE`` names, with the entries that are meant.

    Raises:
        DataError: there is no such dataset, split or role.
    """
    from harness.data.datasets import open_dataset
    from harness.data.splits import ROLES, make_splits, named_splits
    from harness.study.schema import DatasetDeclaration

    name, *words = where.split(":")
    dataset = open_dataset(name)
    if not words:
        return dataset, list(dataset.entries)
    *split, role = words
    if len(split) > 1:
        raise DataError(f"{where!r} has {len(words) + 1} parts; write NAME, NAME:ROLE or NAME:SPLIT:ROLE.")
    if role in named_splits() and not split:
        raise DataError(f"{where!r} names a split and no role; write {', '.join(f'{where}:{r}' for r in ROLES)}.")
    if role not in ROLES:
        raise DataError(f"{where!r}: there is no role {role!r}{nearest(role, ROLES)}; there are: {', '.join(ROLES)}.")
    declared = DatasetDeclaration(name=name)
    way = {"named": split[0]} if split else declared.split.declaration()
    ids = set(make_splits(dataset, way, declared.seed)[0].ids(role))
    return dataset, [entry for entry in dataset.entries if entry.id in ids]


def _images_of_dataset(where: str) -> Pictures:
    dataset, entries = _part(where)

    def opener(entry: Entry) -> Callable[[], BinaryIO]:
        return lambda: io.BytesIO(dataset.native_files(entry)[0])

    ids = [f"{dataset.name}/{entry.id}" for entry in entries]
    files = [PictureFile(i, i, opener(entry), entry.sha256) for i, entry in zip(ids, entries, strict=True)]
    return Pictures(tuple(ids), PictureFiles(files), lineage=tuple(frozenset({i}) for i in ids))


def _stored(where: str) -> PairSet | None:
    """Open the pairs of a stored stage result, by its folder or its key, or those that are saved in a folder.

    Raises:
        DataError: it holds no pairs, they are damaged, or a key means no result or several.
    """
    from harness.data.datasets import INDEX
    from harness.data.pairs import PairSet
    from harness.home import data_folder
    from harness.store.results import result_in

    place = Path(where).expanduser()
    is_key = not place.exists() and _KEY.fullmatch(where) and not (data_folder() / where / INDEX).is_file()
    result = _result_of_key(where) if is_key else result_in(place)
    try:
        if result is not None:
            return _pool_kind(result).read(result).pairs
        return PairSet.load(place) if all(file.is_file() for file in PairSet.files(place)) else None
    except (OSError, ValueError, LookupError) as error:
        folder = result.folder if result else place
        raise DataError(f"The pairs in {folder} are damaged ({error}); make them again.") from None


def _pool_kinds() -> dict[str, type[PoolStage]]:
    """Return the kinds of stages whose results have pairs, by name."""
    return {name: found.thing for name, found in kinds().items() if issubclass(found.thing, PoolStage)}


def _pool_kind(result: Result) -> type[PoolStage]:
    """Return the kind of a result that has pairs.

    Raises:
        DataError: it has none.
    """
    kind, having = result.record["kind"], _pool_kinds()
    if kind not in having:
        raise DataError(
            f"{result.key[:12]} is the result of a {kind} stage, which has no pairs; "
            f"give the result of a {' or '.join(having)} stage."
        )
    return having[kind]


def _result_of_key(start: str) -> Result:
    """Return the one stored result with pairs whose key starts so.

    Raises:
        DataError: there is none, or several.
    """
    from harness.store.results import Store

    store, having = Store(), _pool_kinds()
    found = [result for result in store.results() if result.key.startswith(start)]
    # A key that --accept-code lets another result stand for has no folder of its own.
    found = found or [result for kind in having if (result := store.find(kind, start))]
    fitting = [result for result in found if result.record["kind"] in having]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        shown = "; ".join(f"{r.key[: len(start) + 6]} ({r.record['label']})" for r in fitting[:8])
        raise DataError(f"{len(fitting)} stored results start with {start!r}: {shown}; give more digits.")
    if found:
        _pool_kind(found[0])
    raise DataError(f"No stored result starts with {start!r}, and no folder, zip or dataset is called so; {PLACES}.")


def read_images(where: str) -> Pictures:
    """Find the images of a place; files are decoded later, but their first bytes are looked at now.

    Args:
        where: a folder, a zip, a dataset or a role of one, or a stored result, as the module says.

    Raises:
        DataError: there is no such place, it holds no pictures, or some that cannot be read (all are named).
    """
    pairs = _stored(where)
    if pairs is not None:
        return Pictures(pairs.ids, pairs.images, lineage=pairs.lineage)
    if _names_a_dataset(where):
        return _images_of_dataset(where)
    found = files_at(where)
    files = pictures_among(found, "images", where)
    problems = [problem for file in files if (problem := file.problem())]
    if problems:
        raise DataError(problems)
    names = tuple(file.name for file in files)
    return Pictures(names, PictureFiles(files), lineage=_sampled_lineage(found, where, names))


def read_both_masks(real: str, synthetic: str) -> tuple[Pictures, Pictures]:
    """Read two sets of masks that are to be compared; a dataset's come at the size that the other set has.

    Raises:
        DataError: as :func:`read_masks`.
    """
    if _is_dataset(real) and not _is_dataset(synthetic):
        made = read_masks(synthetic)
        return read_masks(real, _square_side(made.masks.shape[1:])), made
    originals = read_masks(real)
    return originals, read_masks(synthetic, _square_side(originals.masks.shape[1:]))


def _is_dataset(where: str) -> bool:
    return _names_a_dataset(where) and _stored(where) is None


def _square_side(shape: Sequence[int]) -> int:
    """Return the side of square masks; datasets can be had in no other shape."""
    height, width = shape
    return height if height == width else _MASK_SIDE


def read_masks(where: str, side: int = _MASK_SIDE) -> Pictures:
    """Read the masks of a place.

    Args:
        where: as for :func:`read_images`.
        side: of the masks of a dataset, which may natively have any sizes, in pixels.

    Raises:
        DataError: there is no such place, it holds no pictures, some are no masks, or they are of different sizes (all
            are named).
    """
    pairs = _pairs_of(where, side)
    if pairs is not None:
        return Pictures(pairs.ids, masks=pairs.masks, lineage=pairs.lineage)
    found = files_at(where)
    files = pictures_among(found, "masks", where)
    problems: list[str] = []
    names: list[str] = []
    masks: list[NDArray[np.uint8]] = []
    for file, mask in zip(files, _decoded_masks(files), strict=True):
        if isinstance(mask, DataError):
            problems += mask.problems
        elif masks and mask.shape != masks[0].shape:
            problems.append(
                f"{file.shown} is {mask.shape[1]}x{mask.shape[0]} pixels, but {names[0]} is "
                f"{masks[0].shape[1]}x{masks[0].shape[0]}; bring all masks to one size."
            )
        else:
            names.append(file.name)
            masks.append(mask)
    if problems:
        raise DataError(problems)
    return Pictures(tuple(names), masks=np.stack(masks), lineage=_sampled_lineage(found, where, names))


def read_predictions(predicted: str, true: str) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Read predicted masks and the true ones, matched by name: file names without extension, or ids.

    Pairs may be of different sizes, both masks of a pair must have one. A dataset's masks come at the size that the
    predictions have.

    Args:
        predicted: as for :func:`read_images`.
        true: the same.

    Returns:
        Predicted and true masks uint8 (H, W) in {0, 1}, in the order of their names.

    Raises:
        DataError: there is no such place, it holds no pictures, a mask has no partner or two have one name, sizes
            differ, or some are no masks; all such problems at once.
    """
    problems: list[str] = []
    predictions = _masks_by_name(predicted, _MASK_SIDE, problems)
    shapes = {mask.shape for mask in predictions.values() if not isinstance(mask, DataError)}
    truths = _masks_by_name(true, _square_side(shapes.pop()) if len(shapes) == 1 else _MASK_SIDE, problems)
    missing, surplus = sorted(set(truths) - set(predictions)), sorted(set(predictions) - set(truths))
    problems += [f"{n}: {predicted} has no prediction of that name{nearest(n, surplus)}." for n in missing]
    problems += [f"{n}: {true} has no true mask of that name{nearest(n, missing)}." for n in surplus]
    pairs = []
    for name in sorted(set(predictions) & set(truths)):
        one, other = predictions[name], truths[name]
        if isinstance(one, DataError) or isinstance(other, DataError):
            problems += [problem for mask in (one, other) if isinstance(mask, DataError) for problem in mask.problems]
        elif one.shape != other.shape:
            problems.append(
                f"{name}: the predicted mask is {one.shape[1]}x{one.shape[0]} pixels and the true one "
                f"{other.shape[1]}x{other.shape[0]}; resize the predictions to the size of the truth."
            )
        else:
            pairs.append((one, other))
    if problems:
        raise DataError(problems)
    return [one for one, _ in pairs], [other for _, other in pairs]


def _masks_by_name(where: str, side: int, problems: list[str]) -> dict[str, NDArray[np.uint8] | DataError]:
    """Return the masks of a place by bare name, or what is wrong with one; tell of names that stand twice."""
    pairs = _pairs_of(where, side)
    if pairs is not None:
        return {bare_name(name): mask for name, mask in zip(pairs.ids, pairs.masks, strict=True)}
    files = pictures_among(files_at(where), "masks", where)
    found: dict[str, NDArray[np.uint8] | DataError] = {}
    first: dict[str, str] = {}
    for file, mask in zip(files, _decoded_masks(files), strict=True):
        if file.name in found:
            problems.append(f"{file.shown} and {first[file.name]} have the same name {file.name!r}; keep one of them.")
        found.setdefault(file.name, mask)
        first.setdefault(file.name, file.shown)
    return found


def _pairs_of(where: str, side: int) -> PairSet | None:
    """Return the pairs of a stored result, or those of a dataset at a size; None for a folder or a zip."""
    pairs = _stored(where)
    if pairs is None and _names_a_dataset(where):
        dataset, entries = _part(where)
        return dataset.decode(side).select(f"{dataset.name}/{entry.id}" for entry in entries)
    return pairs


def read_pairs(where: str, side: int) -> PairSet:
    """Read the pairs of a place, images and masks, as squares of one size.

    A folder or zip has folders ``images`` and ``masks``, with pictures of the same names.

    Args:
        where: as for :func:`read_images`.
        side: of the squares, pixels; pictures of other shapes are squashed (``harness.data.decoding``).

    Raises:
        DataError: there is no such place, an image has no mask or a mask no image, or some cannot be read (all are
            named).
    """
    from harness.data.pairs import PairSet

    pairs = _stored(where)
    if pairs is not None:
        return _resized(pairs, side)
    if _names_a_dataset(where):
        dataset, entries = _part(where)
        return dataset.decode(side).select(f"{dataset.name}/{entry.id}" for entry in entries)
    found = files_at(where)
    files = {kind: {f.name: f for f in pictures_among(found, kind, where)} for kind in ("images", "masks")}
    images, masks = files["images"], files["masks"]
    if any(file.shown == masks[name].shown for name, file in images.items() if name in masks):
        raise DataError(f"{where} has no folders images and masks; give the folder or zip that holds both.")
    alone = [f"{name} is an image without a mask" for name in sorted(set(images) - set(masks))]
    alone += [f"{name} is a mask without an image" for name in sorted(set(masks) - set(images))]
    if alone:
        raise DataError([f"{where}: {problem}; add what is missing or take it out." for problem in alone])
    names = tuple(images)
    pictures = [images[name].decode(partial(_square_image, side=side)) for name in names]
    drawn = [masks[name].decode(partial(_square_mask, side=side)) for name in names]
    lineage = _sampled_lineage(found, where, names) or tuple(frozenset({name}) for name in names)
    return PairSet(np.stack(pictures), np.stack(drawn), names, names, lineage)


def _resized(pairs: PairSet, side: int) -> PairSet:
    """Return pairs as squares of one size."""
    from PIL import Image

    from harness.data.pairs import PairSet

    if pairs.size == (side, side):
        return pairs
    images = np.stack([_square_image(Image.fromarray(image), side) for image in pairs.images])
    masks = np.stack([_square_mask(Image.fromarray(mask * np.uint8(255)), side) for mask in pairs.masks])
    return PairSet(images, masks, pairs.ids, pairs.groups, pairs.lineage)


def _square_image(picture: Image, side: int) -> NDArray[np.uint8]:
    from harness.data.decoding import resize_image, to_rgb

    return resize_image(to_rgb(picture), side, "squash")


def _square_mask(picture: Image, side: int) -> NDArray[np.uint8]:
    from harness.data.decoding import binarise, resize_mask

    return resize_mask(binarise(picture), side, "squash")


def _decoded_masks(files: Sequence[PictureFile]) -> Iterator[NDArray[np.uint8] | DataError]:
    """Decode masks in a few threads; yield each, or what is wrong with it, in order."""
    from harness.data.decoding import in_threads

    def decode(index: int) -> NDArray[np.uint8] | DataError:
        try:
            return files[index].decode(as_mask)
        except DataError as error:
            return error

    return in_threads(decode, range(len(files)))
