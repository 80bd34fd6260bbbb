"""Pictures to measure, wherever they are: a folder, a zip, a dataset by name, or a stored stage result."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, HarnessError

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST_FILE = 2**28  # bytes that one member of a zip may unpack to


@dataclass(frozen=True)
class PictureFile:
    """One picture that is not decoded yet.

    Attributes:
        name: without folder and extension; what pictures of two sets are matched by.
        shown: what a message calls it.
        read: returns the bytes of the file.
    """

    name: str
    shown: str
    read: Callable[[], bytes]


class PictureFiles(Sequence[NDArray[np.uint8]]):
    """Pictures that are decoded when asked for, uint8 (H, W, 3), each of its own size."""

    def __init__(self, files: Sequence[PictureFile]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _decode(self.files[index], _as_rgb)

    def content_key(self) -> str:
        """Return the SHA-256 of the files' bytes, in order."""
        digest = hashlib.sha256(b"files")
        for file in self.files:
            digest.update(hashlib.sha256(file.read()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Pictures:
    """A set of pictures with their names.

    Attributes:
        names: of the pictures, in order.
        images: N pictures uint8 (H, W, 3): an array, or files that are decoded when asked for.
    """

    names: tuple[str, ...]
    images: NDArray[np.uint8] | PictureFiles

    def __len__(self) -> int:
        return len(self.names)


def _as_rgb(picture: Image) -> NDArray[np.uint8]:
    from harness.data.decoding import to_rgb

    return np.asarray(to_rgb(picture))


def _as_mask(picture: Image) -> NDArray[np.uint8]:
    from harness.data.decoding import binarise

    return binarise(picture).astype(np.uint8)


def _decode(file: PictureFile, convert: Callable[[Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    from harness.data.decoding import open_picture

    try:
        with open_picture(io.BytesIO(file.read())) as picture:
            return convert(picture)
    except DataError as error:
        raise DataError(f"{file.shown} {error}") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.shown} cannot be read ({error}); copy it again or take it out.") from None


def _files_below(folder: Path) -> list[tuple[PurePosixPath, PictureFile]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        (PurePosixPath(path.relative_to(folder).as_posix()), PictureFile(path.stem, str(path), path.read_bytes))
        for path in paths
    ]


def _files_in_zip(place: Path) -> list[tuple[PurePosixPath, PictureFile]]:
    def reader(member: str) -> Callable[[], bytes]:
        def read() -> bytes:
            with zipfile.ZipFile(place) as archive:
                if archive.getinfo(member).file_size > _LARGEST_FILE:
                    raise DataError(f"would unpack to more than {_LARGEST_FILE >> 20} MiB; no picture is that large.")
                return archive.read(member)

        return read

    with zipfile.ZipFile(place) as archive:
        members = sorted(member.filename for member in archive.infolist() if not member.is_dir())
    return [(PurePosixPath(m), PictureFile(PurePosixPath(m).stem, f"{place}/{m}", reader(m))) for m in members]


def _files_of_dataset(name: str, kind: str) -> list[PictureFile]:
    from harness.data.datasets import Entry, open_dataset

    dataset = open_dataset(name)

    def reader(entry: Entry) -> Callable[[], bytes]:
        return lambda: dataset.native_files(entry)[0 if kind == "images" else 1]

    return [PictureFile(entry.id, f"{name}/{entry.id}", reader(entry)) for entry in dataset.entries]


def _files(where: str, kind: str) -> list[PictureFile]:
    """Find the picture files of one kind (``images`` or ``masks``).

    A place that has folders ``images`` and ``masks`` gives what its name says; any other gives all its pictures.
    """
    from harness.data.decoding import EXTENSIONS

    place = Path(where).expanduser()
    if place.is_dir():
        found = _files_below(place)
    elif place.is_file():
        if not zipfile.is_zipfile(place):
            raise DataError(
                f"{place} is neither a folder nor a zip; give a folder or zip of pictures, or a dataset's name."
            )
        found = _files_in_zip(place)
    elif place.exists() or "/" in where:
        raise DataError(f"{place} does not exist; give a folder or zip of pictures, or a dataset's name.")
    else:
        return _files_of_dataset(where, kind)
    visible = [(p, f) for p, f in found if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    sorted_out = [(p, f) for p, f in visible if kind in p.parts[:-1]]
    files = [file for _, file in sorted_out or visible]
    if not files:
        raise DataError(f"{place} holds no pictures; give a folder or zip of PNG, JPEG, TIFF or BMP files.")
    return files


def _stored(where: str) -> Path | None:
    """Return the folder with ``images.npy`` when ``where`` is a stored stage result (or its ``pairs`` folder)."""
    place = Path(where).expanduser()
    return next((folder for folder in (place, place / "pairs") if (folder / "images.npy").is_file()), None)


def read_images(where: str) -> Pictures:
    """Find the images of a folder, a zip, a dataset or a stored stage result; files are decoded later.

    Raises:
        DataError: there is no such place, or it holds no pictures.
    """
    stored = _stored(where)
    if stored:
        from harness.data.pairs import PairSet

        pairs = PairSet.load(stored)
        return Pictures(pairs.ids, pairs.images)
    files = _files(where, "images")
    return Pictures(tuple(file.name for file in files), PictureFiles(files))


def read_masks(where: str) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Read the masks of a folder, a zip, a dataset or a stored stage result: their names, and uint8 (N, H, W) in {0,
    1}.

    Masks of a dataset, which may have any sizes, come at 256 pixels a side.

    Raises:
        DataError: there is no such place, it holds no pictures, one is not a mask, or they are of different sizes.
    """
    stored = _stored(where)
    if stored:
        from harness.data.pairs import PairSet

        pairs = PairSet.load(stored)
        return pairs.ids, pairs.masks
    if not Path(where).expanduser().exists() and "/" not in where:
        from harness.data.datasets import open_dataset

        pairs = open_dataset(where).decode(256)
        return pairs.ids, pairs.masks
    problems: list[str] = []
    names: list[str] = []
    masks: list[NDArray[np.uint8]] = []
    for file in _files(where, "masks"):
        try:
            mask = _decode(file, _as_mask)
        except DataError as error:
            problems += error.problems
            continue
        if masks and mask.shape != masks[0].shape:
            problems.append(
                f"{file.shown} is {mask.shape[1]}x{mask.shape[0]} pixels, but {names[0]} is "
                f"{masks[0].shape[1]}x{masks[0].shape[0]}; bring all masks to one size."
            )
            continue
        names.append(file.name)
        masks.append(mask)
    if problems:
        raise DataError(problems)
    return tuple(names), np.stack(masks)


def matched(real: Pictures, synthetic: Pictures) -> list[tuple[int, int]]:
    """Match pictures of two sets by name, as (real, synthetic) positions: a synthetic name may add
    ``_NUMBER``.

    Raises:
        HarnessError: a synthetic picture has no real one, or two real ones have its name.
    """
    position: dict[str, int] = {}
    for i, name in enumerate(real.names):
        if name in position:
            raise HarnessError(f"Two real pictures are called {name!r}; give each a name of its own.")
        position[name] = i
    pairs: list[tuple[int, int]] = []
    missing: list[str] = []
    for j, name in enumerate(synthetic.names):
        stem = name.rstrip("0123456789").rstrip("_-")
        found = position.get(name, position.get(stem))
        if found is None:
            missing.append(name)
        else:
            pairs.append((found, j))
    if missing:
        raise HarnessError(
            f"{len(missing)} synthetic pictures have no real one of their name, such as {missing[0]!r}; name "
            "each after the real picture it was made from (NAME or NAME_NUMBER)."
        )
    return pairs
