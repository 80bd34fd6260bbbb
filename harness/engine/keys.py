"""What keys are made of: contents of files and folders, never their paths; what is at its default is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.home import threads
from harness.plugins.contract import Generator, Plugin
from harness.plugins.fingerprint import code_of


def absolute(target: str) -> str:
    """Make the path of ``path/to/file.py:Class`` absolute, so that a stage finds it from anywhere."""
    where, colon, attribute = target.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else target


def unless_default(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from their defaults: a parameter that nobody asks for stands in no key.

    So a stage kind can learn something new without a change of the keys of those who do not use it.
    """
    return {name: value for name, value in values.items() if value != defaults[name]}


def key_parts(
    kind: str,
    version: int,
    parameters: dict[str, Any],
    seed: int,
    inputs: dict[str, list[str]],
    code: dict[str, str],
    plugin: Plugin | None,
) -> dict[str, Any]:
    """Return everything that a stage's result depends on, of which its key is the digest.

    Args:
        kind: the stage's kind.
        version: of that kind.
        parameters: the stage's own.
        seed: of what it draws.
        inputs: by name, what identifies the results that it reads.
        code: fingerprints of the code that it computes with, besides the plugin's, by module.
        plugin: that computes it, if one does.
    """
    parts: dict[str, Any] = {"kind": kind, "version": version, "parameters": parameters, "seed": seed, "inputs": inputs}
    if threads() != 1:
        parts["numerics"] = {"threads": threads()}
    if plugin is not None:
        parts["plugin"] = {"name": plugin.name, "version": plugin.version}
        unread = set(plugin.sampling) if kind == "fit" and isinstance(plugin, Generator) else None
        parts["plugin-parameters"] = portable(plugin.parameters.model_dump(mode="json", exclude=unread))
        code = {**code_of(type(plugin)), **code}
        if environment := plugin.environment_key():
            parts["surroundings"] = environment
    if code:
        parts["code"] = dict(sorted(code.items()))
    return parts


def without_code(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a key but for the code, which ``--accept-code`` lets differ."""
    return {name: value for name, value in parts.items() if name != "code"}


def named_network(parameters: dict[str, Any]) -> dict[str, Any]:
    """Replace the files that a feature network's name points at by what they hold."""
    if not parameters["network"]:
        return parameters
    name, at, path = parameters["network"].partition("@")
    code, colon, attribute = name.rpartition(":")
    return {**parameters, "network": [portable(code), f"{colon}{attribute}", at, portable(path)]}


def portable(value: Any) -> Any:
    """Replace the path of a file or folder by the digest of its content: keys hold contents, never paths."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
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
