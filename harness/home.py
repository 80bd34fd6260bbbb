"""Where the harness keeps its things: the project's root, ``.harness/``, ``mlruns/`` and ``reports/``."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """Return the nearest folder at or above the current one that holds ``studies/``, else the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "studies").is_dir():
            return folder
    return here


def home() -> Path:
    """Return the folder for data, store and weights: ``HARNESS_HOME``, else ``.harness`` in the project's root."""
    named = os.environ.get("HARNESS_HOME")
    return Path(named).expanduser().resolve() if named else project_root() / ".harness"


def threads() -> int:
    """Return how many CPU threads a stage computes with: ``HARNESS_THREADS``, or 1.

    Sums of floats depend on how they are shared among threads, so the number is the same for every executor and every
    ``--jobs``, and stands in the keys when it is not 1. Many cores are used by many stages at once.
    """
    return max(1, int(os.environ.get("HARNESS_THREADS", "1")))


def data_folder() -> Path:
    """Return where imported datasets live."""
    return home() / "data"


def store_folder() -> Path:
    """Return where stage results live."""
    return home() / "store"


def weights_folder() -> Path:
    """Return where network weights live."""
    return home() / "weights"


def extensions_folder() -> Path:
    """Return where a project's extensions are looked for (``HARNESS_EXTENSIONS`` moves it); it need not exist."""
    named = os.environ.get("HARNESS_EXTENSIONS")
    return Path(named).expanduser().resolve() if named else project_root() / "extensions"


def reports_folder() -> Path:
    """Return where rendered reports go (``HARNESS_REPORTS`` moves it)."""
    return Path(os.environ.get("HARNESS_REPORTS") or project_root() / "reports")


def tracking_folder() -> Path:
    """Return where MLflow's database and artifacts live (``HARNESS_MLRUNS`` moves it)."""
    return Path(os.environ.get("HARNESS_MLRUNS") or project_root() / "mlruns")
