"""The mirror of a study in MLflow: what is found there, what an outage costs, what a killed harness leaves."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.plan import build_plan
from harness.engine.run import Summary, specification
from harness.engine.worker import run_stage
from harness.store.results import Store, write_json
from harness.study.loaded import LoadedStudy
from harness.study.schema import Study
from harness.study.yaml_document import Document
from harness.tracking import records
from harness.tracking.mirror import Mirror
from harness.tracking.study_runs import StudyRuns

PLUGINS = '''
import json
import numpy as np
from harness.learning import Checkpoint, Generator, Parameters, Sample, Segmenter


class MeanParameters(Parameters):
    steps: int = 4
    noise: float = 8.0


class Mean(Generator):
    """The mean image with noise."""

    name = "mean"
    Parameters = MeanParameters

    def fit(self, pairs, context):
        for step in range(1, self.parameters.steps + 1):
            context.log(step, loss=1.0 / step)
            if step % 2 == 0:
                folder = context.checkpoint_folder(step)
                value = pairs.images.mean() * step / self.parameters.steps
                (folder / "mean.json").write_text(json.dumps(value))
                context.log_images("samples", step, pairs.images[:4])
                yield Checkpoint(step, folder)

    def sample(self, checkpoint, seeds, context, masks=None):
        mean = json.loads((checkpoint.folder / "mean.json").read_text())
        size = context.pairs.size
        images, made = [], []
        for seed in seeds:
            random = np.random.default_rng(int(seed))
            images.append(np.clip(random.normal(mean, self.parameters.noise, (*size, 3)), 0, 255).astype(np.uint8))
            made.append((random.random(size) < 0.1).astype(np.uint8))
        return Sample(np.stack(made), np.stack(images))


class Tiny(Segmenter):
    """Never trained here."""

    name = "tiny"
    label = "tiny"
    batch_size = 4

    def module(self, steps):
        raise NotImplementedError
'''


def make_plan(plugins: Path, name: str = "tiny", seeds: int = 2, select: bool = False):
    pairs = {"plugin": f"{plugins}:Mean", "noise": 5.0}
    if select:
        pairs["select"] = {"by": "mask-area", "samples": 4}
    value = {
        "title": "A tiny study",
        "dataset": {
            "name": "phantom",
            "size": 16,
            "options": {"count": 24},
            "split": {"holdout": {"report": 0.3, "select": 0.2}},
        },
        "generators": {"mean": {"pairs": pairs}},
        "segmenters": [{"plugin": f"{plugins}:Tiny"}],
        "train": [{"real": 4, "synthetic": {"mean": [0, 3]}}],
        "budget": {"steps": 4},
        "seeds": seeds,
        "controls": [],
    }
    return build_plan(LoadedStudy(name, "", Study.model_validate(value), Document(value)))


def commit_by_hand(store: Store, stage, values: dict) -> None:
    folder = store.work_folder(stage.key)
    folder.mkdir(parents=True)
    rows = [{"name": "loss", "value": 0.5, "step": 1, "time": 1.7e9}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"kind": stage.kind, "label": stage.label, "key": stage.key, "parts": stage.parts, "values": values}
    record |= {"notes": ["Random encoder weights."], "seconds": 2.0, "finished": 1.7e9 + 2, "host": "here"}
    store.commit(stage.kind, stage.key, {**record, "device": "CPU", "commit": "abc-dirty", "versions": {"torch": "2"}})


def score_of(number: int) -> float:
    return 0.5 + 0.01 * number


def fill(store: Store, plan) -> None:
    """Run the cheap stages for real and write the results of the others."""
    scores = iter(range(1000))
    for stage in plan.stages.values():
        if store.find(stage.kind, stage.key) is not None:
            continue
        if stage.kind == "train":
            commit_by_hand(store, stage, {"best-step": 3, "weights": "w"})
        elif stage.kind == "evaluate":
            score = score_of(next(scores))
            values = {"scores": {"iou": {"micro": 0.1, "micro-imagewise": score}}, "images": 4, "sizes": {}}
            commit_by_hand(store, stage, {**values, "size-limits": [], "shape": [4, 16, 16], "leak": ""})
        else:
            spec = specification(stage, plan, store)
            assert run_stage(spec), store.failure(stage.key)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with a finished study, made once."""
    root = tmp_path_factory.mktemp("template")
    plugins = root / "plugins.py"
    plugins.write_text(PLUGINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_HOME", str(root / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        fill(Store(), make_plan(plugins))
    return root


@pytest.fixture
def place(template, empty_database, tmp_path, monkeypatch):
    shutil.copytree(template / "home", tmp_path / "home")
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns")
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARNESS_MLRUNS", str(tmp_path / "mlruns"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(template, place):
    return make_plan(template / "plugins.py")


def mirror_all(plan, store=None):
    mirror = Mirror(plan, store or Store())
    return mirror.close(mirror.replay(), timeout_s=None)


def runs_of(name: str = "tiny"):
    from mlflow import MlflowClient

    from harness.tracking.connection import tracking_uri

    client = MlflowClient(tracking_uri())
    runs = list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))
    parents = [run for run in runs if run.data.tags["harness.kind"] == "study"]
    return client, parents, [run for run in runs if run not in parents]


