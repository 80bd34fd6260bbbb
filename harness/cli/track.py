"""``harness track``: the mirror of studies in MLflow."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(help="The mirror of studies in MLflow.", no_args_is_help=True)


@app.command()
def sync(
    name: Annotated[str, typer.Argument(help="Name of a study in studies/, or the path of a YAML file.")],
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Overrides to apply, such as smoke.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="PATH=VALUE override, as in a run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Log to MLflow every stored result of a study that it lacks. The store is the truth; nothing is run."""
    from harness.engine.load import load_study
    from harness.engine.plan import build_plan
    from harness.errors import HarnessError
    from harness.store.results import Store
    from harness.tracking.connection import tracking_uri
    from harness.tracking.mirror import Mirror

    plan = build_plan(load_study(name, profile, tuple(settings or ())))
    mirror = Mirror(plan, Store())
    summary = mirror.replay()
    if not as_json:
        print(f"{len(summary.stored_before)} of {len(plan.stages)} stages have a result here.", file=sys.stderr)
    mirrored = mirror.close(summary, timeout_s=None)
    if mirrored.missing:
        raise HarnessError(f"{mirrored.problem}; {mirrored.missing} records are missing there. Run this again later.")
    if as_json:
        document = {"uri": tracking_uri(), "stored": len(summary.stored_before), "added": mirrored.added}
        print(json.dumps({**document, "present": mirrored.present}, indent=2))
        return
    print(f"MLflow at {tracking_uri()}: {mirrored.added} stages added, {mirrored.present} were there.")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open MLflow on the runs of this project; Ctrl-C ends it."""
    import os

    from harness.tracking.connection import connect, tracking_uri

    uri = tracking_uri()
    if uri.startswith("http"):
        print(f"MLFLOW_TRACKING_URI names a server; open {uri}")
        return
    connect(uri)
    print(f"MLflow on {uri}: http://{host}:{port}/#/experiments?workflowType=machine_learning", file=sys.stderr)
    # MLflow's own interpreter, one worker and no job runner: two processes instead of fifteen.
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, [*command, "--host", host, "--port", str(port)], environment)
