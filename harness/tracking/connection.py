"""Where MLflow is, and a client for it that neither waits for minutes nor prints."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.home import tracking_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's own defaults wait for minutes; a mirror that is out must be noticed in seconds.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SQLITE = "sqlite:///"
#: MLflow's own name of the table that holds its experiments.
_EXPERIMENTS = "experiments"


def tracking_uri(uri: str | None = None) -> str:
    """Return where runs go: ``uri``, else ``MLFLOW_TRACKING_URI``, else the database below ``mlruns/``.

    The path of a SQLite database is made absolute, because MLflow reads it relative to the folder of each process.
    """
    named = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{tracking_folder() / 'mlflow.db'}"
    file = database_file(named)
    return f"{_SQLITE}{file}" if file else named


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite address, absolute, or None for a server."""
    return Path(uri.removeprefix(_SQLITE)).expanduser().absolute() if uri.startswith(_SQLITE) else None


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where a new experiment keeps its files: below ``mlruns/artifacts``; None for a server."""
    if database_file(uri) is None:
        return None
    return (tracking_folder().absolute() / "artifacts" / experiment).as_uri()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it when its owner dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def connect(uri: str) -> MlflowClient:
    """Return a client, after creating the database when it is not there yet.

    Processes that create one database at once break each other's migrations (MLflow 3.17), so the first look is taken
    under a lock. The database is put in WAL mode, where readers (the UI) do not wait for writers.

    Args:
        uri: as :func:`tracking_uri` returns it.

    Raises:
        HarnessError: the file is not a database.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # MLflow asks for type hints that "models from code" cannot have without importing pandas.
    warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    file = database_file(uri)
    if file is None:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client
    with locked(file.with_name(f".{file.name}.lock")):
        check_database(file)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return client


def check_database(file: Path) -> bool:
    """Return whether a database of MLflow is there. MLflow itself would try a broken file again for a long time.

    Raises:
        HarnessError: the file is something else, or cannot be read.
    """
    if not file.exists() or file.stat().st_size == 0:
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            found = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_EXPERIMENTS,)
            ).fetchone()
    except sqlite3.Error as error:
        raise HarnessError(
            f"{file} cannot be used as MLflow's database ({error}); move it away, and "
            "harness track sync NAME fills a new one."
        ) from error
    return found is not None


def one_line(error: BaseException) -> str:
    """Return the first line of an error, short enough for a sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 240 else f"{text[:237]}..."
