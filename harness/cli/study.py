"""``harness study``: list, show, plan, run and status of declared studies."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.engine.graph import Plan, Stage
    from harness.store.results import Store

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a study in studies/, or the path of a YAML file.")]
Profile = Annotated[str | None, typer.Option("--profile", "-p", help="Overrides to apply, such as smoke or quick.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="PATH=VALUE override, as in train.0.real=50.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Cells to run, as in 'unetplusplus * real=100'.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the studies with their titles and profiles."""
    from harness.errors import DeclarationError
    from harness.study.find import list_studies
    from harness.study.schema import Study
    from harness.study.yaml_document import read_document

    rows = []
    for name, path in list_studies().items():
        try:
            value = read_document(path).value
        except DeclarationError as error:
            value = {"title": f"cannot be read: {error}"}
        title = str(value.get("title") or Study.model_fields["title"].default)
        rows.append({"name": name, "title": title, "profiles": list(value.get("profiles") or {}), "file": str(path)})
    if as_json:
        _print_json(rows)
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        profiles = f"  [{', '.join(row['profiles'])}]" if row["profiles"] else ""
        print(f"{row['name']:{width}}  {row['title']}{profiles}")


@app.command()
def show(name: Name, profile: Profile = None, settings: Settings = None, as_json: Json = False) -> None:
    """Check a study and show it as it will run: extended, with profile and settings applied, recipes expanded."""
    from harness.engine.load import load_study
    from harness.study.expand import expand_recipes

    loaded = load_study(name, profile, tuple(settings or ()))
    shown = {
        "name": loaded.name,
        "profile": loaded.profile,
        "study": loaded.study.model_dump(mode="json", exclude_none=True),
        "recipes": [recipe.label for recipe in expand_recipes(loaded.study)],
    }
    if as_json:
        _print_json(shown)
        return
    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = None
    writer.dump(shown["study"], sys.stdout)
    print("# training sets: " + "; ".join(shown["recipes"]))


def planned_study(
    name: str, profile: str | None, settings: list[str] | None, accept_code: bool = False, keep: bool = False
) -> tuple[Plan, Store]:
    """Return a study's plan, at the look at which it stands, and the store.

    It is noted for ``store explain``, and, to ``keep`` it, for ``store gc``.
    """
    from harness.cli.replicates import plans_of_looks, standing
    from harness.cli.running import note_plan
    from harness.engine.accepting import accept_older
    from harness.engine.load import load_study
    from harness.store.results import Store

    loaded = load_study(name, profile, tuple(settings or ()))
    store = Store()
    for plan in plans_of_looks(loaded):
        if accept_code:
            for stage in plan.stages.values():
                if store.find(stage.kind, stage.key) is None:
                    accept_older(plan, store, stage)
        if loaded.study.decide is None or standing(plan, store):
            break
    note_plan(plan, store, plan.loaded.folder_name, keep=keep)
    return plan, store


def _state(stage: Stage, store: Store) -> str:
    if store.find(stage.kind, stage.key) is not None:
        return "done"
    if store.claimed_by(stage.key) is not None:
        return "running"
    return "failed" if store.failure(stage.key) is not None else "left"


def _states(plan: Plan, store: Store, only: list[str] | None) -> list[tuple[Stage, str]]:
    from harness.engine.run import targets
    from harness.errors import DeclarationError

    keys = plan.needed(targets(plan, only or ()))
    if only and not keys:
        cells = sorted({cell.label for cell in plan.cells})
        raise DeclarationError(
            f"--only {' '.join(only)} names no cell; there are, for instance: {'; '.join(cells[:6])}."
        )
    return [(plan.stages[key], _state(plan.stages[key], store)) for key in keys]