def one(runs, kind: str):
    return next(run for run in runs if run.data.tags["harness.kind"] == kind)


# names, files, averages


@given(st.text(min_size=1, max_size=300))
@settings(max_examples=300, deadline=None)
def test_clean_names_are_accepted_by_mlflow_and_stay(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    cleaned = records.clean_name(name)
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(cleaned)
    assert records.clean_name(cleaned) == cleaned


def test_a_clean_name_is_readable():
    name = "iou micro-imagewise/unetplusplus real=100,dcgan=300"
    assert records.clean_name(name) == "iou micro-imagewise/unetplusplus real_100_dcgan_300"


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 30))
@settings(deadline=None)
def test_a_growing_metrics_file_is_read_once_whatever_the_pieces(tmp_path_factory, pieces, cut):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    file, seen, step = records.MetricsFile(), [], 0
    text = ""
    for piece in pieces:
        for _ in range(piece):
            text += json.dumps({"name": "loss", "value": step / 2, "step": step, "time": 1.0}) + "\n"
            step += 1
        # The writer may be in the middle of a line.
        path.write_text(text[: max(0, len(text) - cut)] if piece % 2 else text)
        seen += [row.step for row in file.new_rows(path)]
    path.write_text(text)
    seen += [row.step for row in file.new_rows(path)]
    assert sorted(set(seen)) == list(range(step))
    if all(piece % 2 == 0 for piece in pieces):
        assert seen == list(range(step))


def test_a_metrics_file_that_was_cut_back_is_read_again(tmp_path):
    path, file = tmp_path / "metrics.jsonl", records.MetricsFile()

    def line(step, value):
        return json.dumps({"name": "loss", "value": value, "step": step, "time": 1.0}) + "\n"

    path.write_text(line(1, 1.0) + line(2, 2.0))
    assert len(file.new_rows(path)) == 2
    path.write_text(line(1, 1.0) + line(2, 7.0) + line(3, 8.0))
    assert [row.value for row in file.new_rows(path)] == [1.0, 7.0, 8.0]
    assert file.new_rows(path) == []


def test_infinite_values_become_not_a_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"name": "loss", "value": Infinity, "step": 0, "time": 1.0}\n')
    assert math.isnan(records.MetricsFile().new_rows(path)[0].value)


def test_an_average_is_never_taken_over_fewer_runs_than_planned(plan):
    keys = [cell.evaluate for cell in plan.cells if cell.recipe.label == "real=4"]
    whole = records.averages(plan, dict.fromkeys(keys, 0.25) | {keys[0]: 0.75})
    by_recipe = {average.recipe: average for average in whole}
    assert by_recipe["real=4"].value == pytest.approx(0.5)
    assert by_recipe["real=4,mean=3"].value is None
    thinned = records.averages(plan, {keys[0]: 0.75})
    assert [(a.value, a.done, a.planned) for a in thinned if a.recipe == "real=4"] == [(None, 1, 2)]


# the mirror


def test_everything_of_a_study_is_found_and_a_second_time_adds_nothing(plan):
    told = mirror_all(plan)
    assert (told.added, told.present, told.missing) == (len(plan.stages), 0, 0)
    client, (parent,), children = runs_of()
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.info.run_name for run in children) == sorted(stage.label for stage in plan.stages.values())
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert parent.data.params["title"] == "A tiny study"
    assert parent.data.params["training-sets"] == '["real=4", "real=4,mean=3"]'
    evaluations = {run.data.tags["harness.stage-key"]: run for run in children}
    for recipe, name in (("real=4", "real_4"), ("real=4,mean=3", "real_4_mean_3")):
        scores = [
            Store().find("evaluate", cell.evaluate).values["scores"]["iou"]["micro-imagewise"]
            for cell in plan.cells
            if cell.recipe.label == recipe
        ]
        assert parent.data.metrics[f"iou micro-imagewise/tiny {name}"] == pytest.approx(np.mean(scores))
        cell = next(cell for cell in plan.cells if cell.recipe.label == recipe)
        assert evaluations[cell.evaluate].data.tags["harness.recipe"] == recipe
    again = mirror_all(plan)
    assert (again.added, again.present) == (0, len(plan.stages))
    _, parents, later = runs_of()
    assert len(parents) == 1
    assert {run.info.run_id for run in later} == {run.info.run_id for run in children}
    fit = one(children, "fit")
    assert len(client.get_metric_history(fit.info.run_id, "loss")) == 4


