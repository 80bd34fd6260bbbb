"""What the images of a folder of samples were made from: the manifest that lies beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: The file beside samples that says how each was made.
MANIFEST = "manifest.json"


def lineages_in(manifest: bytes) -> dict[str, frozenset[str]]:
    """Return the lineage of each sample by its id without the generator or dataset that it starts with.

    Args:
        manifest: what ``harness generator sample``, the stage of a pool or ``harness data export`` wrote.

    Raises:
        ValueError, TypeError, AttributeError, LookupError: it is another program's, or says no lineages.
    """
    document = json.loads(manifest)
    lineages = [frozenset(map(str, ids)) for ids in document["lineages"]]
    return {str(row["id"]).partition("/")[2]: lineages[row["lineage"]] for row in document["pairs"]}


def tells_of_samples(manifest: bytes) -> bool:
    """Say whether a manifest is of samples that the harness made, whether or not it says what from."""
    try:
        document = json.loads(manifest)
    except ValueError:
        return False
    return isinstance(document, dict) and "pairs" in document and ("lineages" in document or "checkpoint" in document)


def interned(lineages: Sequence[frozenset[str]]) -> tuple[list[list[str]], list[int]]:
    """Return the distinct lineages, each sorted, and the position of each among them: many images share one."""
    distinct = {lineage: position for position, lineage in enumerate(dict.fromkeys(lineages))}
    return [sorted(lineage) for lineage in distinct], [distinct[lineage] for lineage in lineages]


def manifest_of(dataset: str, made_from: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """Return a manifest that says no more of the images of a dataset, by bare id, than what they were made from."""
    distinct, positions = interned(list(made_from.values()))
    rows = [{"id": f"{dataset}/{name}", "lineage": i} for name, i in zip(made_from, positions, strict=True)]
    return {"lineages": distinct, "pairs": rows}
