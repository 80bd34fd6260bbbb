"""``--accept-code``: which stored results stand for stages whose code has changed since.

Who says so promises that the change leaves the numbers alone. It may all the same have corrected what a plugin states
of the real pairs behind its work (``Checkpoint.seen``, ``Sample.sources``), and the leak guard knows no more than that.
So a fit or a pool that claims to have used less than it was given is made again by the present code, and what was
computed from it stands only where the present code names no pair that the older one had left out.
"""

from __future__ import annotations

from harness.engine.graph import Plan, Stage
from harness.engine.stages import kinds
from harness.store.results import Result, Store


def accept_older(plan: Plan, store: Store, stage: Stage) -> bool:
    """Let a stored result that differs in code only stand for a stage that has none, where it may.

    What it reads must have its results already; called again once it has them, the answer may be another.

    Returns:
        Whether one stands for it from now on.
    """
    older = store.older(stage.key, stage.key_without_code, stage.kind)
    if older is None or kinds()[stage.kind].thing.claims_less(older):
        return False
    for name, keys in stage.inputs.items():
        before = older.record.get("inputs", {}).get(name, [])
        if len(before) != len(keys):
            return False
        for key, (kind, older_key) in zip(keys, before, strict=True):
            now = store.find(plan.stages[key].kind, key)
            if now is None or not _names_no_more(now, store.find(kind, older_key)):
                return False
    store.accept(stage.key, stage.key_without_code, stage.kind)
    return True


def _names_no_more(now: Result, before: Result | None) -> bool:
    """Whether a result of the present code names no real pairs that the one before it had left out."""
    if before is not None and before.key == now.key:
        return True
    kind = kinds()[now.record["kind"]].thing
    if before is None:
        return not kind.claims_less(now)
    return all(
        old is None or (new is not None and new <= old)
        for new, old in zip(kind.claims(now), kind.claims(before), strict=False)
    )
