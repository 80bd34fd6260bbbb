"""A conformance suite for plugins: what ``docs/reference/plugins.md`` promises of each kind, tried out.

Every check runs the plugin on tiny pairs drawn here, with the parameters of its ``example()``, on the CPU. Imports
``engine`` and lower rooms.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.conformance.checks import Check, Checks, drawn_pairs, example_values, require
from harness.plugins.contract import Kind
from harness.plugins.registry import BASES

__all__ = ["Check", "check_plugin", "drawn_pairs"]


def check_plugin(kind: Kind, plugin: type[Any], folder: Path, *, fresh_process: bool = True) -> list[Check]:
    """Try out everything a plugin promises.

    Args:
        kind: ``generators``, ``refiners`` or ``segmenters``.
        plugin: the class.
        folder: empty; fits and samples are written there.
        fresh_process: also sample in a new Python process (some seconds).

    Returns:
        all checks in the order they were tried; a plugin conforms when all passed.
    """
    from harness.conformance.generators import GeneratorSuite
    from harness.conformance.refiners import RefinerSuite
    from harness.conformance.segmenters import SegmenterSuite

    checks = Checks()
    folder.mkdir(parents=True, exist_ok=True)
    described = checks.run("description", lambda: _check_description(kind, plugin))
    if checks.run("parameters", lambda: _check_parameters(plugin)) and described:
        if kind == "generators":
            GeneratorSuite(plugin, folder, fresh_process).run(checks)
        elif kind == "refiners":
            RefinerSuite(plugin, folder, fresh_process).run(checks)
        else:
            SegmenterSuite(plugin).run(checks)
    else:
        checks.skip(["behaviour"], "description and parameters must be right first")
    return checks.done


def _check_description(kind: Kind, plugin: type[Any]) -> str:
    require(
        issubclass(plugin, BASES[kind]),
        f"{plugin.__name__} must derive from harness.learning.{BASES[kind].__name__}.",
    )
    name = getattr(plugin, "name", "")
    require(
        bool(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)),
        f"Its name {name!r} must be kebab-case, such as my-generator.",
    )
    version = plugin.version
    require(isinstance(version, str) and version != "", f"Its version {version!r} must be a non-empty string.")
    require(
        bool((plugin.__dict__.get("__doc__") or "").strip()),
        "It has no docstring; say what it implements and from which source.",
    )
    if kind == "segmenters":
        return f"{name} version {version}."
    card = plugin.card
    allowed = {"needs": ("pairs", "masks"), "makes": ("pairs", "masks", "images")}
    for field, values in allowed.items():
        require(
            getattr(card, field) in values,
            f"card.{field} is {getattr(card, field)!r}; allowed are {', '.join(values)}.",
        )
    require(card.minimum >= 1, f"card.minimum is {card.minimum}; it must be at least 1.")
    require(all(side > 0 for side in card.sizes), f"card.sizes is {card.sizes}; sides are positive numbers of pixels.")
    return f"{name} version {version}: needs {card.needs}, makes {card.makes}."


def _check_parameters(plugin: type[Any]) -> str:
    model = plugin.Parameters
    require(
        model.model_config.get("extra") == "forbid" and bool(model.model_config.get("frozen")),
        "Its Parameters must derive from harness.learning.Parameters, so that a misspelt name is an error.",
    )
    for name, field in model.model_fields.items():
        require(not field.is_required(), f"Parameter {name!r} has no default.")
        require(
            bool(field.description), f"Parameter {name!r} has no description; write Field(default, description=...)."
        )
    for values in (model(), model(**example_values(plugin))):
        again = model.model_validate(json.loads(values.model_dump_json()))
        require(again == values, "Its parameters change when they are written as JSON and read back.")
    return f"{len(model.model_fields)} parameters, all with a default and a description."
