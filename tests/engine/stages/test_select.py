"""Choosing a generator's checkpoint: scored as soon as it exists, never twice, and never a worthless one."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine.collect import collect
from harness.engine.graph import Plan, Stage
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import specification
from harness.engine.stages import select as selecting
from harness.engine.stages.score_ahead import score_ahead
from harness.engine.worker import run_stage
from harness.report.render import render
from harness.store.results import Store

PLUGINS = '''

class Dicer(Painter):
    """Draws from every global random generator while it fits, and from them all again while it samples."""

    name = "dicer"

    def fit(self, pairs, context):
        import random

        import torch

        torch.manual_seed(context.seed)
        np.random.seed(context.seed)
        random.seed(context.seed)
        for step in range(1, self.parameters.checkpoints + 1):
            folder = context.checkpoint_folder(step)
            drawn = [torch.rand(1).item(), np.random.rand(), random.random()]
            (folder / "colours.json").write_text(json.dumps({"inside": [200.0] * 3, "outside": [9.0 * step] * 3}))
            (folder / "drawn.json").write_text(json.dumps(drawn))
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                yield Checkpoint(step, folder)

    def sample(self, checkpoint, seeds, context, masks=None):
        import random

        import torch

        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return super().sample(checkpoint, seeds, context, masks)


class Worthless(Painter):
    """Of four checkpoints, the first makes one picture, the second empty masks, the third fair pairs, as the last."""

    name = "worthless"

    class Parameters(Parameters):
        fail: bool = False
        shift: int = 0
        checkpoints: int = 4

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, np.zeros_like(seeds) if checkpoint.step == 1 else seeds, context)
        if checkpoint.step == 2:
            return Sample(masks=np.zeros_like(made.masks), images=made.images)
        if checkpoint.step == 4:
            fair = Checkpoint(3, checkpoint.folder.parent / "3")
            return super().sample(fair, seeds, context)
        return made
'''


@pytest.fixture
def study(temp_study: Any) -> Any:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + PLUGINS)
    return temp_study


def planned(study: Any, plugin: str, **select: Any) -> tuple[Plan, Store]:
    choice = {"by": "thumbnail-distance", "samples": 6, **select}
    count = "" if plugin == "Worthless" else ", checkpoints: 3"
    pairs = f'{{plugin: "{study.plugins}:{plugin}"{count}, select: {json.dumps(choice)}}}'
    settings = (f"generators.paint={{pairs: {pairs}}}", "seeds=1", "controls=[]")
    return build_plan(load_study("twelve", settings=settings)), Store()


def stage_of(plan: Plan, kind: str) -> Stage:
    return next(stage for stage in plan.stages.values() if stage.kind == kind)


def run(plan: Plan, store: Store, kind: str, ahead: bool = True) -> bool:
    spec = specification(stage_of(plan, kind), plan, store)
    return run_stage(spec if ahead else {**spec, "selections": []})


def scored(plan: Plan, store: Store) -> dict[str, Any]:
    state = torch.load(store.work_folder(stage_of(plan, "select").key) / "state.pt", weights_only=True)
    return state["state"]["scored"]


def test_every_checkpoint_is_scored_when_it_exists_and_never_again(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = planned(study, "Painter")
    assert run(plan, store, "dataset")
    seen: list[list[str]] = []
    original = score_ahead

    def watched(*arguments: Any) -> bool:
        done = original(*arguments)
        seen.append(sorted(scored(plan, store)))
        return done

    monkeypatch.setattr("harness.engine.stages.fit.score_ahead", watched)
    assert run(plan, store, "fit")
    assert seen == [["1"], ["1", "2"], ["1", "2", "3"]]
    curve = (store.work_folder(stage_of(plan, "select").key) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [1, 2, 3]
    monkeypatch.setattr(selecting, "sample_pairs", lambda *_: pytest.fail("a checkpoint was sampled twice"))
    assert run(plan, store, "select")


def test_what_is_chosen_and_fitted_does_not_depend_on_when_scores_are_computed(study: Any, tmp_path: Any) -> None:
    results = {}
    for ahead in (True, False):
        plan, _ = planned(study, "Dicer")
        store = Store(tmp_path / str(ahead))
        assert run(plan, store, "dataset", ahead)
        assert run(plan, store, "fit", ahead), store.failure(stage_of(plan, "fit").key)
        work = store.work_folder(stage_of(plan, "select").key)
        assert sorted(scored(plan, store) if work.exists() else []) == (["1", "2", "3"] if ahead else [])
        assert run(plan, store, "select", ahead), store.failure(stage_of(plan, "select").key)
        fit = store.find("fit", stage_of(plan, "fit").key)
        selection = store.find("select", stage_of(plan, "select").key)
        assert fit is not None
        assert selection is not None
        drawn = [(fit.folder / "checkpoints" / str(step) / "drawn.json").read_text() for step in (1, 2, 3)]
        results[ahead] = (drawn, selection.values)
    assert results[True] == results[False]


def test_a_checkpoint_that_was_made_anew_is_scored_anew(study: Any) -> None:
    plan, store = planned(study, "Painter")
    assert run(plan, store, "dataset")
    assert run(plan, store, "fit")
    before = {step: row["thumbnail-distance"] for step, row in scored(plan, store).items()}
    fit = store.find("fit", stage_of(plan, "fit").key)
    assert fit is not None
    (fit.folder / "checkpoints" / "2" / "colours.json").write_text('{"inside": [0, 0, 0], "outside": [255, 0, 255]}')
    assert run(plan, store, "select")
    selection = store.find("select", stage_of(plan, "select").key)
    assert selection is not None
    after = {str(row["step"]): row["thumbnail-distance"] for row in selection.values["rows"]}
    assert after["1"] == before["1"]
    assert after["2"] > 2 * before["2"]


def test_a_score_that_fails_costs_no_fit_and_is_told_by_the_selection(
    study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, store = planned(study, "Painter")
    assert run(plan, store, "dataset")
    tried: list[int] = []

    def broken(*_: Any) -> None:
        tried.append(1)
        raise RuntimeError("the scale is broken")

    monkeypatch.setattr(selecting, "sample_pairs", broken)
    assert run(plan, store, "fit")
    assert len(tried) == 1
    assert "could not be scored during the fit: the scale is broken" in capsys.readouterr().err
    assert not run(plan, store, "select")
    failure = store.failure(stage_of(plan, "select").key)
    assert failure is not None
    assert "the scale is broken" in failure["reason"]
    monkeypatch.undo()


def test_only_the_steps_that_are_asked_for_are_scored(study: Any) -> None:
    plan, store = planned(study, "Painter", among=[2])
    for kind in ("dataset", "fit"):
        assert run(plan, store, kind)
    assert list(scored(plan, store)) == ["2"]
    assert run(plan, store, "select")
    selection = store.find("select", stage_of(plan, "select").key)
    assert selection is not None
    assert selection.values["step"] == 2


def test_worthless_checkpoints_are_reported_and_never_chosen_and_ties_are_told(study: Any) -> None:
    plan, store = planned(study, "Worthless", then="mask-area")
    for kind in ("dataset", "fit", "select"):
        assert run(plan, store, kind), store.failure(stage_of(plan, kind).key)
    selection = store.find("select", stage_of(plan, "select").key)
    assert selection is not None
    problems = {row["step"]: row["problem"] for row in selection.values["rows"]}
    assert problems[1] == "all its 6 images are the same picture"
    assert problems[2] == "all its 6 masks are empty"
    assert problems[3] == problems[4] == ""
    assert math.isnan(selection.values["rows"][0]["thumbnail-distance"])
    assert selection.values["step"] == 3
    assert "Checkpoint 1 of worthless cannot be chosen: all its 6 images are the same picture." in selection.notes
    tie = "Checkpoints 3 and 4 of worthless tie by thumbnail-distance; 3 was chosen by mask-area, then the earliest."
    assert tie in selection.notes


def test_the_table_and_the_curve_of_a_selection_are_in_the_report(study: Any, tmp_path: Path) -> None:
    plan, store = planned(study, "Worthless", then="mask-area")
    for kind in ("dataset", "fit", "select"):
        assert run(plan, store, kind)
    selection = store.find("select", stage_of(plan, "select").key)
    assert selection is not None
    assert not {"tables", "figures"} & {path.name for path in selection.folder.iterdir()}
    report = render(replace(collect(plan, store), tables=["selection"], figures=["selection"]), tmp_path / "r").parent
    with (report / "tables" / "selection.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["chosen"] for row in rows] == ["False", "False", "True", "False"]
    for row, known in zip(rows, selection.values["rows"], strict=True):
        for metric in ("thumbnail-distance", "mask-area"):
            assert (row[metric] == "") == math.isnan(known[metric])
            assert row[metric] == "" or float(row[metric]) == pytest.approx(known[metric])
    assert r"\textbf{3}" in (report / "tables" / "selection.tex").read_text()
    for ending in ("png", "pdf"):
        assert (report / "figures" / f"selection.{ending}").stat().st_size > 1000


def test_the_time_of_scores_is_that_of_the_selection_not_of_the_fit(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = planned(study, "Painter")
    assert run(plan, store, "dataset")
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    original = selecting.sample_pairs

    def slow(*arguments: Any) -> Any:
        clock[0] += 100.0
        return original(*arguments)

    monkeypatch.setattr(selecting, "sample_pairs", slow)
    assert run(plan, store, "fit")
    assert run(plan, store, "select")
    fit = store.find("fit", stage_of(plan, "fit").key)
    selection = store.find("select", stage_of(plan, "select").key)
    assert fit is not None
    assert selection is not None
    assert fit.record["seconds"] == 0.0
    assert selection.record["seconds"] == pytest.approx(300.0)


@pytest.mark.usefixtures("mlflow_home")
def test_the_curve_is_in_mlflow_while_the_fit_still_runs(study: Any) -> None:
    from mlflow import MlflowClient

    from harness.tracking.connection import tracking_uri
    from harness.tracking.study_runs import StudyRuns

    plan, store = planned(study, "Painter")
    assert run(plan, store, "dataset")
    runs = StudyRuns(plan, store, None)
    runs.open()
    fit, select = stage_of(plan, "fit"), stage_of(plan, "select")
    runs.started(fit, 1.0)
    assert run(plan, store, "fit")
    runs.follow()
    client = MlflowClient(tracking_uri(None))
    wanted = f"tags.`harness.stage-key` = '{select.key}'"
    (curve,) = client.search_runs([runs.experiment], wanted)
    assert [m.step for m in client.get_metric_history(curve.info.run_id, "thumbnail-distance")] == [1, 2, 3]
    assert run(plan, store, "select")
    runs.started(select, 2.0)
    result = store.find("select", select.key)
    assert result is not None
    runs.finished(select, result, stored_before=False)
    (curve,) = client.search_runs([runs.experiment], wanted)
    assert [m.step for m in client.get_metric_history(curve.info.run_id, "thumbnail-distance")] == [1, 2, 3]
    assert curve.info.status == "FINISHED"
    kept = {artifact.path for artifact in client.list_artifacts(curve.info.run_id)}
    assert "images" in kept
