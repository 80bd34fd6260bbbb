"""Picture files that are decoded when asked for, in a folder or a zip."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast, overload

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST_FILE = 2**28  # bytes that one member of a zip may unpack to
#: What a place of pictures may be, for messages.
PLACES = "give a folder or zip of pictures, a dataset (NAME, NAME:ROLE or NAME:SPLIT:ROLE) or a stored result's key"
# What reading a file or a member of a zip raises: RuntimeError is a password, NotImplementedError a rare compression.
_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class PictureFile:
    """One picture that is not decoded yet.

    Attributes:
        name: its id for a picture of a dataset (``DATASET/ID``), else without folder and extension; what pictures of
            two sets are matched by.
        shown: what a message calls it.
        open: opens the file.
        sha256: what tells its content from any other, when that is known without reading it.
    """

    name: str
    shown: str
    open: Callable[[], AbstractContextManager[BinaryIO]]
    sha256: str = ""

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with self.open() as stream:
                return stream.read()
        except _UNREADABLE as error:
            raise DataError(self._cannot_be_read(error)) from None

    def decode(self, convert: Callable[[Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return what ``convert`` makes of the picture.

        Raises:
            DataError: it cannot be read or decoded.
        """
        from harness.data.decoding import open_picture

        content = io.BytesIO(self.read())
        try:
            with open_picture(content) as picture:
                return convert(picture)
        except DataError as error:
            raise DataError(f"{self.shown} {error}") from None

    def problem(self) -> str:
        """Look at the file's first bytes; return why it is no picture that can be read, or an empty string."""
        from harness.data.decoding import open_picture

        try:
            with self.open() as stream, open_picture(stream):
                return ""
        except DataError as error:
            return f"{self.shown} {error}"
        except _UNREADABLE as error:
            return self._cannot_be_read(error)

    def _cannot_be_read(self, error: Exception) -> str:
        return f"{self.shown} cannot be read ({error}); copy it again or take it out."


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
        return self.files[index].decode(_as_rgb)

    def select(self, positions: Sequence[int]) -> PictureFiles:
        """Return the pictures at ``positions``, still to be decoded."""
        return PictureFiles([self.files[i] for i in positions])

    def content_key(self) -> str:
        """Return a SHA-256 over what tells the files' contents from any others, in order."""
        digest = hashlib.sha256(b"files")
        for file in self.files:
            digest.update(bytes.fromhex(file.sha256) or hashlib.sha256(file.read()).digest())
        return digest.hexdigest()


def _as_rgb(picture: Image) -> NDArray[np.uint8]:
    from harness.data.decoding import to_rgb

    return np.asarray(to_rgb(picture))


def as_mask(picture: Image) -> NDArray[np.uint8]:
    """Return a picture as a mask uint8 (H, W) in {0, 1}."""
    from harness.data.decoding import binarise

    return binarise(picture).astype(np.uint8)


class _Archive:
    """A zip that is opened once. Its members are read one at a time, whichever thread asks."""

    def __init__(self, place: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{place} is a damaged zip ({error}); copy it again.") from None
        self._lock = threading.Lock()

    def members(self) -> list[zipfile.ZipInfo]:
        """Return the files in it, sorted by name."""
        return sorted((m for m in self._zip.infolist() if not m.is_dir()), key=lambda member: member.filename)

    @contextmanager
    def open(self, member: zipfile.ZipInfo) -> Iterator[BinaryIO]:
        """Open one member; until it is closed, other threads wait."""
        if member.file_size > _LARGEST_FILE:
            raise zipfile.BadZipFile(f"it would unpack to more than {_LARGEST_FILE >> 20} MiB")
        with self._lock, self._zip.open(member) as stream:
            yield cast(BinaryIO, stream)


Found = list[tuple[PurePosixPath, PictureFile]]


def on_disk(path: Path) -> PictureFile:
    """Return a file of a folder as a picture that is not read yet."""
    return PictureFile(path.stem, str(path), lambda: path.open("rb"))


def _files_below(folder: Path) -> Found:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(PurePosixPath(path.relative_to(folder).as_posix()), on_disk(path)) for path in paths]


def _files_in_zip(place: Path) -> Found:
    archive = _Archive(place)
    paths = [(PurePosixPath(member.filename), member) for member in archive.members()]
    return [(p, PictureFile(p.stem, f"{place}/{p}", partial(archive.open, member))) for p, member in paths]


def files_at(where: str) -> Found:
    """List every file of a folder or zip.

    Raises:
        DataError: it is neither.
    """
    place = Path(where).expanduser()
    if place.is_dir():
        return _files_below(place)
    if not place.exists():
        raise DataError(f"{place} does not exist; {PLACES}.")
    if not zipfile.is_zipfile(place):
        raise DataError(f"{place} is neither a folder nor a zip; {PLACES}.")
    return _files_in_zip(place)


def pictures_among(found: Found, kind: str, where: str) -> list[PictureFile]:
    """Return the picture files of one kind (``images`` or ``masks``).

    A place that has folders ``images`` and ``masks`` gives what its name says; any other gives all its pictures.
    """
    from harness.data.decoding import EXTENSIONS

    visible = [(p, f) for p, f in found if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    sorted_out = [(p, f) for p, f in visible if kind in p.parts[:-1]]
    files = [file for _, file in sorted_out or visible]
    if not files:
        raise DataError(f"{where} holds no pictures; give a folder or zip of PNG, JPEG, TIFF or BMP files.")
    return files