def test_a_stage_has_its_parameters_curves_pictures_dataset_and_origin(plan):
    mirror_all(plan)
    client, _, children = runs_of()
    fit = one(children, "fit")
    assert fit.data.params["mean.noise"] == "5.0"
    assert fit.data.params["real"] == "all"
    history = [(m.step, m.value) for m in client.get_metric_history(fit.info.run_id, "loss")]
    assert history == [(step, 1.0 / step) for step in (1, 2, 3, 4)]
    pictures = {item.path for item in client.list_artifacts(fit.info.run_id, "images/samples")}
    assert pictures == {"images/samples/2.png", "images/samples/4.png"}
    train = one(children, "train")
    (dataset,) = train.inputs.dataset_inputs
    assert dataset.dataset.name == "phantom"
    assert plan.dataset.fingerprint.startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.profile)["images"] == 24
    tags = train.data.tags
    assert (tags["harness.commit"], tags["mlflow.source.git.commit"]) == ("abc-dirty", "abc")
    assert tags["harness.seconds"] == "2.000"
    assert "Random encoder weights." in tags["mlflow.note.content"]
    assert train.info.end_time - train.info.start_time == 2000
    assert one(children, "evaluate").data.metrics["scores/iou/micro"] == pytest.approx(0.1)


def test_the_model_of_a_fit_samples_what_the_store_samples(plan):
    import mlflow
    import pandas as pd

    from harness.engine.stages.pool import item_seeds
    from harness.tracking.connection import tracking_uri

    mirror_all(plan)
    _, _, children = runs_of()
    fit = one(children, "fit")
    (model,) = fit.outputs.model_outputs
    mlflow.set_tracking_uri(tracking_uri())
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    pairs = loaded.predict(pd.DataFrame({"seed": [0], "n": [3]}))
    sampled = (r for r in Store().results() if r.record["kind"] == "sample" and r.record["parts"]["seed"] == 0)
    pool = np.load(next(sampled).folder / "pairs" / "images.npy")
    np.testing.assert_array_equal(np.stack([pair["image"] for pair in pairs]), pool[:3])
    single = loaded.predict(pd.DataFrame({"seed": [int(item_seeds(0, 2)[1])]}))
    np.testing.assert_array_equal(single[0]["image"], pool[1])
    held = {f"phantom/{name}" for name in plan.splits[0].ids("fit")}
    assert set(pairs[0]["lineage"]) == held


def test_a_selected_checkpoint_is_the_model_of_its_selection(template, place):
    from harness.engine.sampling import find_fitted
    from harness.tracking.models import open_model

    plan, store = make_plan(template / "plugins.py", name="selected", select=True), Store()
    fill(store, plan)
    mirror_all(plan)
    _, _, children = runs_of("selected")
    assert not one(children, "fit").outputs.model_outputs
    (model,) = one(children, "select").outputs.model_outputs
    selection = next(result for result in store.results() if result.record["kind"] == "select")
    for fitted in (open_model(f"models:/{model.model_id}"), find_fitted(selection.key[:12])):
        assert fitted.checkpoint.step == selection.values["step"]
        assert fitted.selected == set(selection.values["seen"])


def test_a_stage_that_two_studies_share_has_a_run_in_each(plan, template):
    mirror_all(plan)
    more = make_plan(template / "plugins.py", seeds=3)
    fill(Store(), more)
    told = mirror_all(more)
    assert (told.added, told.present) == (len(more.stages), 0)
    _, parents, children = runs_of()
    assert len(parents) == 2
    fits = [run for run in children if run.data.tags["harness.kind"] == "fit"]
    assert len({run.data.tags["harness.stage-key"] for run in fits}) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in fits} == {run.info.run_id for run in parents}


def test_a_failure_is_shown_with_its_reason_until_the_stage_has_a_result(plan):
    store, stage = Store(), next(s for s in plan.stages.values() if s.kind == "train")
    result = store.find(stage.kind, stage.key)
    mirror = Mirror(plan, store)
    mirror.started(stage)
    mirror.failed(stage, {"status": "out-of-memory", "reason": "batch 8 is too large", "time": time.time()})
    mirror.close(Summary(failures={stage.key: {"status": "out-of-memory"}}))
    _, (parent,), (run,) = runs_of()
    assert (run.info.status, parent.info.status) == ("FAILED", "FAILED")
    assert run.data.tags["harness.status"] == "out-of-memory"
    assert "batch 8" in run.data.tags["mlflow.note.content"]
    # Another process has run it since: this one hears of the result only.
    mirror = Mirror(plan, store)
    mirror.finished(stage, result, stored_before=True)
    mirror.close(Summary(stored_before=[stage.key]))
    _, (parent,), (run,) = runs_of()
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert "harness.reason" not in run.data.tags
    assert "batch 8" not in run.data.tags["mlflow.note.content"]


