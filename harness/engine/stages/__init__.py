"""Stage kinds, one file each: what a kind computes, writes and reads back, and how it is added to a plan."""

from __future__ import annotations

from typing import Any

from harness.engine.kind import StageKind
from harness.plugins.discovery import Found, discover
from harness.store.results import Result


def kinds() -> dict[str, Found[type[StageKind[Any]]]]:
    """Return every kind of stage by name: those of this package, then those of extensions.

    Raises:
        PluginError: two have one name, or an extension cannot be imported.
    """
    return discover(StageKind, [__name__])


def read(result: Result) -> Any:
    """Open what a stage wrote, as its kind reads it."""
    return kinds()[result.record["kind"]].thing.read(result)
