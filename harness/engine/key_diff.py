"""Why a stage is computed again: which parts of its key differ from the nearest stored result."""

from __future__ import annotations

from typing import Any

from harness.errors import DeclarationError, nearest
from harness.store.results import Result, Store


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def differences(now: dict[str, Any], before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the parts that differ, each with its value now and before; None for a part that one side lacks."""
    new, old = _flat(now), _flat(before)
    return {k: (new.get(k), old.get(k)) for k in sorted({*new, *old}) if new.get(k) != old.get(k)}


def nearest_result(store: Store, planned: dict[str, Any]) -> Result | None:
    """Return the stored result of the same kind with the fewest differing parts, if there is one of the same label."""
    rivals = [result for result in store.results() if result.record["kind"] == planned["kind"]]
    if not rivals:
        return None
    return min(
        rivals,
        key=lambda r: (r.record["label"] != planned["label"], len(differences(planned["parts"], r.record["parts"]))),
    )


def find_stage(store: Store, name: str) -> tuple[str, dict[str, Any]]:
    """Return the key and the planned stage that a label or the start of a key names.

    Raises:
        DeclarationError: none or several do.
    """
    planned = store.planned()
    exact = [key for key, stage in planned.items() if stage["label"] == name]
    hits = exact[-1:] or [key for key in planned if key.startswith(name)]
    if len(hits) == 1:
        return hits[0], planned[hits[0]]
    if hits:
        raise DeclarationError(f"{len(hits)} stages have keys that start with {name!r}; give more of it.")
    labels = [stage["label"] for stage in planned.values()]
    raise DeclarationError(
        f"No planned stage is called {name!r}{nearest(name, labels)}; `harness study plan NAME` lists them."
    )
