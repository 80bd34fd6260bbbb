"""Reading a zip or a folder of unknown origin without trusting any name or size in it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from harness.errors import DataError

#: No picture needs more; a larger member is refused before it is unpacked.
LARGEST_MEMBER = 1 << 30
#: Above these sizes a member, or a whole archive, that unpacks to more than RATIO times its packed size is a bomb.
#: Masks without compression of their own (BMP, TIFF) pack well, but are small.
SUSPICIOUS_MEMBER = 64 << 20
SUSPICIOUS_TOTAL = 1 << 30
RATIO = 100


class Origin(Protocol):
    """Files that can be imported, by their relative paths."""

    def files(self) -> list[PurePosixPath]:
        """Return the paths of all files, sorted; hidden ones are left out."""
        ...

    def read(self, path: PurePosixPath) -> bytes:
        """Return a file's contents; raise DataError, without the file's name, when it cannot be read."""
        ...

    def total_bytes(self) -> int:
        """Return how much all files need on a disk."""
        ...


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


class _FolderOrigin:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = (path for path in folder.rglob("*") if path.is_file())
        relative = (PurePosixPath(path.relative_to(folder).as_posix()) for path in found)
        self._files = sorted(path for path in relative if not _hidden(path))

    def files(self) -> list[PurePosixPath]:
        return self._files

    def read(self, path: PurePosixPath) -> bytes:
        try:
            return (self._folder / path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})") from None

    def total_bytes(self) -> int:
        return sum((self._folder / path).stat().st_size for path in self._files)


class _ZipOrigin:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {
            path: member
            for member in archive.infolist()
            if not member.is_dir() and not _hidden(path := PurePosixPath(member.filename))
        }

    def files(self) -> list[PurePosixPath]:
        return sorted(self._members)

    def read(self, path: PurePosixPath) -> bytes:
        try:
            return self._archive.read(self._members[path])
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            RuntimeError,
            NotImplementedError,
            MemoryError,
        ) as error:
            raise DataError(f"is damaged in the archive ({error}); get the archive again") from None

    def total_bytes(self) -> int:
        return sum(member.file_size for member in self._members.values())


def _member_problem(member: zipfile.ZipInfo) -> str | None:
    """Say what is dangerous about a member of an archive, if anything."""
    raw = member.orig_filename
    path, windows = PurePosixPath(raw), PureWindowsPath(raw)
    if path.is_absolute() or windows.drive or windows.root:
        return "has an absolute path and would be written outside the target"
    if ".." in path.parts or ".." in windows.parts:
        return "climbs out of the target with '..'"
    if "\x00" in raw:
        return "has a zero byte in its name"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link, which could point outside the target"
    if member.flag_bits & 0x1:
        return "is encrypted; unpack the archive with its password and import the folder"
    packed = max(member.compress_size, 1)
    if member.file_size > LARGEST_MEMBER or (
        member.file_size > SUSPICIOUS_MEMBER and member.file_size > RATIO * packed
    ):
        return f"unpacks from {packed:,} to {member.file_size:,} bytes and is refused as a decompression bomb"
    return None


def _check_members(origin: Path, members: list[zipfile.ZipInfo]) -> None:
    problems = [f"{member.filename!r}: {problem}." for member in members if (problem := _member_problem(member))]
    names = [member.filename for member in members if not member.is_dir()]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    problems += [f"{name!r}: is in the archive more than once." for name in twice]
    total, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if not problems and total > SUSPICIOUS_TOTAL and total > RATIO * max(packed, 1):
        problems = [f"{origin.name} unpacks from {packed:,} to {total:,} bytes and is refused as a decompression bomb."]
    if problems:
        raise DataError([f"Nothing was imported: the archive {origin} cannot be trusted.", *problems])


@contextmanager
def open_origin(origin: Path) -> Iterator[Origin]:
    """Open a folder or a zip for reading.

    Every name in a zip is checked before anything is read, also of files that nobody asks for.

    Raises:
        DataError: there is no such path, it is no zip, or the zip is dangerous or encrypted; all problems at once.
    """
    if origin.is_dir():
        yield _FolderOrigin(origin)
        return
    if not origin.exists():
        raise DataError(
            f"There is no file or folder {origin}; give the path of a zip or of a folder with images and masks."
        )
    try:
        archive = zipfile.ZipFile(origin)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{origin} is neither a folder nor a zip that can be read ({error}); get it again, or unpack it and "
            f"give the folder."
        ) from None
    with archive:
        _check_members(origin, archive.infolist())
        yield _ZipOrigin(archive)
