"""Datasets that are ready to use: imported ones and the embedded phantom.

An imported dataset is a folder ``.harness/data/NAME`` with ``images/`` and ``masks/`` (the files as they came),
``dataset.json`` (the index) and ``thumbnails-64.npy`` (for near-duplicate checks). Nothing heavy is imported until
pixels are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.data.lineage import interned
from harness.data.sources import FOLDER, PHANTOM, SOURCES
from harness.errors import DataError, nearest
from harness.home import data_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.data.pairs import PairSet

from harness.data.entry import Entry

Geometry = Literal["squash", "crop"]
Progress = Callable[[int, int], None]

INDEX = "dataset.json"
THUMBNAILS = "thumbnails-64.npy"
FORMAT = 1


@dataclass(frozen=True)
class NearDuplicate:
    """Two entries of one dataset that show the same frame, and the smallest of their correlations."""

    first: str
    second: str
    correlation: float


@dataclass(frozen=True)
class Summary:
    """One line of ``harness data list``.

    Attributes:
        name: of the dataset.
        title: for people.
        pairs: how many it has (or its official archive has, when it is not imported); None when that is not known.
        imported: whether it can be used now.
        how: how to get it; empty when it is there.
    """

    name: str
    title: str
    pairs: int | None
    imported: bool
    how: str


def fingerprint_of(entries: Sequence[Entry], lineages: Sequence[frozenset[str]] = ()) -> str:
    """Return the SHA-256 over ids, contents and groups of entries sorted by id; paths and names do not matter.

    Args:
        entries: of the dataset.
        lineages: of samples, what each was made from; it counts then.
    """
    rows: list[tuple[Any, ...]] = sorted((entry.id, entry.sha256, entry.group) for entry in entries)
    if lineages:
        made = {entry.id: sorted(lineage) for entry, lineage in zip(entries, lineages, strict=True)}
        rows = [(*row, made[row[0]]) for row in rows]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Real pairs under one name.

    Attributes:
        name: what studies call it.
        title: for people.
        licence: what its authors ask for.
        citation: the paper to cite.
        folder: where its files and caches lie.
        entries: sorted by id.
        fingerprint: SHA-256 over ids, contents and groups.
        source: name of the known source, ``folder`` or ``phantom``.
        near_duplicates: pairs of entries that were found to show the same frame.
        given_groups: whether groups (patient, video) were given.
        lineages: of a folder of samples, the real ids (``dataset/name``) that each entry was made from; else empty.
    """

    name: str
    title: str
    licence: str
    citation: str
    folder: Path
    entries: tuple[Entry, ...]
    fingerprint: str
    source: str = FOLDER
    near_duplicates: tuple[NearDuplicate, ...] = ()
    given_groups: bool = field(default=False, compare=False)
    lineages: tuple[frozenset[str], ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def ids(self) -> tuple[str, ...]:
        """Bare ids, sorted."""
        return tuple(entry.id for entry in self.entries)

    @property
    def made_from(self) -> dict[str, frozenset[str]]:
        """The real ids that each of its samples was made from, by bare id; empty for real pairs."""
        return dict(zip(self.ids, self.lineages, strict=True)) if self.lineages else {}

    def decode(self, size: int, geometry: Geometry = "squash", progress: Progress | None = None) -> PairSet:
        """Return all pairs at one size, decoding them at the first call (``harness.data.decoding`` states the rules).

        Args:
            size: side in pixels, at least 8.
            geometry: ``squash`` the frame to a square, or take the largest centred square (``crop``).
            progress: called with pairs done and their total while decoding.

        Returns:
            Pairs with ids ``NAME/ID``, groups ``NAME/GROUP``, memory-mapped and read-only.

        Raises:
            DataError: a file has disappeared or was damaged since the import, or size or geometry are not allowed.
        """
        from harness.data import decoding
        from harness.data.pairs import PairSet

        if geometry not in ("squash", "crop"):
            raise DataError(f"The geometry must be 'squash' or 'crop', not {geometry!r}.")
        if size < 8:
            raise DataError(f"Pairs cannot be decoded at {size} px; the smallest size is 8.")
        cache = self.folder / "decoded" / f"{self.fingerprint[:16]}-{size}-{geometry}-v{self._pixels_version()}"
        decoder = lambda index: self._decode_entry(self.entries[index], size, geometry)  # noqa: E731
        images, masks = decoding.cached_arrays(cache, len(self), size, decoder, progress)
        ids = [f"{self.name}/{entry.id}" for entry in self.entries]
        return PairSet.real(images, masks, ids, [f"{self.name}/{entry.group}" for entry in self.entries])

    def thumbnails(self) -> NDArray[np.uint8]:
        """Return the grey thumbnails that near-duplicates are found by, uint8 (N, 64, 64).

        They are made at the first call where an import of an earlier version has left none of this size.

        Raises:
            DataError: there are none, and an image that they would be made of is gone or damaged.
        """
        import numpy as np

        from harness.data import decoding

        kept = self.folder / THUMBNAILS
        with suppress(OSError, ValueError):
            return np.load(kept)
        stack = np.stack(
            list(decoding.in_threads(lambda index: self._thumbnail(self.entries[index]), range(len(self))))
        )
        # In a read-only home they are made again next time.
        with suppress(OSError), decoding.staging_folder(self.folder) as staging:
            np.save(staging / THUMBNAILS, stack)
            (staging / THUMBNAILS).replace(kept)
        return stack

    def _thumbnail(self, entry: Entry) -> NDArray[np.uint8]:
        from harness.data import decoding, duplicates

        try:
            with decoding.open_picture(self.folder / entry.image) as picture:
                return duplicates.thumbnail(decoding.to_rgb(picture))
        except (OSError, DataError) as error:
            raise DataError(f"{self.name}/{entry.id}: {error}; run harness data check {self.name}.") from None

    def native_files(self, entry: Entry) -> tuple[bytes, bytes]:
        """Return the contents of an entry's image file and mask file.

        Raises:
            DataError: a file is gone.
        """
        try:
            return (self.folder / entry.image).read_bytes(), (self.folder / entry.mask).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.name}/{entry.id}: {error.filename} cannot be read ({error.strerror}); import {self.name} again."
            ) from None

    def _pixels_version(self) -> int:
        from harness.data import decoding

        return decoding.VERSION

    def _decode_entry(self, entry: Entry, size: int, geometry: Geometry) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from harness.data import decoding

        for path in (self.folder / entry.image, self.folder / entry.mask):
            if not path.is_file():
                raise DataError(f"{self.name}/{entry.id}: {path} is gone; import {self.name} again.")
        try:
            with decoding.open_picture(self.folder / entry.image) as picture:
                image = decoding.resize_image(picture, size, geometry)
            with decoding.open_picture(self.folder / entry.mask) as picture:
                mask = decoding.resize_mask(decoding.binarise(picture, verify=False), size, geometry)
        except DataError as error:
            raise DataError(f"{self.name}/{entry.id}: {error}; run harness data check {self.name}.") from None
        return image, mask


