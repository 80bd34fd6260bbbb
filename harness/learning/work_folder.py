"""A fit over a folder: saved state, metrics, pictures and checkpoints, so that a killed fit resumes to the same result.

Everything lies in one folder::

    state.pt              the last saved training state (absent before the first save)
    metrics.jsonl         one row a value: {"name", "value", "step", "time"}
    images/NAME/STEP.png  picture grids
    notes.json            sentences that every report must show
    checkpoints/STEP/     the checkpoints' own files
    checkpoints.json      the checkpoints that the fit has yielded, for one that is resumed later
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from harness.errors import PluginError
from harness.plugins.contract import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.data.pairs import PairSet
    from harness.plugins.contract import FitContext, Generator

#: Receives done, total and unit.
ProgressCallback = Callable[[int, int, str], None]

_BUFFERED_ROWS = 200
_METRICS, _PICTURES = "metrics.jsonl", "images"


class LoggedValue(NamedTuple):
    """One value of a metric: name, value, step, and when it was logged in Unix seconds."""

    name: str
    value: float
    step: int
    time: float


def metrics_file(folder: Path) -> Path:
    """Return where the metrics of a stage are, at work or done; no file when it has logged none."""
    return folder / _METRICS


def logged_values(text: str) -> list[LoggedValue]:
    """Read whole lines of a file of metrics."""
    return [LoggedValue(**json.loads(line)) for line in text.splitlines()]


def pictures_folder(folder: Path) -> Path:
    """Return where the picture grids of a stage are, at work or done; no folder when it has logged none."""
    return folder / _PICTURES


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def image_grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Lay images out in a near-square grid with two-pixel white gaps.

    Args:
        images: uint8 (N, H, W, 3).
        columns: images a row; the square root of N, rounded up, when None.

    Returns:
        uint8 (rows * (H + 2) + 2, columns * (W + 2) + 2, 3).
    """
    import numpy as np

    count, height, width, _ = images.shape
    across = columns or max(1, math.ceil(math.sqrt(count)))
    rows = max(1, math.ceil(count / across))
    grid = np.full((rows * (height + 2) + 2, across * (width + 2) + 2, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = 2 + (i // across) * (height + 2), 2 + (i % across) * (width + 2)
        grid[top : top + height, left : left + width] = image
    return grid


class WorkFolder:
    """The :class:`harness.plugins.contract.FitContext` of a fit that keeps everything in one folder.

    Opened on the folder of a killed fit, it hands back the last saved state, and the metrics logged after that save are
    dropped, since the fit is about to log them again. Opened on a folder without a saved state, it starts from nothing
    and removes what is there: open one to run a fit, never to look at one that is done.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        seed: int,
        *,
        save_every_s: float = 30.0,
        on_progress: ProgressCallback | None = None,
        progress_every_s: float = 0.2,
    ) -> None:
        """Open or create the folder.

        Args:
            folder: where the fit keeps its things; created when missing.
            device: where to compute.
            seed: of everything the fit draws at random.
            save_every_s: seconds between saved states.
            on_progress: receives (done, total, unit), at most every ``progress_every_s`` seconds, and always at the
                end.
            progress_every_s: seconds between two calls of ``on_progress``.
        """
        self.folder = folder
        self.device = device
        self.seed = seed
        self.geometry: Literal["squash", "crop"] = "squash"
        self.save_every_s = save_every_s
        self.on_progress = on_progress
        self._progress_every_s = progress_every_s
        self._saved_at = time.monotonic()
        self._reported_at = -math.inf
        self._opened_at = time.monotonic()
        self._seconds_before = 0.0
        self._seconds_elsewhere = 0.0
        self._rows: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        if not self._state_file.exists():
            self._start_afresh()

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    @property
    def metrics_file(self) -> Path:
        """Where the metrics are; :meth:`flush` brings it up to date."""
        return metrics_file(self.folder)

    def _start_afresh(self) -> None:
        for name in (_METRICS, "notes.json", "checkpoints.json"):
            (self.folder / name).unlink(missing_ok=True)
        for name in (_PICTURES, "checkpoints"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def checkpoint_folder(self, step: int) -> Path:
        """Return a fresh empty folder for the checkpoint at ``step``, in place of an earlier one at that step."""
        folder = self.folder / "checkpoints" / str(step)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def log(self, step: int, **values: float) -> None:
        """Record metrics at a step; underscores in names become dashes."""
        now = round(time.time(), 3)
        for name, value in values.items():
            row = {"name": name.replace("_", "-"), "value": float(value), "step": int(step), "time": now}
            self._rows.append(json.dumps(row))
        if len(self._rows) >= _BUFFERED_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered metrics to ``metrics.jsonl``."""
        if self._rows:
            with self.metrics_file.open("a") as stream:
                stream.write("\n".join(self._rows) + "\n")
            self._rows.clear()

    def metrics(self) -> list[dict[str, Any]]:
        """Return all metrics in the order they were logged: ``name``, ``value``, ``step``, ``time`` (Unix seconds)."""
        self.flush()
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines()]

    def log_images(self, name: str, step: int, images: NDArray[np.uint8]) -> None:
        """Write a grid of uint8 (N, H, W, 3) images to ``images/NAME/STEP.png``."""
        from PIL import Image

        path = pictures_folder(self.folder) / name / f"{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_grid(images)).save(path)

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Forward progress to the callback, rate-limited; the last step is never left out."""
        if self.on_progress is None:
            return
        now = time.monotonic()
        if done >= total or now - self._reported_at >= self._progress_every_s:
            self._reported_at = now
            self.on_progress(done, total, unit)

    def note(self, sentence: str) -> None:
        """Record a sentence once, however often it is said."""
        notes = self.notes()
        if sentence not in notes:
            write_atomically(self.folder / "notes.json", json.dumps([*notes, sentence], indent=1))

    def notes(self) -> list[str]:
        """Return the sentences noted so far."""
        path = self.folder / "notes.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def should_save(self) -> bool:
        """Say whether ``save_every_s`` seconds have passed since the last save, or since the start."""
        return time.monotonic() - self._saved_at >= self.save_every_s

    def seconds(self) -> float:
        """Return how long the work in this folder has taken so far, in all its lives up to their last saves."""
        return self._seconds_before + time.monotonic() - self._opened_at - self._seconds_elsewhere

    def spent_elsewhere(self, seconds: float) -> None:
        """Take time off that this process spent on other work."""
        self._seconds_elsewhere += seconds

    def save_state(self, state: dict[str, Any]) -> None:
        """Save the training state: written beside the old one, synced to disk, then renamed over it."""
        import torch

        self.flush()
        logged = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
        temporary = self._state_file.with_name(f".state.pt.{os.getpid()}")
        with temporary.open("wb") as stream:
            torch.save({"state": state, "metrics_bytes": logged, "seconds": self.seconds()}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._state_file)
        self._saved_at = time.monotonic()

    def restore_state(self) -> dict[str, Any] | None:
        """Return the last saved state on the CPU, or None at a fresh start; drops metrics logged after that save."""
        import torch

        if not self._state_file.exists():
            return None
        saved = torch.load(self._state_file, map_location="cpu", weights_only=True)
        self._rows.clear()
        self._seconds_before = float(saved.get("seconds", 0.0))
        if self.metrics_file.exists() and self.metrics_file.stat().st_size > saved["metrics_bytes"]:
            os.truncate(self.metrics_file, saved["metrics_bytes"])
        return dict(saved["state"])


def recorded_checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints that fits over ``folder`` have yielded so far, by step."""
    path = folder / "checkpoints.json"
    if not path.exists():
        return []
    return [
        Checkpoint(row["step"], folder / row["folder"], None if row["seen"] is None else frozenset(row["seen"]))
        for row in json.loads(path.read_text())
    ]


def _record_checkpoints(folder: Path, checkpoints: list[Checkpoint]) -> None:
    rows = [
        {
            "step": c.step,
            "folder": c.folder.relative_to(folder).as_posix(),
            "seen": None if c.seen is None else sorted(c.seen),
        }
        for c in checkpoints
    ]
    write_atomically(folder / "checkpoints.json", json.dumps(rows))


def run_fit(
    generator: Generator,
    pairs: PairSet,
    context: WorkFolder,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> list[Checkpoint]:
    """Run a generator's fit to its end, or take it up where it was killed, and return all its checkpoints.

    A resumed fit need not yield again what it yielded before it was killed: each checkpoint is recorded as it comes,
    and one that comes a second time replaces the first.

    Args:
        generator: the plugin.
        pairs: the real pairs it is given.
        context: over the folder that holds everything about this fit.
        on_checkpoint: is given each checkpoint when it is recorded, while the fit waits.

    Raises:
        PluginError: it yielded no checkpoint, steps that do not increase, a folder outside its own, or claims to have
            seen ids it was not given.
    """
    checkpoints = {c.step: c for c in recorded_checkpoints(context.folder)}
    last = -1
    given = pairs.seen()
    fit_context: FitContext = context
    for checkpoint in generator.fit(pairs, fit_context):
        if checkpoint.step <= last:
            raise PluginError(
                f"Generator {generator.name!r} yielded checkpoint {checkpoint.step} after {last}; "
                "the steps of one fit must increase."
            )
        last = checkpoint.step
        if not checkpoint.folder.resolve().is_relative_to(context.folder.resolve()):
            raise PluginError(
                f"Generator {generator.name!r} put checkpoint {last} into {checkpoint.folder}; "
                f"use context.checkpoint_folder({last})."
            )
        strangers = sorted((checkpoint.seen or frozenset()) - given)
        if strangers:
            raise PluginError(
                f"Generator {generator.name!r} says that checkpoint {last} has seen {strangers[0]!r}, "
                "which the fit was not given."
            )
        checkpoints[last] = Checkpoint(
            last, context.folder / checkpoint.folder.resolve().relative_to(context.folder.resolve()), checkpoint.seen
        )
        _record_checkpoints(context.folder, sorted(checkpoints.values(), key=lambda c: c.step))
        if on_checkpoint:
            on_checkpoint(checkpoints[last])
    if not checkpoints:
        raise PluginError(
            f"Generator {generator.name!r} yielded no checkpoint; fit must yield at least one, the last one last."
        )
    context.flush()
    return sorted(checkpoints.values(), key=lambda c: c.step)
