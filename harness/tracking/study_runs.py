"""The MLflow side of a study: its parent run and one nested run a stage. Every method may raise what MLflow raises."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.fitted_generator import FittedGenerator
from harness.engine.graph import Plan, Stage
from harness.engine.run import Summary
from harness.engine.stages.dataset import DatasetStage
from harness.engine.stages.evaluate import EvaluateStage
from harness.engine.stages.fit import FitStage
from harness.engine.stages.select import SelectStage
from harness.engine.stages.train import TrainStage
from harness.engine.worker import git_commit
from harness.learning.work_folder import LoggedValue, metrics_file, pictures_folder
from harness.plugins.registry import load_plugin
from harness.store.results import Result, Store, digest
from harness.tracking import records
from harness.tracking.connection import artifact_location, connect, locked, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Set last on a run whose stage is mirrored completely, to the key of its result.
_MIRRORED = "harness.mirrored"
_PARENT = "mlflow.parentRunId"
_METRICS_A_CALL = 1000
_OTHERS_A_CALL = 100
_FAILED_STATUS = {"skipped": "KILLED", "left": "KILLED"}
#: What MLflow calls the use that a stage makes of its dataset.
_CONTEXTS = {
    DatasetStage.name: "dataset",
    FitStage.name: "training",
    TrainStage.name: "training",
    EvaluateStage.name: "evaluation",
}


@dataclass
class _StageRun:
    """What is known of a stage's run without asking again."""

    id: str
    status: str
    mirrored: str = ""
    reason: bool = False
    parameters: set[str] = field(default_factory=set)
    models: int = 0
    inputs: int = 0


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class StudyRuns:
    """The runs of one study run.

    Args:
        plan: the study's stages.
        store: where their results are.
        uri: of the tracking server; by default as :func:`harness.tracking.connection.tracking_uri` says.
    """

    def __init__(self, plan: Plan, store: Store, uri: str | None) -> None:
        self.plan = plan
        self.store = store
        self.uri = tracking_uri(uri)
        self.parent = ""
        self.experiment = ""
        self.added = 0
        self.present = 0
        self._client: MlflowClient | None = None
        self._runs: dict[str, _StageRun] = {}
        self._live: dict[str, records.MetricsFile] = {}
        self._scores: dict[str, float] = {}
        self._cells = records.cells_by_stage(plan)
        self._selections_of: dict[str, list[Stage]] = {}
        for select in (s for s in plan.stages.values() if s.kind == SelectStage.name):
            for fit in select.inputs["fit"]:
                self._selections_of.setdefault(fit, []).append(select)

    @property
    def client(self) -> MlflowClient:
        """The client of the open connection."""
        assert self._client is not None
        return self._client

    # opening

    def open(self) -> None:
        """Find or make the experiment and the parent run; set right what a killed harness left running."""
        if self.parent:
            return
        self._client = connect(self.uri)
        with self._lock():
            self.experiment = self._find_experiment()
            self.parent = self._find_parent()
        self._runs = dict(self._children(f"tags.`{_PARENT}` = '{self.parent}'"))
        self._set_right_what_was_killed()

    def reachable(self) -> bool:
        """Whether MLflow still answers."""
        try:
            self.client.get_run(self.parent)
        except (
            Exception
        ):  # MLflow, its database and its HTTP client each raise their own: all mean that it does not answer
            return False
        return True

    def _lock(self) -> Any:
        """Keep other processes on this store from making a run that this one is about to make."""
        return locked(self.store.root / "tracking.lock")

    def _find_experiment(self) -> str:
        name = self.plan.loaded.name
        found = self.client.get_experiment_by_name(name)
        if found is None:
            number = self.client.create_experiment(name, artifact_location(self.uri, name))
            # Without it MLflow's pages take every new experiment for one of language models.
            self.client.set_experiment_tag(number, "mlflow.experimentKind", "custom_model_development")
            return str(number)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_parent(self) -> str:
        loaded = self.plan.loaded
        tags = {
            "harness.kind": "study",
            "harness.study": loaded.name,
            "harness.profile": loaded.profile,
            "harness.plan": digest(sorted(self.plan.stages)),
        }
        # A filter cannot ask for an empty value, so the profile is compared here.
        wanted = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items() if value)
        found = next(
            (r for r in self._search(wanted) if r.data.tags.get("harness.profile", "") == loaded.profile), None
        )
        commit = git_commit()
        tags |= {
            "harness.protocol": loaded.study.protocol,
            "harness.host": socket.gethostname(),
            "harness.process": json.dumps(_this_process()),
            "harness.commit": commit,
            "harness.dataset-fingerprint": self.plan.dataset.fingerprint,
            "mlflow.note.content": records.study_note(self.plan, []),
        }
        if found is None:
            run = self.client.create_run(self.experiment, tags={**tags, **_origin(commit)}, run_name=loaded.folder_name)
            known: set[str] = set()
        else:
            run, known = found, set(found.data.params)
            self._log(run.info.run_id, tags=tags)
            if "harness.reason" in run.data.tags:
                self.client.delete_tag(run.info.run_id, "harness.reason")
            self.client.update_run(run.info.run_id, status="RUNNING")
        parameters = {n: v for n, v in records.study_parameters(self.plan).items() if n not in known}
        self._log(run.info.run_id, parameters=parameters)
        return str(run.info.run_id)

    def _search(self, wanted: str) -> Iterator[Run]:
        """Yield the runs of the experiment that a filter names, newest first."""
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment], wanted, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _children(self, wanted: str) -> Iterator[tuple[str, _StageRun]]:
        """Yield stage runs with their keys; of several with one key, a complete one comes last."""
        runs = sorted(self._search(wanted), key=lambda run: _MIRRORED in run.data.tags)
        for run in runs:
            tags = run.data.tags
            if "harness.stage-key" in tags:
                yield (
                    tags["harness.stage-key"],
                    _StageRun(
                        run.info.run_id,
                        run.info.status,
                        tags.get(_MIRRORED, ""),
                        bool(tags.get("harness.reason")),
                        set(run.data.params),
                        len(run.outputs.model_outputs) if run.outputs else 0,
                        len(run.inputs.dataset_inputs) if run.inputs else 0,
                    ),
                )

    def _set_right_what_was_killed(self) -> None:
        """End the runs that say RUNNING although the process that ran them has died."""
        running = list(self._search("attributes.status = 'RUNNING'"))
        dead = {run.info.run_id for run in running if _is_dead(run.data.tags.get("harness.process"))}
        for run in running:
            tags, number = run.data.tags, run.info.run_id
            if number in dead:
                self._end_killed(number)
            elif tags.get(_PARENT) in {*dead, self.parent} and "harness.stage-key" in tags:
                key = tags["harness.stage-key"]
                if self.store.find(tags["harness.kind"], key) is None and self.store.claimed_by(key) is None:
                    self._end_killed(number)
                    if key in self._runs:
                        self._runs[key].status, self._runs[key].reason = "KILLED", True
                elif tags.get(_PARENT) != self.parent and self.store.claimed_by(key) is None:
                    self.client.set_terminated(number, "FINISHED")

    def _end_killed(self, run: str) -> None:
        reason = "the harness was killed while it ran"
        tags = {"harness.status": "killed", "harness.reason": reason, "mlflow.note.content": f"**killed**: {reason}"}
        self._log(run, tags=tags)
        self.client.set_terminated(run, "KILLED")

    # stages

    def started(self, stage: Stage, when: float) -> None:
        """Show a stage as running since ``when`` (Unix seconds), and follow its metrics."""
        run = self._run_of(stage, when)
        if run.status != "RUNNING":
            self.client.update_run(run.id, status="RUNNING")
            run.status = "RUNNING"
        self._log(run.id, tags={"harness.status": "running"})
        self._forget_reason(run)
        self._live.setdefault(stage.key, records.MetricsFile())

    def follow(self) -> None:
        """Log what running stages have measured since the last look."""
        for key in list(self._live):
            for select in self._selections_of.get(key, ()):
                self._live.setdefault(select.key, records.MetricsFile())
        for key, file in self._live.items():
            rows = file.new_rows(metrics_file(self.store.work_folder(key)))
            if rows:
                # The checkpoints of a running fit are scored before their own stage has started.
                self._log(self._run_of(self.plan.stages[key], rows[0].time).id, metrics=rows)

    def finished(self, stage: Stage, result: Result, stored_before: bool) -> None:
        """Log everything that a stage left, unless it is there already."""
        self._take_score(stage, result)
        known = self._runs.get(stage.key)
        if known is not None and known.mirrored == result.key:
            self.present += 1
            return
        ended = float(result.record.get("finished") or time.time())
        run = self._run_of(stage, ended - float(result.record.get("seconds", 0.0)))
        tags = records.result_tags(result, stored_before)
        notes = "\n".join(f"* {note}" for note in result.notes)
        if notes:
            tags["mlflow.note.content"] = notes[: records.LONGEST_TAG]
        file = self._live.pop(stage.key, records.MetricsFile())
        metrics = metrics_file(result.folder)
        rows = file.new_rows(metrics) + records.measured_numbers(result, records.metric_names(metrics))
        self._forget_reason(run)
        self._log(run.id, metrics=rows, tags=tags)
        self._log_dataset(stage, run)
        self._log_files(run.id, result)
        if stage.kind in (FitStage.name, SelectStage.name) and not run.models:
            self._log_model(stage, result, run)
        self.client.set_terminated(run.id, "FINISHED", _milliseconds(ended))
        self._log(run.id, tags={_MIRRORED: result.key})
        run.mirrored, run.status = result.key, "FINISHED"
        self.added += 1

    def failed(self, stage: Stage, failure: dict[str, Any]) -> None:
        """Show why a stage has no result."""
        status = str(failure.get("status", "failed"))
        reason = str(failure.get("reason", ""))
        ended = float(failure.get("time") or time.time())
        run = self._run_of(stage, ended)
        file = self._live.pop(stage.key, None)
        if file is not None:
            self._log(run.id, metrics=file.new_rows(metrics_file(self.store.work_folder(stage.key))))
        tags = {"harness.status": status, "harness.reason": reason, "mlflow.note.content": f"**{status}**: {reason}"}
        self._log(run.id, tags={name: value[: records.LONGEST_TAG] for name, value in tags.items()})
        self.client.set_terminated(run.id, _FAILED_STATUS.get(status, "FAILED"), _milliseconds(ended))
        run.status, run.mirrored, run.reason = "FAILED", "", True

    def _forget_reason(self, run: _StageRun) -> None:
        """Take away why an earlier try of a stage had no result."""
        if run.reason:
            for name in ("harness.reason", "mlflow.note.content"):
                self.client.delete_tag(run.id, name)
            run.reason = False

    def _run_of(self, stage: Stage, started: float) -> _StageRun:
        """Return the stage's run under this parent; make it when there is none."""
        if stage.key in self._runs:
            return self._runs[stage.key]
        with self._lock():
            # Another process on this study may have made it since the runs were listed.
            wanted = f"tags.`{_PARENT}` = '{self.parent}' AND tags.`harness.stage-key` = '{stage.key}'"
            found = dict(self._children(wanted)).get(stage.key)
            if found is None:
                tags = records.stage_tags(self.plan, stage, self._cells)
                run = self.client.create_run(
                    self.experiment,
                    _milliseconds(started),
                    {**tags, **_origin(""), _PARENT: self.parent},
                    stage.label,
                )
                found = _StageRun(run.info.run_id, "RUNNING")
        self._runs[stage.key] = found
        parameters = {n: v for n, v in records.parameters_of(stage).items() if n not in found.parameters}
        self._log(found.id, parameters=parameters)
        return found

    def _take_score(self, stage: Stage, result: Result) -> None:
        if stage.kind == EvaluateStage.name:
            metric, reduction = self.plan.loaded.study.primary.primary
            score = EvaluateStage.read(result).scores.get(metric, {}).get(reduction)
            if score is not None:
                self._scores[stage.key] = float(score)

    def _log(
        self,
        run: str,
        metrics: Iterable[LoggedValue] = (),
        parameters: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Log in calls as large as a tracking server takes."""
        from mlflow.entities import Metric, Param, RunTag

        rows = [Metric(row.name, row.value, _milliseconds(row.time), row.step) for row in metrics]
        for start in range(0, len(rows), _METRICS_A_CALL):
            self.client.log_batch(run, metrics=rows[start : start + _METRICS_A_CALL])
        pairs = [Param(name, value) for name, value in (parameters or {}).items()]
        for start in range(0, len(pairs), _OTHERS_A_CALL):
            self.client.log_batch(run, params=pairs[start : start + _OTHERS_A_CALL])
        words = [RunTag(name, value) for name, value in (tags or {}).items() if value]
        for start in range(0, len(words), _OTHERS_A_CALL):
            self.client.log_batch(run, tags=words[start : start + _OTHERS_A_CALL])

    def _log_dataset(self, stage: Stage, run: _StageRun) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        read = records.dataset_stage(self.plan, stage)
        context = _CONTEXTS.get(stage.kind)
        if read is None or context is None or run.inputs:
            return
        facts, held = DatasetStage.facts(read), self.store.find(read.kind, read.key)
        counts = {name: int(value) for name, value in DatasetStage.numbers(held)} if held else {}
        source = {"source": facts.source, "fingerprint": facts.fingerprint, "split": facts.split}
        dataset = Dataset(
            name=facts.source,
            digest=facts.fingerprint[:16],
            source_type="code",
            source=json.dumps({"tags": source}),
            profile=json.dumps({**counts, "size": facts.size, "geometry": facts.geometry}),
        )
        self.client.log_inputs(run.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
        run.inputs = 1

    def _log_files(self, run: str, result: Result) -> None:
        """Upload pictures and the record itself."""
        pictures = pictures_folder(result.folder)
        if pictures.is_dir():
            self.client.log_artifacts(run, str(pictures), "images")
        self.client.log_artifact(run, str(result.record_file))

    def _log_model(self, stage: Stage, result: Result, run: _StageRun) -> None:
        """Log a learned generator at its selected checkpoint, or at its last one when none is selected."""
        from harness.tracking.models import log_generator

        if stage.key in self._selections_of:
            return
        fit = result if stage.kind == FitStage.name else self.store.find(FitStage.name, stage.inputs["fit"][0])
        if fit is None or not load_plugin("generators", stage.runtime["target"]).card.learns:
            return
        selection = result if stage.kind == SelectStage.name else None
        fitted = FittedGenerator.from_store(self.store, fit, selection, runtime=stage.runtime, pictures=False)
        log_generator(self.client, self.experiment, run.id, fitted)
        run.models = 1

    # closing

    def log_report(self, folder: Path) -> None:
        """Attach a rendered report to the parent run."""
        if folder.is_dir():
            self.client.log_artifacts(self.parent, str(folder), "report")

    def close(self, summary: Summary | None) -> None:
        """Put the averages on the parent run and end it; without a summary the run was interrupted."""
        averages = records.averages(self.plan, self._scores)
        now = time.time()
        rows = [
            LoggedValue(records.average_name(self.plan, one), one.value, 0, now)
            for one in averages
            if one.value is not None
        ]
        tags = {"mlflow.note.content": records.study_note(self.plan, averages)}
        if summary is not None:
            counts = {
                "stages/run": len(summary.done),
                "stages/stored-before": len(summary.stored_before),
                "stages/without-result": len(summary.failures),
            }
            rows += [LoggedValue(name, float(count), 0, now) for name, count in counts.items()]
            tags["harness.status"] = "complete" if summary.complete else "incomplete"
        else:
            tags["harness.status"] = "interrupted"
        self._log(self.parent, metrics=rows, tags=tags)
        ended = "KILLED" if summary is None else ("FINISHED" if summary.complete else "FAILED")
        self.client.set_terminated(self.parent, ended)


def _origin(commit: str) -> dict[str, str]:
    """Return the tags from which MLflow's pages show who made a run and with what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    tags = {"mlflow.user": user, "mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {})


def _this_process() -> dict[str, Any]:
    import psutil

    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _is_dead(process: str | None) -> bool:
    """Whether a tag names a process of this machine that has ended; of other machines nothing is known."""
    import psutil

    if not process:
        return False
    try:
        told = json.loads(process)
        if told["host"] != socket.gethostname():
            return False
        found = psutil.Process(int(told["pid"]))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - told["started"]) > 1.0
    except psutil.NoSuchProcess:
        return True
    except (psutil.AccessDenied, KeyError, ValueError, TypeError):
        return False