@dataclass(frozen=True)
class PhantomDataset(Dataset):
    """The embedded procedural dataset: rendered instead of read.

    Its contents are hashed from the recipe (renderer version, seed, number, contrast) and not from pixels, so that the
    same phantom has the same fingerprint on every machine, whatever the last bit of its floating point does.
    """

    seed: int = 0
    contrast: float = 1.0

    def thumbnails(self) -> NDArray[np.uint8]:
        """Return the grey thumbnails of every frame, uint8 (N, 64, 64)."""
        import numpy as np
        from PIL import Image

        from harness.data import duplicates, phantom

        frames = (phantom.render(self.seed, index, 64, self.contrast)[0] for index in range(len(self)))
        return np.stack([duplicates.thumbnail(Image.fromarray(frame)) for frame in frames])

    def native_files(self, entry: Entry) -> tuple[bytes, bytes]:
        """Return an entry's image and mask, rendered at the native size, as PNG files."""
        import io

        from PIL import Image

        from harness.data import phantom

        files = []
        image, mask = phantom.render(self.seed, self.ids.index(entry.id), phantom.NATIVE_SIZE, self.contrast)
        for pixels in (image, mask * 255):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            files.append(buffer.getvalue())
        return files[0], files[1]

    def _pixels_version(self) -> int:
        from harness.data import phantom

        return phantom.VERSION

    def _decode_entry(self, entry: Entry, size: int, geometry: Geometry) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from harness.data import phantom

        return phantom.render(self.seed, int(entry.id.rpartition("-")[2]), size, self.contrast)


def open_dataset(name: str, **options: Any) -> Dataset:
    """Open a dataset by name.

    Args:
        name: ``phantom``, or the name of an imported dataset.
        options: for ``phantom`` only: ``count`` (200), ``seed`` (0) and ``contrast`` of polyps (1.0).

    Raises:
        DataError: it is not imported (the sentence says which command imports it), or an option is not known.
    """
    if name == PHANTOM:
        return _open_phantom(**options)
    if options:
        raise DataError(f"Dataset {name!r} takes no options, but got {', '.join(sorted(options))}.")
    folder = data_folder() / name
    if not name or Path(name).name != name or not (folder / INDEX).is_file():
        raise DataError(_how_to_get(name))
    return read_index(folder)


def _how_to_get(name: str) -> str:
    source = SOURCES.get(name)
    if source:
        return (
            f"Dataset {name!r} is not imported; get {source.title} from {source.origin} and run: "
            f"harness data import {name} --from PATH (its zip or folder)."
        )
    known = [summary.name for summary in available()]
    return (
        f"There is no dataset {name!r}{nearest(name, known)}; a folder or zip of images and masks becomes one by: "
        f"harness data import folder --from PATH --name {name or 'NAME'}."
    )


