"""The controls that a study may ask for: real pairs again, and every generator that says that it is one."""

from __future__ import annotations

from harness.errors import HarnessError, nearest
from harness.plugins.registry import load_plugin, registry

#: The control that needs no generator.
REAL_REPEATED = "real-repeated"


def problem_of(arm: str) -> str:
    """Say why an arm is no control; empty when it is one."""
    if arm == REAL_REPEATED or _is_control(arm):
        return ""
    generators = [name for kind, name in registry() if kind == "generators"]
    if arm in generators:
        return (
            f"{arm} is a generator that does not say that it brings no new information (control=True in its card); "
            "declare it under generators, and its pairs in train"
        )
    known = [REAL_REPEATED, *(name for name in generators if _is_control(name))]
    return f"there is no control {arm!r}{nearest(arm, known)}; there are: {', '.join(known)}"


def _is_control(name: str) -> bool:
    """Whether a generator of that name brings no new information; one that cannot be imported is none."""
    if ("generators", name) not in registry():
        return False
    try:
        card = load_plugin("generators", name).card
    except HarnessError:
        return False
    return bool(card.control) and card.makes == "pairs"