@app.command()
def plan(
    name: Name,
    profile: Profile = None,
    settings: Settings = None,
    only: Only = None,
    executor: Annotated[str, typer.Option(help="As for run.")] = "local",
    jobs: Annotated[int | None, typer.Option(help="Stages at once.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Accepted as for run; changes no plan.")] = False,
    accept_code: Annotated[bool, typer.Option("--accept-code", help="Keep results that differ in code only.")] = False,
    power: Annotated[
        bool, typer.Option("--power", help="Also say what could be seen, by runs in the store, and how many would do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the stages, which are stored already, and how long the rest should take. Runs nothing."""
    from harness.cli.replicates import power_in_words
    from harness.engine.estimate import estimate_seconds, in_words
    from harness.engine.executors import make_executor
    from harness.engine.preflight import missing_weights

    running = make_executor(executor, jobs)
    at_once = running.free(large=True)
    planned, store = planned_study(name, profile, settings, accept_code)
    states = _states(planned, store, only)
    left = [stage for stage, state in states if state != "done"]
    seconds, unknown = estimate_seconds(left, store, at_once)
    seen = power_in_words(planned, store) if power else []
    if as_json:
        stages = [{"label": s.label, "kind": s.kind, "key": s.key, "state": state} for s, state in states]
        told = {"stages": stages, "left": len(left), "estimate_s": round(seconds, 1), "without_estimate": unknown}
        _print_json(told | ({"power": seen} if power else {}))
        return
    width = max(len(stage.label) for stage, _ in states)
    for stage, state in states:
        print(f"{state:7}  {stage.label:{width}}  {stage.key[:12]}")
    guess = in_words(seconds) + (f", and {unknown} stages that never ran here" if unknown else "")
    guess = guess if left else "nothing to do"
    print(f"{len(states)} stages, {len(states) - len(left)} stored, {len(left)} to run: {guess}")
    for note in [*planned.notes, *missing_weights(planned)]:
        print(f"note: {note}")
    for line in seen:
        print(line)


@app.command()
def run(
    name: Name,
    profile: Profile = None,
    settings: Settings = None,
    only: Only = None,
    executor: Annotated[str, typer.Option(help="local (a process a stage), in-process, or one of yours.")] = "local",
    jobs: Annotated[int | None, typer.Option(help="Stages at once; chosen from cores and accelerators.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    accept_code: Annotated[bool, typer.Option("--accept-code", help="Keep results that differ in code only.")] = False,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Mirror the run to MLflow.")] = True,
    as_json: Json = False,
) -> None:
    """Run what has no result yet, then render the report. The same command again resumes."""
    from harness.cli.running import run_shown
    from harness.engine.collect import collect
    from harness.engine.executors import make_executor
    from harness.engine.preflight import missing_weights
    from harness.errors import DeclarationError
    from harness.report.render import render

    planned, store = planned_study(name, profile, settings, accept_code, keep=True)
    missing = missing_weights(planned)
    if missing:
        raise DeclarationError(missing)
    command = command_line(name, profile, settings)

    def report(plan: Plan) -> Callable[[], Path]:
        return lambda: render(collect(plan, store, command), _report_folder(plan))

    while True:
        summary, page = run_shown(
            planned,
            store,
            make_executor(executor, jobs),
            stages=len(_states(planned, store, only)),
            track=track,
            report=report(planned),
            only=only or (),
            fail_fast=fail_fast,
            accept_code=accept_code,
        )
        if only or not summary.complete or planned.loaded.study.decide is None:
            break
        # What is undecided at this look gets the replicates of the next one.
        further, _ = planned_study(name, profile, settings, accept_code, keep=True)
        if further.loaded.study.look == planned.loaded.study.look:
            break
        planned = further
    _tell(summary, page, as_json)
    if not summary.complete:
        raise typer.Exit(1)


def _tell(summary: Any, report: Any, as_json: bool) -> None:
    failures = [{"label": f["label"], "status": f["status"], "reason": f["reason"]} for f in summary.failures.values()]
    if as_json:
        stored = len(summary.stored_before)
        _print_json({"ran": len(summary.done), "stored": stored, "failures": failures, "report": str(report)})
        return
    print(f"{len(summary.done)} stages run, {len(summary.stored_before)} were stored.", file=sys.stderr)
    for failure in failures:
        if failure["status"] != "skipped":
            print(f"{failure['label']}: {failure['status']}: {failure['reason']}", file=sys.stderr)
    if failures:
        print(
            f"{len(failures)} stages have no result; the report marks the holes. The same command tries them again.",
            file=sys.stderr,
        )
    print(f"Report: {report}")


def command_line(name: str, profile: str | None, settings: list[str] | None) -> str:
    """Return what a user types to get these results."""
    words = ["harness", "study", "run", name, *(["--profile", profile] if profile else [])]
    words += [word for setting in settings or [] for word in ("--set", setting)]
    return shlex.join(words)


def _report_folder(plan: Plan) -> Any:
    from harness.home import reports_folder

    return reports_folder() / plan.loaded.folder_name


@app.command()
def status(name: Name, profile: Profile = None, settings: Settings = None, as_json: Json = False) -> None:
    """Say what is done, running, failed and left, and how long the rest should take."""
    from harness.engine.estimate import estimate_seconds, in_words
    from harness.engine.executors import make_executor

    planned, store = planned_study(name, profile, settings)
    states = _states(planned, store, None)
    counts = {state: sum(s == state for _, s in states) for state in ("done", "running", "failed", "left")}
    rest = [stage for stage, state in states if state != "done"]
    seconds, unknown = estimate_seconds(rest, store, make_executor("local", None).free(large=True))
    failed = [(stage, store.failure(stage.key) or {}) for stage, state in states if state == "failed"]
    if as_json:
        reasons = [{"label": s.label, "status": f.get("status"), "reason": f.get("reason")} for s, f in failed]
        running = [stage.label for stage, state in states if state == "running"]
        _print_json(
            {
                **counts,
                "now": running,
                "failures": reasons,
                "estimate_s": round(seconds, 1),
                "without_estimate": unknown,
            }
        )
        return
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    for stage, state in states:
        if state == "running":
            print(f"running: {stage.label}")
    for stage, failure in failed:
        print(f"{failure.get('status', 'failed')}: {stage.label}: {failure.get('reason', '')}")
    if rest:
        print(f"The rest should take {in_words(seconds)}{f', and {unknown} stages never ran here' if unknown else ''}.")


@app.command()
def schema() -> None:
    """Print the JSON schema of a study, for completion in editors."""
    from harness.engine.load import study_schema

    print(study_schema())
