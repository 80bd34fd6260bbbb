"""Verdicts: each difference of two arms with its interval, p value, detectable effect, and what these say in words.

:func:`judge` is what reports use; :func:`verdict` is the same for anyone's table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from harness.errors import DataError, nearest
from harness.results.schema import LEVEL
from harness.stats.design import FACTORS, Block, blocks
from harness.stats.estimator import NAN, POWER, Components, Estimate, adjusted

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["helps", "hurts", "no relevant difference", "no evidence either way", "not comparable"]

#: How each verdict comes about; printed in every report.
RULES: dict[Verdict, str] = {
    "helps": "the simultaneous interval of the difference, as it is shown, lies on the better side of zero",
    "hurts": "the simultaneous interval of the difference, as it is shown, lies on the worse side of zero",
    "no relevant difference": (
        "the difference is shown to be smaller than the declared margin, by two one-sided tests at the error rate of "
        "the family; it may still differ from zero, by less than matters"
    ),
    "no evidence either way": (
        "neither of these; this does not show that there is no effect: the smallest effect that the study would have "
        f"found in {100 * POWER:.0f} % of repetitions stands beside it"
    ),
    "not comparable": (
        "cells are missing, a score is marked as leaked, the segmenters of the baseline did not learn (they are not "
        "above a prediction that looks at no image, or predict one mask for every image), the arms were trained for "
        "different numbers of steps or scored on different images, nothing varies, or there is one run an arm (or one "
        "unit of runs that share what others draw anew), which cannot tell a recipe from the luck of a run; no "
        "test is made"
    ),
}


class ArmKey(NamedTuple):
    """One segmenter trained on one recipe and scored on one role of one dataset."""

    dataset: str
    role: str
    segmenter: str
    recipe: str


@dataclass(frozen=True)
class Mark:
    """What is wrong with how the segmenters of an arm were trained.

    Attributes:
        kind: ``did not learn`` or ``undertrained``.
        why: as a clause, with the numbers that show it.
    """

    kind: Literal["did not learn", "undertrained"]
    why: str


@dataclass(frozen=True)
class Effect:
    """The paired difference of one arm from another, and the verdict on it.

    Attributes:
        key: which arm.
        baseline: recipe of the arm that it is compared with.
        metric: that was compared.
        reduction: its reduction; empty for a table of one's own.
        family: name of the comparisons that are corrected together.
        comparisons: how many of them could be tested.
        difference: arm minus baseline; NaN when it cannot be computed.
        low: lower end of its 95 % interval, simultaneous for the family.
        high: upper end.
        p: two-sided, of this comparison alone; NaN when not comparable.
        p_adjusted: for the family (Bonferroni).
        detectable: smallest effect found with 80 % power, as one of the family.
        margin: below which a difference does not matter; NaN when none is declared.
        level: error rate of its family, at this look.
        verdict: in words.
        over: what the verdict speaks for: what varied from run to run, and what all runs share.
        reason: why it is not comparable, or an empty string.
        mark: what is wrong with how its segmenters were trained, though it is comparable, or an empty string.
    """

    key: ArmKey
    baseline: str
    metric: str = ""
    reduction: str = ""
    family: str = ""
    comparisons: int = 0
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    p: float = NAN
    p_adjusted: float = NAN
    detectable: float = NAN
    margin: float = NAN
    level: float = LEVEL
    verdict: Verdict = "not comparable"
    over: str = ""
    reason: str = ""
    mark: str = ""


class Pair(NamedTuple):
    """One comparison that a study asks for.

    Attributes:
        key: of the arm.
        baseline: recipe that it is compared with, of the same segmenter and images.
        difference: of the two means as tables show them; NaN when one is missing.
        obstacle: why they cannot be compared, or an empty string.
        mark: what is wrong with how they were trained, or an empty string.
    """

    key: ArmKey
    baseline: str
    difference: float = NAN
    obstacle: str = ""
    mark: str = ""


def in_words(own: Mark | None, own_name: str, other: Mark | None, other_name: str) -> str:
    """Return what marks two arms that can be compared, as a clause; empty when nothing does."""
    named = [(mark, name) for mark, name in ((own, own_name), (other, other_name)) if mark is not None]
    clauses = []
    for kind in dict.fromkeys(mark.kind for mark, _ in named):
        clauses.append(f"{kind} ({'; '.join(f'{name}: {mark.why}' for mark, name in named if mark.kind == kind)})")
    return ", ".join(clauses)


def judge(
    pairs: Sequence[Pair],
    known: Mapping[ArmKey, Components],
    *,
    family: str = "",
    metric: str = "",
    reduction: str = "",
    better: float = 1.0,
    span: float = np.inf,
    margin: float = NAN,
    level: float = LEVEL,
) -> list[Effect]:
    """Compare arms in pairs, as one family.

    Args:
        pairs: what to compare.
        known: for each arm the components of the block that it belongs to; arms of one block share the object.
        family: its name.
        metric: name of what was scored.
        reduction: its reduction.
        better: 1 when higher is better, -1 when lower is.
        span: the largest difference that two scores can have.
        margin: below which a difference does not matter; NaN for none.
        level: error rate of the family; less than usual where several looks share it.
    """
    measured = []
    for pair in pairs:
        own, other = known.get(pair.key), known.get(pair.key._replace(recipe=pair.baseline))
        estimate, obstacle = None, pair.obstacle
        if own is not None and own is other:
            estimate = own.difference(pair.key.recipe, pair.baseline)
            obstacle = obstacle or _obstacle(estimate, own)
            if not obstacle and abs(estimate.value - pair.difference) > _TOLERANCE:
                obstacle = f"the per-image scores give another difference ({estimate.value:+.4f})"
        elif not obstacle:
            obstacle = "not scored by the same runs on the same images"
            if other is None or own is None:
                obstacle = f"no scores of {pair.baseline if other is None else pair.key.recipe}"
        measured.append((pair, estimate, obstacle))
    size = sum(not obstacle for _, _, obstacle in measured)
    found = []
    for pair, estimate, obstacle in measured:
        facts: dict[str, Any] = {"difference": pair.difference, "reason": obstacle}
        facts |= {} if obstacle else {"mark": pair.mark}
        if estimate is not None:
            own = known[pair.key]
            # Beside a verdict that could not be made, the interval is of this difference alone.
            low, high = estimate.interval(level, size if not obstacle else 1)
            facts |= {"low": max(low, -span), "high": min(high, span), "over": _over(own.block, pair.key.recipe)}
            facts["difference"] = pair.difference if pair.difference == pair.difference else estimate.value
            if not obstacle:
                p = estimate.p()
                facts |= {"p": p, "p_adjusted": adjusted(p, size), "detectable": estimate.detectable(level, size)}
                facts["verdict"] = _in_words(estimate, size, better, margin, level)
        found.append(
            Effect(pair.key, pair.baseline, metric, reduction, family, size, margin=margin, level=level, **facts)
        )
    return found


def _over(block: Block, arm: str) -> str:
    return block.over[block.arms.index(arm)] if block.over else ""


def _obstacle(estimate: Estimate, components: Components) -> str:
    """Return why nothing can be said of a difference that was measured, or an empty string."""
    if not components.varies:
        return "neither images nor runs vary"
    if estimate.groups < 2:
        return "all images are in one group"
    if estimate.units < 2:
        return "one training run an arm"
    return "" if estimate.p() == estimate.p() else "neither images nor runs vary"


def _in_words(estimate: Estimate, family: int, better: float, margin: float, level: float) -> Verdict:
    """Return the verdict on a difference that could be tested, by ``RULES``."""
    if margin == margin and estimate.within(margin, level, family):
        return "no relevant difference"
    if not adjusted(estimate.p(), family) <= level or estimate.value == 0:
        return "no evidence either way"
    return "helps" if (estimate.value > 0) == (better > 0) else "hurts"


#: How far the stated means may lie from those of the images: the rounding of what is stored.
_TOLERANCE = 1e-4
_NEEDED = ("segmenter", "arm", "replicate", "image", "value")
#: Beyond it squares of scores are no numbers.
_LARGEST = 1e100


def verdict(
    frame: pd.DataFrame, baseline: str | None = None, margin: float | None = None, *, lower_is_better: bool = False
) -> pd.DataFrame:
    """Compare every arm of a table of scores with a baseline, as reports of studies do.

    Args:
        frame: one row an image, replicate, arm and segmenter, columns ``segmenter, arm, replicate, image, value``
            (``value`` empty where an image has none), and any of ``group`` (patient or video of the image), ``fold``,
            ``fit``, ``pool``, ``subset`` (which of these a replicate used).
        baseline: the arm to compare with; by default the one called ``baseline`` or ``real``, or the only one.
        margin: differences below it do not matter; needed for *no relevant difference*.
        lower_is_better: as for a distance.

    Returns:
        One row a comparison: ``segmenter, arm, baseline, difference, low, high, p, p_adjusted, detectable, verdict,
        over, reason``; sentences that must be shown with it in ``attrs["notes"]``.

    Raises:
        DataError: a column is missing, a value is no finite number, an image is scored twice, or no baseline is clear.
    """
    import pandas as pd

    table = _checked(frame)
    arms = list(dict.fromkeys(table["arm"]))
    against = _baseline(arms, baseline)
    if margin is not None and not 0 < margin < np.inf:
        raise DataError(f"A margin is a number above 0 in units of the score, got {margin:g}.")
    known: dict[ArmKey, Components] = {}
    notes: list[str] = []
    pairs: list[Pair] = []
    for segmenter, rows in table.groupby("segmenter", sort=False):
        found, problems = blocks(rows, empty=NAN)
        for arm, reason in problems.items():
            if "twice" in reason:
                raise DataError(f"{segmenter}, {arm}: {reason}; take the repeated rows out.")
        for block in found:
            components = Components(block)
            known |= {ArmKey("", "", str(segmenter), arm): components for arm in block.arms}
            notes += unequal_notes(components, str(segmenter))
        own = list(dict.fromkeys(rows["arm"]))
        for arm in own:
            obstacle = problems.get(arm) or problems.get(against, "")
            pairs += [Pair(ArmKey("", "", str(segmenter), arm), against, NAN, obstacle)] if arm != against else []
    if "group" not in frame:
        notes.append("No groups are given, so every image counts as independent of the others.")
    effects = judge(pairs, known, better=-1.0 if lower_is_better else 1.0, margin=NAN if margin is None else margin)
    columns = ("difference", "low", "high", "p", "p_adjusted", "detectable", "verdict", "over", "reason")
    result = pd.DataFrame(
        [
            {"segmenter": e.key.segmenter, "arm": e.key.recipe, "baseline": e.baseline}
            | {name: getattr(e, name) for name in columns}
            for e in effects
        ],
        columns=["segmenter", "arm", "baseline", *columns],
    )
    result.attrs["notes"] = notes
    return result


def unequal_notes(components: Components, where: str) -> list[str]:
    """Return a sentence where one arm varies more from run to run than pooling over arms can show."""
    return [
        f"{where}: {arm} varies more from run to run (standard deviation {own:.3f}) than the other arms "
        f"({others:.3f}), which intervals take to vary alike: its own may be too narrow, and those of the others are "
        "too wide."
        for arm, (own, others) in components.unequal().items()
    ]


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table as blocks are made from it.

    Raises:
        DataError: as ``verdict`` says.
    """
    import pandas as pd

    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        there = [str(name) for name in frame.columns]
        meant = (
            nearest(missing[0], there) if len(there) > 1 else " (there is one column alone: separate them by commas)"
        )
        raise DataError(f"There is no column {missing[0]!r}{meant}; scores need {', '.join(_NEEDED)}.")
    if frame.empty:
        raise DataError("There are no scores: the table has no rows.")
    table = frame[[*_NEEDED, *(name for name in ("group", *FACTORS) if name in frame)]].reset_index(drop=True)
    for name in ("segmenter", "arm", "replicate", "image"):
        if table[name].isna().any():
            raise DataError(f"Row {int(table[name].isna().to_numpy().argmax()) + 2} has no {name}.")
        table[name] = table[name].astype(str)
    values = pd.to_numeric(table["value"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = (np.isnan(values) & table["value"].notna().to_numpy()) | (np.abs(values) > _LARGEST)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"Row {at + 2} has the value {table['value'].iloc[at]!r}: a score is a finite number or empty.")
    if "group" in table:
        several = table.drop_duplicates(["image", "group"])["image"]
        if several.duplicated().any():
            image = several[several.duplicated()].iloc[0]
            raise DataError(f"Image {image!r} is in several groups; an image has one patient or video, in every row.")
    defined = ~np.isnan(values)
    return table.assign(numerator=np.where(defined, values, 0.0), denominator=defined.astype(np.float64))


def _baseline(arms: Sequence[str], asked: str | None) -> str:
    """Return the arm to compare with.

    Raises:
        DataError: it is not there, or none is clear.
    """
    if asked is not None:
        if asked not in arms:
            raise DataError(f"There is no arm {asked!r}{nearest(asked, arms)}; there are {', '.join(arms)}.")
        return asked
    alone = [arm for arm in arms if arm in ("baseline", "real") or (arm.startswith("real=") and "," not in arm)]
    if len(alone) != 1:
        raise DataError(f"Which arm is the baseline? Name one of {', '.join(arms)} (--baseline).")
    return alone[0]
