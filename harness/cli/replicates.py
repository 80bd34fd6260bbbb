"""How many replicates a study needs: at which look it stands, and what it could see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.engine.graph import Plan
    from harness.report.findings import Findings
    from harness.store.results import Store
    from harness.study.loaded import LoadedStudy


def plans_of_looks(loaded: LoadedStudy) -> Iterator[Plan]:
    """Yield the plan of a study at each of its looks; of one that does not decide, its plan."""
    from harness.engine.plan import build_plan

    for place in range(len(loaded.study.decide.looks) if loaded.study.decide else 1):
        yield build_plan(replace(loaded, study=loaded.study.at_look(place)))


def standing(plan: Plan, store: Store) -> bool:
    """Say whether a study stands at a look: something of it is left to run, or all that it asks for is decided."""
    from harness.engine.run import targets
    from harness.stats.planning import decided

    left = any(store.find(plan.stages[key].kind, key) is None for key in targets(plan))
    return left or decided(_findings(plan, store).effects)


def _findings(plan: Plan, store: Store) -> Findings:
    from harness.engine.collect import collect
    from harness.report.findings import Findings

    return Findings(collect(plan, store))


def power_in_words(plan: Plan, store: Store) -> list[str]:
    """Return what a plan could see, by its own stored runs or else by those of a study of the same dataset."""
    from harness.report.format import number
    from harness.stats.planning import power

    own = _findings(plan, store)
    comparison = own.results.comparison
    family = len(comparison.baselines) * len(plan.segmenters)
    if not family:
        return ["Power: this study compares nothing."]
    replicates = plan.loaded.study.repeats.count
    for name, findings in [("its own runs", own), *_similar(plan, store)]:
        theirs = findings.results.comparison
        known = findings.measured(theirs.metric, theirs.reduction).components
        pairs = [(key, theirs.baselines[key.recipe]) for key in known if key.recipe in theirs.baselines]
        found = power(pairs, known, replicates, family, comparison.margin)
        if not found:
            continue
        lines = [f"Power, by {name}, for {family} comparisons in one family:"]
        for one in found:
            seen = f"{replicates} replicates find an effect of {number(one.detectable)} in 80 % of repetitions"
            line = f"  {one.segmenter}: {seen if replicates > 1 else 'one replicate shows no effect'}"
            if comparison.margin == comparison.margin:
                margin, least = number(comparison.margin), number(one.limit)
                needs = (
                    f"needs {one.needed} replicates"
                    if one.needed
                    else (
                        f"is seen by no number of them, since these images leave {least}: score more, such as all folds"
                    )
                )
                line += f"; the margin of {margin} {needs}"
            lines.append(f"{line}.")
        return lines
    return [
        "Power: neither this study nor another of its dataset has two complete replicates of an arm and its baseline "
        "in the store; run two first (--set replicates=2), and what varies is known."
    ]


def _similar(plan: Plan, store: Store) -> Iterator[tuple[str, Findings]]:
    """Yield the findings of other studies of the same dataset and primary metric that have something stored."""
    from harness.engine.load import load_study
    from harness.engine.run import targets
    from harness.errors import HarnessError
    from harness.study.find import list_studies
    from harness.study.yaml_document import read_document

    study = plan.loaded.study
    for name, path in list_studies().items():
        try:
            profiles = [None, *(read_document(path).value.get("profiles") or {})]
        except HarnessError:
            continue
        for profile in profiles:
            try:
                loaded = load_study(name, profile)
                other = loaded.study
                if (other.dataset.name, other.primary.primary) != (study.dataset.name, study.primary.primary):
                    continue
                for looked in plans_of_looks(loaded):
                    if sum(store.find(looked.stages[key].kind, key) is not None for key in targets(looked)) > 1:
                        yield f"runs of {loaded.folder_name}", _findings(looked, store)
            except HarnessError:
                continue
