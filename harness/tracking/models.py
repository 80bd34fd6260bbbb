"""Fitted generators in MLflow: logging them as models, and opening them again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.fitted_generator import FittedGenerator
from harness.errors import HarnessError
from harness.tracking.connection import connect, one_line, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL_CODE = Path(__file__).with_name("generator_model.py")


def log_generator(client: MlflowClient, experiment: str, run: str, fitted: FittedGenerator) -> str:
    """Log a generator as a model of a run, and return the model's id; ``models:/ID`` loads it.

    Args:
        client: of the tracking server.
        experiment: id.
        run: id of the run that made it.
        fitted: what to log; its checkpoint is copied.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput

    name = fitted.generator.name
    tags = {"harness.stage-key": fitted.key, "harness.checkpoint": str(fitted.checkpoint.step)}
    parameters = {"plugin": name, "version": fitted.generator.version, "checkpoint": str(fitted.checkpoint.step)}
    with tempfile.TemporaryDirectory() as temporary:
        source, packed = Path(temporary) / "generator", Path(temporary) / "model"
        fitted.save(source)
        model = client.create_logged_model(experiment, name, run, tags, parameters, model_type="generator")
        mlflow.pyfunc.save_model(
            path=str(packed),
            python_model=str(_MODEL_CODE),
            artifacts={"generator": str(source)},
            # The harness itself is what a model needs; resolving its libraries would take longer than a fit on a CPU.
            pip_requirements=["synthetic-segmentation-harness"],
        )
        client.log_model_artifacts(model.model_id, str(packed))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, fitted.checkpoint.step)])
    return str(model.model_id)


def open_model(address: str, uri: str | None = None) -> FittedGenerator:
    """Open a generator that was logged to MLflow.

    Args:
        address: ``models:/ID``, ``runs:/RUN/NAME``, or any other that MLflow loads.
        uri: of the tracking server.

    Raises:
        HarnessError: there is no such model, or it is not a generator of this harness.
    """
    server = tracking_uri(uri)
    try:
        connect(server)
        import mlflow

        mlflow.set_tracking_uri(server)
        loaded: Any = mlflow.pyfunc.load_model(address)
        found = loaded.unwrap_python_model().fitted
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(f"MLflow at {server} gives no generator for {address!r}: {one_line(error)}") from error
    if not isinstance(found, FittedGenerator):
        raise HarnessError(f"The model {address!r} is not a generator of this harness.")
    return found


def stage_of_run(run: str, uri: str | None = None) -> tuple[str, str, list[str]]:
    """Return the kind and store key of the stage that an MLflow run mirrors, and the addresses of the models it made.

    Raises:
        HarnessError: there is no such run, or it does not mirror a stage.
    """
    server = tracking_uri(uri)
    try:
        found = connect(server).get_run(run)
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(f"MLflow at {server} has no run {run!r}: {one_line(error)}") from error
    tags = found.data.tags
    if "harness.stage-key" not in tags:
        raise HarnessError(
            f"The MLflow run {run!r} is not the run of a stage; open the study and take the run of a fit."
        )
    models = [f"models:/{model.model_id}" for model in (found.outputs.model_outputs if found.outputs else [])]
    return tags["harness.kind"], tags["harness.stage-key"], models