def test_metrics_of_a_running_stage_are_seen_before_it_ends(plan):
    store, stage = Store(), next(s for s in plan.stages.values() if s.kind == "fit")
    runs = StudyRuns(plan, store, None)
    runs.open()
    runs.started(stage, time.time())
    folder = store.work_folder(stage.key)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"name": "loss", "value": 3.0, "step": 1, "time": 1.0}\n{"name": "lo')
    runs.follow()
    client, _, (run,) = runs_of()
    assert run.info.status == "RUNNING"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [3.0]


def test_what_a_killed_harness_left_running_is_set_right(plan, monkeypatch):
    from harness.tracking import study_runs

    store, stage = Store(), next(s for s in plan.stages.values() if s.kind == "train")
    shutil.rmtree(store.result_folder(stage.kind, stage.key))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = {**study_runs._this_process(), "pid": ended.pid}
    with monkeypatch.context() as patch:
        patch.setattr(study_runs, "_this_process", lambda: process)
        killed = StudyRuns(plan, store, None)
        killed.open()
        killed.started(stage, time.time())
    StudyRuns(plan, store, None).open()
    _, (parent,), (run,) = runs_of()
    assert run.info.status == "KILLED"
    assert "killed" in run.data.tags["harness.reason"]
    assert parent.info.status in ("RUNNING", "KILLED")


def test_a_stage_that_a_living_process_works_on_stays_running(plan):
    store, stage = Store(), next(s for s in plan.stages.values() if s.kind == "train")
    shutil.rmtree(store.result_folder(stage.kind, stage.key))
    assert store.claim(stage.key)
    first = StudyRuns(plan, store, None)
    first.open()
    first.started(stage, time.time())
    StudyRuns(plan, store, None).open()
    _, _, (run,) = runs_of()
    assert run.info.status == "RUNNING"


# outages


def test_a_broken_database_costs_one_sentence_and_is_caught_up_with(plan, place, capsys):
    database = place / "mlruns" / "mlflow.db"
    database.write_bytes(b"this is no database" * 100)
    told = mirror_all(plan)
    assert told.missing > 0
    assert told.added == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "harness track sync tiny" in said.err
    assert len(said.err.strip().splitlines()) == 2
    database.unlink()
    told = mirror_all(plan)
    assert (told.added, told.missing) == (len(plan.stages), 0)


def test_a_server_that_is_not_there_delays_nobody(plan, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store, stage = Store(), next(s for s in plan.stages.values() if s.kind == "train")
    mirror = Mirror(plan, store)
    mirror.started(stage)
    mirror.finished(stage, store.find(stage.kind, stage.key), stored_before=False)
    told = mirror.close(Summary(done=[stage.key]))
    assert told.missing == 2
    assert "http://127.0.0.1:9" in told.problem
    assert "harness track sync tiny" in capsys.readouterr().err


def test_an_interrupted_outage_is_made_good_when_the_mirror_is_closed(plan, place):
    database = place / "mlruns" / "mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"this is no database" * 100)
    mirror = Mirror(plan, Store())
    summary = mirror.replay()
    deadline = time.monotonic() + 30
    while not mirror._missed and time.monotonic() < deadline:
        time.sleep(0.05)
    database.write_bytes(good)
    told = mirror.close(summary, timeout_s=None)
    assert (told.added, told.missing) == (len(plan.stages), 0)


def test_processes_that_create_one_database_at_once_do_not_break_each_other(tmp_path):
    code = f"from harness.tracking.connection import connect; connect('sqlite:///{tmp_path / 'new.db'}')"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in both]
    assert ended == [("", 0), ("", 0)]


# the command


def test_track_sync_logs_what_is_missing(plan, place, template, capsys):
    from harness.cli import main

    study = {name: value for name, value in plan.loaded.document.value.items() if name != "title"}
    folder = place / "studies"
    folder.mkdir()
    write_json(folder / "synced.yaml", study)
    with pytest.raises(SystemExit) as ended:
        main(["track", "sync", "synced", "--json"])
    assert ended.value.code in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], told["stored"]) == (len(plan.stages), len(plan.stages))
    assert told["uri"] == f"sqlite:///{place / 'mlruns' / 'mlflow.db'}"
