"""YAML with line numbers: reading, extending and overriding declarations without losing where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import DeclarationError, nearest

#: Where a value stands in a declaration, such as ``("train", 0, "real")``.
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """The place a value was written at; line and column count from 1, and are 0 for the command line."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass
class Document:
    """A declaration as plain dicts, lists and scalars, with the origin of each value."""

    value: dict[str, Any]
    origins: dict[Location, Origin] = field(default_factory=dict)

    def origin(self, location: Location) -> Origin:
        """Return the origin of a value, or of the nearest thing around it."""
        for length in range(len(location), -1, -1):
            found = self.origins.get(location[:length])
            if found:
                return found
        return Origin("declaration", 0, 0)

    def part(self, *location: str | int) -> Document:
        """Return the part at ``location`` as a document of its own (empty when there is none)."""
        value: Any = self.value
        for key in location:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        n = len(location)
        origins = {where[n:]: origin for where, origin in self.origins.items() if where[:n] == location}
        return Document(value or {}, origins)

    def without(self, *keys: str) -> Document:
        """Return a copy without some top-level keys."""
        return Document(
            {key: value for key, value in self.value.items() if key not in keys},
            {where: origin for where, origin in self.origins.items() if not where or where[0] not in keys},
        )

    def merged(self, override: Document) -> Document:
        """Return this document with ``override`` on top: dicts merge, everything else is replaced."""
        origins = dict(self.origins)
        value = _merge(self.value, override.value, (), origins, override.origins)
        return Document(value, origins)


def _merge(
    base: Any, override: Any, where: Location, origins: dict[Location, Origin], new: dict[Location, Origin]
) -> Any:
    if isinstance(base, dict) and isinstance(override, dict):
        merged = dict(base)
        for key, value in override.items():
            merged[key] = _merge(base.get(key), value, (*where, key), origins, new)
        if where not in origins and where in new:
            origins[where] = new[where]
        return merged
    n = len(where)
    for known in [place for place in origins if place[:n] == where]:
        del origins[known]
    origins.update({place: origin for place, origin in new.items() if place[:n] == where})
    return override


def _plain(node: Any, where: Location, file: str, origins: dict[Location, Origin]) -> Any:
    """Turn ruamel's nodes into plain values and note the place of each."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(node, CommentedMap):
        for key in node:
            try:
                line, column = node.lc.key(key)
            except KeyError:  # merged in by <<: the mapping's own place is the nearest there is
                line, column = node.lc.line, node.lc.col
            origins[(*where, key)] = Origin(file, line + 1, column + 1)
        return {key: _plain(value, (*where, key), file, origins) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            line, column = node.lc.item(index)
            origins[(*where, index)] = Origin(file, line + 1, column + 1)
        return [_plain(value, (*where, index), file, origins) for index, value in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def read_document(path: Path, shown: str | None = None) -> Document:
    """Read one YAML 1.2 file.

    Args:
        path: the file.
        shown: how errors name it; the path as given when left out.

    Raises:
        DeclarationError: it cannot be read, is not YAML, has a key twice, or is not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    shown = shown or str(path)
    try:
        node = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{shown}:{mark.line + 1}:{mark.column + 1}" if mark else shown
        problem = " ".join(str(error.problem or error.context or "not valid YAML").split())
        raise DeclarationError(f"{place}: {problem.partition(' To suppress')[0]}") from error
    except YAMLError as error:
        raise DeclarationError(f"{shown}: not valid YAML: {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{shown}: cannot be read as UTF-8 text: {error}") from error
    origins: dict[Location, Origin] = {(): Origin(shown, 1, 1)}
    value = _plain(node, (), shown, origins)
    if not isinstance(value, dict):
        raise DeclarationError(f"{shown}:1:1: a declaration is a mapping of keys to values, got {type(value).__name__}")
    return Document(value, origins)


def apply_setting(document: Document, setting: str) -> Document:
    """Apply one ``path.to.value=VALUE`` of the command line; the value is read as YAML, list positions are numbers.

    Raises:
        DeclarationError: the setting has no ``=``, or its path does not fit the document.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise DeclarationError(f"--set {setting}: write PATH=VALUE, as in --set train.0.real=50")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise DeclarationError(f"--set {setting}: the value is not YAML: {' '.join(str(error).split())}") from error
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    origin = Origin(f"--set {setting}", 0, 0)

    def replaced(node: Any, rest: list[str | int]) -> Any:
        if not rest:
            return value
        key, *deeper = rest
        if isinstance(node, list):
            if not isinstance(key, int) or key >= len(node):
                raise DeclarationError(f"--set {setting}: {key!r} is not a position in a list of {len(node)}")
            return [replaced(item, deeper) if index == key else item for index, item in enumerate(node)]
        if node is not None and not isinstance(node, dict):
            raise DeclarationError(f"--set {setting}: {key!r} is asked of {node!r}, which has no parts")
        return {**(node or {}), key: replaced((node or {}).get(key), deeper)}

    location = tuple(keys)
    origins = {where: place for where, place in document.origins.items() if where[: len(location)] != location}
    origins[location] = origin
    return Document(replaced(document.value, keys), origins)


def read_extended(path: Path, shown: str, find: Any, chain: tuple[Path, ...] = ()) -> Document:
    """Read a declaration and everything it ``extends``.

    Args:
        path: the file.
        shown: how errors name it.
        find: maps the value of ``extends`` to a path and its shown name; raises ``DeclarationError``.
        chain: files being read, to notice a circle.
    """
    if path in chain:
        raise DeclarationError(f"{shown}: extends itself by way of {' -> '.join(p.name for p in (*chain, path))}")
    document = read_document(path, shown)
    base = document.value.get("extends")
    if base is None:
        return document
    try:
        base_path, base_shown = find(str(base))
    except DeclarationError as error:
        raise DeclarationError(f"{document.origin(('extends',))}: extends: {error}") from error
    return read_extended(base_path, base_shown, find, (*chain, path)).merged(document.without("extends"))


def choose_profile(document: Document, profile: str | None) -> Document:
    """Apply a profile's overrides and drop the ``profiles`` section.

    Raises:
        DeclarationError: there is no profile of that name.
    """
    profiles = document.value.get("profiles") or {}
    broken: list[Location] = [] if isinstance(profiles, dict) else [("profiles",)]
    broken = broken or [("profiles", name) for name, value in profiles.items() if not isinstance(value, dict)]
    if broken:
        places = (f"{document.origin(where)}: {'.'.join(map(str, where))}" for where in broken)
        raise DeclarationError([f"{place}: must be a mapping of names to overrides" for place in places])
    plain = document.without("profiles")
    if not profile:
        return plain
    if profile not in profiles:
        raise DeclarationError(
            f"{document.origin(('profiles',))}: there is no profile {profile!r}{nearest(profile, list(profiles))}; "
            f"there are: {', '.join(profiles) or 'none'}"
        )
    return plain.merged(document.part("profiles", profile))
