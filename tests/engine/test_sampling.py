"""Sampling from what a store holds: a pool's generator makes that pool again, whatever fit it shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.data.pairs import PairSet
from harness.engine.executors import make_executor
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import run_plan
from harness.engine.sampling import find_fitted
from harness.store.results import Store

SHADES = '''

class Shade(Painter):
    """Paints in a shade that the fit knows nothing of."""

    name = "shade"
    sampling = frozenset({"shift"})
'''


def test_generators_that_share_a_fit_are_sampled_each_with_its_own_parameters(temp_study: Any) -> None:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + SHADES)
    made = ", ".join(
        f'{name}: {{pairs: {{plugin: "{temp_study.plugins}:Shade", shift: {shift}}}}}'
        for name, shift in (("dark", 0), ("light", 40))
    )
    chosen = (f"generators={{{made}}}", "train=[]", "controls=[]", "compare.against=null", "fidelity=null")
    plan, store = build_plan(load_study("twelve", settings=chosen)), Store()
    assert run_plan(plan, store, make_executor("in-process", None)).complete
    assert [stage.kind for stage in plan.stages.values()].count("fit") == 1
    for name in ("dark", "light"):
        pool = next(result for result in store.results() if result.record["label"] == f"sample {name}")
        fitted = find_fitted(f"sample {name}", store=store)
        images = fitted.sample(fitted.pool_seeds(0, 5), torch.device("cpu")).images
        np.testing.assert_array_equal(images, PairSet.load(pool.folder / "pairs").images[:5])
