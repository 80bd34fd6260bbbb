"""Do verdicts keep what they promise? Simulated studies of realistic shape, judged as reports judge them.

    python -m benchmarks.statistics [--studies 400] [--replicates 2 3 5 10] [--cases NAME ...] [--seed 0] [--json]

A study has two segmenters and eight arms, one of them the baseline, scored on 199 images whose IoU is distributed as
that of real polyps: a tenth are missed, a few are found badly, the others follow a Beta distribution. Arms differ from
each other by image (deviation .010 of a paired mean), by run, and by run and image. What is printed of each case:

* **false alarms**: share of studies with a "helps" or "hurts" where nothing is true (0.05 is promised);
* **coverage** of the 95 % interval of single differences, and of all 14 simultaneous ones together;
* **power** at the printed detectable effect (0.80 is promised);
* **false equivalence**: share of arms called "no relevant difference" that differ by the margin (0.05 is promised);
* **named**: share of studies with a note that an arm varies more than the others;
* **best lost**: share of studies in which the best arm is marked as worse (0.05 is promised);
* **detectable**: its median, and **widest**: the 95th percentile of the width of intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.results.schema import LEVEL
from harness.stats.design import Array, Block
from harness.stats.estimator import Components, Estimate, adjusted

SEGMENTERS, ARMS, IMAGES, GROUPS = 2, 8, 199, 60
FAMILY = SEGMENTERS * (ARMS - 1)
#: Deviation of what an arm does to an image, and of what a run does to an image of an arm, in IoU.
_BY_IMAGE, _BY_RUN_AND_IMAGE = 0.09, 0.08

Runs = Callable[[np.random.Generator, int], Array]


@dataclass(frozen=True)
class Case:
    """A kind of study.

    Attributes:
        name: of the case.
        runs: draws what runs do to the score of each arm, (ARMS, R).
        grouped: whether images come in groups (60 patients) that the arms move together.
        units: how many runs share a fit; 1 when each has its own.
    """

    name: str
    runs: Runs
    grouped: bool = False
    units: int = 1


def _equal(deviation: float) -> Runs:
    return lambda rng, runs: rng.normal(0, deviation, (ARMS, runs))


def _mixed(deviations: Array) -> Runs:
    return lambda rng, runs: rng.normal(0, 1, (ARMS, runs)) * deviations[rng.permutation(ARMS), None]


def _heavy(rng: np.random.Generator, runs: int) -> Array:
    return rng.standard_t(3, (ARMS, runs)) * 0.01 / 3**0.5


def _fits(trainings: int) -> Runs:
    """Fits move an arm by .01, and each is trained on several times; the baseline has no fit."""

    def draw(rng: np.random.Generator, runs: int) -> Array:
        of_fits = rng.normal(0, 0.01, (ARMS, runs)).repeat(trainings, axis=1)
        of_fits[0] = 0.0
        return of_fits + rng.normal(0, 0.005, of_fits.shape)

    return draw


CASES = (
    *(Case(f"run deviation {deviation:.3f}", _equal(deviation)) for deviation in (0.005, 0.01, 0.02, 0.03)),
    Case("mixed evenly, .005 to .03", _mixed(np.linspace(0.005, 0.03, ARMS))),
    Case("few unsteady, .005 to .03", _mixed(np.geomspace(0.005, 0.03, ARMS))),
    Case("heavy tails", _heavy),
    Case("60 groups, .010", _equal(0.01), grouped=True),
    Case("fits drawn anew", _fits(1)),
    Case("3 trainings a fit", _fits(3), units=3),
)


def study(case: Case, replicates: int, rng: np.random.Generator, effects: Sequence[float] = ()) -> list[Block]:
    """Return the blocks of one study: one a segmenter.

    Args:
        case: its kind.
        replicates: R, or how many fits where runs share them.
        rng: what it draws from.
        effects: what is added to the last arms, in order.
    """
    group = rng.integers(0, GROUPS, IMAGES) if case.grouped else np.arange(IMAGES)
    made = []
    for _ in range(SEGMENTERS):
        base = rng.beta(9, 2, IMAGES)
        luck = rng.random(IMAGES)
        base = np.where(luck < 0.10, 0.0, np.where(luck < 0.15, 0.5 * rng.random(IMAGES), base))
        moves = rng.normal(0, _BY_IMAGE, (ARMS, IMAGES))
        if case.grouped:
            moves = 0.7 * moves + 0.7 * rng.normal(0, _BY_IMAGE, (ARMS, GROUPS))[:, group]
        runs = case.runs(rng, replicates)
        scores = base + (base > 0) * (moves[:, None] + rng.normal(0, _BY_RUN_AND_IMAGE, (*runs.shape, IMAGES)))
        # Not cut to 0..1: a cut would move the arms' means, and so what is true.
        scores += runs[:, :, None]
        for arm, effect in enumerate(effects, start=ARMS - len(effects)):
            scores[arm] += effect
        names, at = np.unique(group, return_inverse=True)
        member = np.zeros((IMAGES, len(names)))
        member[np.arange(IMAGES), at] = 1.0
        counts = np.broadcast_to(member.sum(axis=0), (*runs.shape, len(names)))
        made.append(
            Block(
                tuple(f"arm{a}" for a in range(ARMS)),
                tuple(str(r) for r in range(runs.shape[1])),
                np.arange(runs.shape[1]) // case.units,
                tuple(str(name) for name in names),
                scores @ member,
                counts,
                np.ones((runs.shape[1], len(names)), np.bool_),
            )
        )
    return made


def _differences(blocks: Sequence[Block]) -> list[Estimate]:
    return [known.difference(f"arm{a}", "arm0") for known in map(Components, blocks) for a in range(1, ARMS)]


def measure(case: Case, replicates: int, studies: int, seed: int = 0) -> dict[str, float]:
    """Return the measured rates of one case, by the names of this module's first lines.

    Args:
        case: the kind of study.
        replicates: how many runs an arm has (or fits).
        studies: how many are simulated, twice: once with nothing true, once with effects of the detectable size.
        seed: of the simulation.
    """
    rng = np.random.default_rng((seed, replicates, [c.name for c in CASES].index(case.name)))
    alarms, covered, together, detectable, widths, lost, named = 0, [], 0, [], [], 0, 0
    for _ in range(studies):
        blocks = study(case, replicates, rng)
        found = _differences(blocks)
        alarms += min(adjusted(e.p(), FAMILY) for e in found) <= LEVEL
        ends = [e.interval() for e in found]
        covered += [low <= 0 <= high for low, high in ends]
        widths += [high - low for low, high in ends]
        together += all(low <= 0 <= high for low, high in (e.interval(family=FAMILY) for e in found))
        detectable += [e.detectable(family=FAMILY) for e in found]
        known = Components(blocks[0])
        lost += "arm0" in known.not_the_best()
        named += bool(known.unequal())
    size = float(np.median(detectable))
    seen, equal = [], []
    for _ in range(studies):
        found = _differences(study(case, replicates, rng, (size,)))
        last = [found[ARMS - 2], found[-1]]
        seen += [e.value > 0 and adjusted(e.p(), FAMILY) <= LEVEL for e in last]
        # A margin of that size is where a true difference of exactly the margin is hardest to tell from less.
        equal += [e.within(size) for e in last]
    return {
        "false alarms": alarms / studies,
        "coverage": float(np.mean(covered)),
        "all covered": together / studies,
        "power": float(np.mean(seen)),
        "false equivalence": float(np.mean(equal)),
        "best lost": lost / studies,
        "named": named / studies,
        "detectable": size,
        "widest": float(np.quantile(widths, 0.95)),
    }


def main() -> None:
    """Print the rates of every case and number of replicates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--replicates", type=int, nargs="+", default=[2, 3, 5, 10])
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if asked.cases and case.name not in asked.cases:
            continue
        for replicates in asked.replicates:
            rates = measure(case, replicates, asked.studies, asked.seed)
            rows.append({"case": case.name, "replicates": replicates} | rates)
            if not asked.json:
                if len(rows) == 1:
                    print("| case | replicates | " + " | ".join(rates) + " |")
                    print("|:--|--:|" + "--:|" * len(rates))
                values = " | ".join(f"{value:.3f}" for value in rates.values())
                print(f"| {case.name} | {replicates} | {values} |", flush=True)
    if asked.json:
        print(json.dumps({"studies": asked.studies, "rates": rows}, indent=2))


if __name__ == "__main__":
    main()
