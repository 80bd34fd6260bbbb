"""What single stages promise: nesting, lineage of refinement, and the choice of a checkpoint."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.pairs import PairSet
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.stages.dataset import RealPairs
from harness.engine.stages.select import choose
from harness.errors import HarnessError
from harness.store.results import Store


@pytest.mark.usefixtures("finished_study")
def test_subsets_of_real_pairs_nest_and_depend_on_their_seed() -> None:
    plan = build_plan(load_study("twelve"))
    result = Store().find("dataset", plan.datasets[0])
    assert result is not None
    real = RealPairs(result.folder)
    fit = [f"twelve/{name}" for name in real.split.ids("fit")]
    assert real.first(None, 0).ids == tuple(sorted(fit))
    orders = {real.first(len(fit), seed).ids for seed in range(8)}
    assert len(orders) > 1
    for count in range(1, len(fit)):
        assert real.first(count, 3).ids == real.first(len(fit), 3).ids[:count]


def test_every_seed_and_recipe_is_a_training_of_its_own(temp_study: Any) -> None:
    plan = build_plan(load_study("twelve"))
    assert len({cell.train for cell in plan.cells}) == len(plan.recipes) * 2 == len(plan.cells)


SILENT = '''

class Silent(Dimmer):
    """Does not say what it used of all the real pairs that it was shown."""

    name = "silent"


class Frank(Dimmer):
    """Says that it used the source alone."""

    name = "frank"

    def refine(self, synthetic, sources, seeds, context):
        made = super().refine(synthetic, sources, seeds, context)
        return Sample(masks=made.masks, images=made.images, sources=tuple((name,) for name in sources.ids))
'''


@pytest.mark.parametrize(("refiner", "narrow"), [("Silent", False), ("Frank", True)])
def test_a_refiner_has_seen_what_it_names_or_else_everything(temp_study: Any, refiner: str, narrow: bool) -> None:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + SILENT)
    generator = f'{{pairs: {{plugin: resample}}, refine: [{{plugin: "{temp_study.plugins}:{refiner}"}}]}}'
    answer = temp_study.run("--set", f"generators.paint={generator}", "--set", "controls=[]", "--set", "seeds=1")
    assert answer.code == 0, answer.err
    folder = next((temp_study.project / ".harness" / "store" / "results" / "refine").iterdir())
    pairs = json.loads((folder / "pairs" / "pairs.json").read_text())
    provenance = json.loads((folder / "provenance.json").read_text())
    every = len(build_plan(load_study("twelve")).splits[0].ids("fit"))
    sizes = {len(pairs["lineages"][i]) for i in pairs["lineage"]}
    # resample names its one source, so what is more than one real pair comes from the refiner
    assert sizes == ({1} if narrow else {every})
    assert (len(provenance["refined"]) == every) is not narrow
    assert set(provenance["refined"]) <= {i for lineage in pairs["lineages"] for i in lineage}
    assert provenance["refined"]


def row(step: int, fid: float, sim: float = 0.0, problem: str = "") -> dict[str, Any]:
    return {"step": step, "fid": fid, "sim": sim, "problem": problem}


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row(1, 3.0), row(2, 1.0), row(3, 2.0)], 2),
        ([row(1, 1.0, sim=0.2), row(2, 1.0, sim=0.9)], 2),
        ([row(1, 1.0), row(2, 1.0)], 1),
        ([row(1, math.nan), row(2, 9.0)], 2),
        ([row(1, -math.inf), row(2, 9.0)], 2),
        ([row(1, 0.0, problem="constant"), row(2, 9.0)], 2),
    ],
)
def test_the_best_checkpoint_is_chosen_by_score_then_tie_breaker_then_the_earlier(
    rows: list[dict[str, Any]], best: int
) -> None:
    assert choose(rows, ["fid", "sim"], [True, False]) == best


def test_when_nothing_is_sound_nothing_is_chosen() -> None:
    with pytest.raises(
        HarnessError,
        match=r"No checkpoint can be chosen by fid \(1: its score is not a number; 2: all its 8 masks are empty\)",
    ):
        choose([row(1, math.nan), row(2, 1.0, problem="all its 8 masks are empty")], ["fid"], [True])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.booleans())
def test_no_checkpoint_is_better_than_the_chosen(scores: list[float], lower: bool) -> None:
    rows = [row(step, score) for step, score in enumerate(scores)]
    chosen = scores[choose(rows, ["fid"], [lower])]
    assert chosen == (min(scores) if lower else max(scores))


FRAIL = '''

class Frail(Dimmer):
    """Writes down what it is given, and is killed the third time."""

    name = "frail"

    def refine(self, synthetic, sources, seeds, context):
        log = Path(__file__).with_name("calls.txt")
        before = log.read_text().splitlines() if log.exists() else []
        log.write_text("\\n".join([*before, synthetic.ids[0]]))
        if len(before) == 2:
            raise KeyboardInterrupt
        return super().refine(synthetic, sources, seeds, context)
'''


def test_a_killed_refinement_goes_on_where_it_was(temp_study: Any, monkeypatch: Any) -> None:
    from harness.engine.executors import make_executor
    from harness.engine.run import run_plan
    from harness.engine.stages import refine
    from harness.learning.work_folder import WorkFolder

    temp_study.plugins.write_text("from pathlib import Path\n" + temp_study.plugins.read_text() + FRAIL)
    monkeypatch.setattr(refine, "_CHUNK", 2)
    monkeypatch.setattr(WorkFolder, "should_save", lambda self: True)

    def pool(refiner: str) -> PairSet:
        declared = f'{{pairs: {{plugin: resample}}, refine: [{{plugin: "{temp_study.plugins}:{refiner}"}}]}}'
        chosen = (f"generators.paint={declared}", "train=[{synthetic: {paint: 7}}]", "controls=[]", "seeds=1")
        plan, store = build_plan(load_study("twelve", settings=(*chosen, "compare.against=null"))), Store()
        run_plan(plan, store, make_executor("in-process", None))
        found = store.find("refine", plan.pools[0].key)
        assert found is not None
        return PairSet.load(found.folder / "pairs")

    with pytest.raises(KeyboardInterrupt):
        pool("Frail")
    refined, whole = pool("Frail"), pool("Dimmer")
    calls = temp_study.plugins.with_name("calls.txt").read_text().split()
    assert calls == [f"resample/{first:06d}" for first in (0, 2, 4, 4, 6)]
    assert (refined.images == whole.images).all()
    assert refined.lineage == whole.lineage