def _open_phantom(count: int = 200, seed: int = 0, contrast: float = 1.0, **unknown: Any) -> Dataset:
    if unknown:
        option = next(iter(unknown))
        meant = nearest(option, ["count", "seed", "contrast"])
        raise DataError(f"Dataset 'phantom' has no option {option!r}{meant}; it has count, seed and contrast.")
    for option, value, least in (("count", count, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(
                f"The option {option} of dataset 'phantom' must be a whole number of at least {least}, not {value!r}."
            )
    if not isinstance(contrast, (int, float)) or isinstance(contrast, bool) or not 0 < contrast <= 10:
        raise DataError(
            f"The option contrast of dataset 'phantom' must be a number above 0, up to 10, not {contrast!r}."
        )
    from harness.data.phantom_index import phantom_entries

    folder = data_folder() / PHANTOM
    entries = phantom_entries(count, seed, contrast, folder)
    return PhantomDataset(
        name=PHANTOM,
        title="Procedural endoscopy-like frames",
        licence="Apache-2.0, made by this harness",
        citation="none",
        folder=folder,
        entries=entries,
        fingerprint=fingerprint_of(entries),
        source=PHANTOM,
        given_groups=True,
        seed=seed,
        contrast=contrast,
    )


def available() -> list[Summary]:
    """Return every dataset that is there or could be: the phantom, the known sources, and what else was imported."""
    imported = {}
    root = data_folder()
    if root.is_dir():
        for index in sorted(root.glob("*/" + INDEX)):
            document = _read_document(index)
            imported[index.parent.name] = Summary(index.parent.name, document["title"], document["pairs"], True, "")
    found = [Summary(PHANTOM, "Procedural endoscopy-like frames", None, True, "")]
    for source in SOURCES.values():
        how = f"harness data import {source.name} --from PATH, after getting it from {source.origin}"
        there = imported.pop(source.name, None)
        found.append(there or Summary(source.name, source.title, source.published, False, how))
    return [*found, *imported.values()]


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        format_number = document["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove {path.parent} and import the dataset again."
        ) from None
    if format_number != FORMAT:
        raise DataError(
            f"{path} has format {format_number}, but this version of the harness reads {FORMAT}; remove "
            f"{path.parent} and "
            "import the dataset again."
        )
    return dict(document)


def read_index(folder: Path) -> Dataset:
    """Open an imported dataset's folder.

    Raises:
        DataError: the index cannot be read or does not match its own fingerprint.
    """
    document = _read_document(folder / INDEX)
    entries = tuple(Entry(**row) for row in document["entries"])
    distinct = [frozenset(ids) for ids in document.get("lineages", [])]
    lineages = tuple(distinct[position] for position in document.get("lineage", []))
    if fingerprint_of(entries, lineages) != document["fingerprint"]:
        raise DataError(f"{folder / INDEX} was changed by hand; remove {folder} and import the dataset again.")
    return Dataset(
        name=folder.name,
        title=document["title"],
        licence=document["licence"],
        citation=document["citation"],
        folder=folder,
        entries=entries,
        fingerprint=document["fingerprint"],
        source=document["source"],
        near_duplicates=tuple(NearDuplicate(*row) for row in document["near_duplicates"]),
        given_groups=document["given_groups"],
        lineages=lineages,
    )


def write_index(dataset: Dataset, folder: Path) -> None:
    """Write ``dataset.json`` into ``folder``."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "title": dataset.title,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "source": dataset.source,
        "pairs": len(dataset),
        "given_groups": dataset.given_groups,
        "fingerprint": dataset.fingerprint,
        "near_duplicates": [[pair.first, pair.second, round(pair.correlation, 4)] for pair in dataset.near_duplicates],
        "entries": [asdict(entry) for entry in dataset.entries],
    }
    if dataset.lineages:
        document["lineages"], document["lineage"] = interned(dataset.lineages)
    (folder / INDEX).write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def near_duplicates_between(first: Dataset, second: Dataset) -> list[NearDuplicate]:
    """Find frames that two datasets share (``harness.data.duplicates`` states the rule); ids are bare.

    What was found is kept in the folder of the first, since each score on another dataset asks for it.
    """
    from harness.data import decoding, duplicates

    name = f"{first.fingerprint[:16]}-{second.fingerprint[:16]}-v{duplicates.VERSION}.json"
    kept = first.folder / "shared" / name
    with suppress(OSError, ValueError, TypeError):
        return [NearDuplicate(*row) for row in json.loads(kept.read_text())]
    pairs = duplicates.pairs_between(first.thumbnails(), second.thumbnails())
    found = [NearDuplicate(first.entries[i].id, second.entries[j].id, score) for i, j, score in pairs]
    # In a read-only home it is found again next time.
    with suppress(OSError), decoding.staging_folder(kept.parent) as staging:
        (staging / name).write_text(json.dumps([[one.first, one.second, one.correlation] for one in found]))
        (staging / name).replace(kept)
    return found
