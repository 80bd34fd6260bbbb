"""What keys are made of: contents of files and folders, never their paths."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def _absolute(target: str) -> str:
    """Make the path of ``path/to/file.py:Class`` absolute, so that a stage finds it from anywhere."""
    where, colon, attribute = target.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else target


def _named_network(parameters: dict[str, Any]) -> dict[str, Any]:
    """Replace the files that a feature network's name points at by what they hold."""
    if not parameters["network"]:
        return parameters
    name, at, path = parameters["network"].partition("@")
    code, colon, attribute = name.rpartition(":")
    return {**parameters, "network": [_portable(code), f"{colon}{attribute}", at, _portable(path)]}


def _portable(value: Any) -> Any:
    """Replace the path of a file or folder by the digest of its content: keys hold contents, never paths."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and ("/" in value or "." in value) and len(value) < 1024:
        path = Path(value).expanduser()
        if path.is_file():
            return {"file-sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if path.is_dir():
            return {"folder-sha256": _digest_of_folder(path)}
    return value


def _digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 of the files below a folder: their contents and their names within it."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
