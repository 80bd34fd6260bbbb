"""Looking at an imported dataset again, and writing it out for others."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.data import decoding, duplicates
from harness.data.datasets import Dataset, PhantomDataset
from harness.data.entry import Entry
from harness.data.importing import content_hash
from harness.data.lineage import MANIFEST, manifest_of
from harness.errors import DataError

Progress = Callable[[int, int], None]


def check_dataset(dataset: Dataset, progress: Progress | None = None) -> list[str]:
    """Read and decode every file of a dataset and find its near-duplicates again.

    Returns:
        One sentence a problem, with the id; empty when the dataset is sound.
    """
    problems: list[str] = []
    work = decoding.in_threads(lambda index: _check_entry(dataset, dataset.entries[index]), range(len(dataset)))
    for done, found in enumerate(work, start=1):
        problems += found
        if progress:
            progress(done, len(dataset))
    groups = {entry.id: entry.group for entry in dataset.entries}
    # A phantom's frames all differ by construction; its patients are given.
    linked = [] if isinstance(dataset, PhantomDataset) else duplicates.pairs_within(dataset.thumbnails())
    for i, j, _ in linked:
        first, second = dataset.entries[i].id, dataset.entries[j].id
        if groups[first] != groups[second]:
            problems.append(f"{first} and {second} show the same frame but are in different groups.")
    return problems


def _check_entry(dataset: Dataset, entry: Entry) -> list[str]:
    try:
        image, mask = dataset.native_files(entry)
    except DataError as error:
        return [str(error)]
    # A phantom is hashed by its recipe, not by its pixels.
    if not isinstance(dataset, PhantomDataset) and content_hash(image, mask) != entry.sha256:
        return [f"{entry.id}: its image or mask has changed since the import (SHA-256 differs)."]
    try:
        with decoding.open_picture(io.BytesIO(image)) as picture:
            decoding.to_rgb(picture).load()
            size = picture.size
        with decoding.open_picture(io.BytesIO(mask)) as picture:
            shape = decoding.binarise(picture).shape
    except DataError as error:
        return [f"{entry.id}: {error}."]
    return [] if size == shape[::-1] else [f"{entry.id}: its image and mask differ in size."]


def export_dataset(dataset: Dataset, out: Path, progress: Progress | None = None) -> None:
    """Write ``images/``, ``masks/`` and ``groups.csv`` to a new folder, or to a new zip when ``out`` ends in ``.zip``.

    Of samples there is a ``manifest.json`` too, which says what they were made from.

    What is written can be imported with ``harness data import folder --groups groups.csv``; ``out`` appears complete
    or not at all.

    Raises:
        DataError: ``out`` exists already.
    """
    if out.exists():
        raise DataError(f"{out} exists already; give a new folder or zip.")
    with decoding.staging_folder(out.absolute().parent) as staging:
        if out.suffix.lower() == ".zip":
            packed = staging / out.name
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # pictures are packed already
                for path, content in _exported(dataset, progress):
                    archive.writestr(path, content)
            packed.replace(out)
            return
        for path, content in _exported(dataset, progress):
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_bytes(content)
        if not decoding.put_in_place(staging, out):
            raise DataError(f"{out} exists already; give a new folder or zip.")


def _exported(dataset: Dataset, progress: Progress | None) -> Iterator[tuple[str, bytes]]:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["id", "group"])
    for done, entry in enumerate(dataset.entries, start=1):
        image, mask = dataset.native_files(entry)
        yield entry.image, image
        yield entry.mask, mask
        writer.writerow([entry.id, entry.group])
        if progress:
            progress(done, len(dataset))
    yield "groups.csv", table.getvalue().encode()
    if dataset.lineages:
        yield MANIFEST, json.dumps(manifest_of(dataset.name, dataset.made_from)).encode()
