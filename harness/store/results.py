"""The content-addressed store of stage results: keys, atomic commits, claims, failures.

Layout below ``.harness/store``::

    results/<kind>/<key>/   result.json and the stage's files; put in place by one rename
    work/<key>/             a stage in progress: its files, saved training state, log; becomes the result
    locks/<key>             held by the process that writes in that work folder
    claims/<key>.json       who works on a stage now; taken over when its owner has died
    specs/<key>.json, .log  what a stage in a process of its own was told, and what it printed
    progress/<key>.json     how far such a stage is
    failures/<key>.json     why the last try had no result; never read as a result
    identities/<key_without_code>   key of a result by everything but code (``--accept-code``)
    accepted/<key>          a key that ``--accept-code`` lets stand for another
    plans/<name>.json       the stages of the last run of each study (what ``harness store gc`` keeps)
    planned/<name>.json     the stages of its last plan (``harness store explain``)
    durations.jsonl         how long stages took, for estimates
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.home import store_folder

#: A claim without a sign of life for so long is dead, in seconds.
CLAIM_EXPIRES = 120.0


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON by way of a temporary file and one rename, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True))
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


_RECORD = "result.json"
#: Names that fields of a record had before, by what they are called now.
_FORMER_NAMES = {"runtime": "attachments", "key_without_code": "identity"}


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a result, with the fields of one from an earlier version under their names of today."""
    record = _read_json(folder / _RECORD)
    if record is not None:
        for name, former in _FORMER_NAMES.items():
            if former in record:
                record.setdefault(name, record.pop(former))
    return record


@dataclass(frozen=True)
class Result:
    """A committed result.

    Attributes:
        key: its store key.
        folder: its files.
        record: ``result.json``: kind, label, parts of the key, values measured, notes, seconds, versions, host, device.
    """

    key: str
    folder: Path
    record: dict[str, Any]

    @property
    def record_file(self) -> Path:
        """The file that holds the record."""
        return self.folder / _RECORD

    @property
    def values(self) -> dict[str, Any]:
        """What the stage measured or decided, small enough for JSON."""
        return self.record.get("values", {})

    @property
    def notes(self) -> list[str]:
        """Sentences that every report on this result must show."""
        return list(self.record.get("notes", []))


def result_in(folder: Path) -> Result | None:
    """Return the result whose files a folder holds, wherever it is; None where it holds none."""
    record = _read_record(folder)
    return None if record is None or "kind" not in record else Result(folder.name, folder, record)


def _process_started(pid: int) -> float | None:
    """Return when a process of this machine started, or None when there is none (a zombie counts as none)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


class Store:
    """Stage results by key. Any number of processes may use one store at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or store_folder()

    # results

    def result_folder(self, kind: str, key: str) -> Path:
        """Return where a result of that kind and key is or will be."""
        return self.root / "results" / kind / key

    def find(self, kind: str, key: str) -> Result | None:
        """Return a committed result, or None; follows ``--accept-code``."""
        for candidate in (key, self._accepted(key)):
            if candidate:
                folder = self.result_folder(kind, candidate)
                record = _read_record(folder)
                if record is not None:
                    return Result(candidate, folder, record)
        return None

    def _accepted(self, key: str) -> str | None:
        try:
            return (self.root / "accepted" / key).read_text().strip()
        except FileNotFoundError:
            return None

    def accept(self, key: str, key_without_code: str, kind: str) -> str | None:
        """Let a stored result whose only difference is code stand for ``key``; return its key, or None."""
        older = self.older(key, key_without_code, kind)
        if older is None:
            return None
        _write_text(self.root / "accepted" / key, older.key)
        return older.key

    def older(self, key: str, key_without_code: str, kind: str) -> Result | None:
        """Return the stored result that differs from ``key`` in nothing but code, or None."""
        try:
            found = (self.root / "identities" / key_without_code).read_text().strip()
        except FileNotFoundError:
            return None
        folder = self.result_folder(kind, found)
        record = None if found == key else _read_record(folder)
        return None if record is None else Result(found, folder, record)

    def commit(self, kind: str, key: str, record: dict[str, Any]) -> Result:
        """Make the work folder of ``key`` its result, by one rename; a result that was there first stands."""
        work = self.work_folder(key)
        with (work / _RECORD).open("w") as file:
            file.write(json.dumps(record, indent=1, sort_keys=True))
            file.flush()
            os.fsync(file.fileno())
        target = self.result_folder(kind, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.rename(target)
        except OSError:
            if _read_record(target) is None:
                # A result torn by a power loss: the new one takes its place.
                shutil.rmtree(target, ignore_errors=True)
                work.rename(target)
            else:
                shutil.rmtree(work, ignore_errors=True)
        if record.get("key_without_code"):
            _write_text(self.root / "identities" / record["key_without_code"], key)
        (self.root / "failures" / f"{key}.json").unlink(missing_ok=True)
        found = self.find(kind, key)
        assert found is not None
        return found

    def results(self, kind: str = "*") -> Iterator[Result]:
        """Yield every committed result, or those of one kind."""
        for path in sorted((self.root / "results").glob(f"{kind}/*/{_RECORD}")):
            if result := result_in(path.parent):
                yield result

    # plans

    def record_plan(self, name: str, stages: dict[str, dict[str, Any]], *, keep: bool) -> None:
        """Note the stages of a study's last plan, by key: label, kind and parts.

        Args:
            name: of the study, with its profile.
            stages: of the plan.
            keep: whether they are those of a run, whose results are not garbage from then on.
        """
        for folder in ("planned", *(["plans"] if keep else [])):
            write_json(self.root / folder / f"{name}.json", stages)

    def planned(self) -> dict[str, dict[str, Any]]:
        """Return the stages of the last plan of every study, by key; of the plan that was made last, last."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.root / "planned").glob("*.json"), key=lambda path: path.stat().st_mtime):
            found.update(json.loads(path.read_text()))
        return found

    def run_plans(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the stages of the last run of every study, by the study's name and by key."""
        return {path.stem: json.loads(path.read_text()) for path in sorted((self.root / "plans").glob("*.json"))}

    def garbage(self) -> list[Path]:
        """Return the folders of results that no study's last run needs, and of work that nobody continues."""
        needed: set[str] = set()
        for path in (self.root / "plans").glob("*.json"):
            needed.update(json.loads(path.read_text()))
        needed.update(path.stem for path in (self.root / "claims").glob("*.json") if self.claimed_by(path.stem))
        needed.update(accepted for key in list(needed) if (accepted := self._accepted(key)))
        results = [result.folder for result in self.results() if result.key not in needed]
        work = [folder for folder in (self.root / "work").glob("*") if folder.name not in needed]
        return results + [folder for folder in work if self.claimed_by(folder.name) is None]

    # work in progress

    def work_folder(self, key: str) -> Path:
        """Return where a stage in progress keeps its files."""
        return self.root / "work" / key

    @contextlib.contextmanager
    def working_on(self, key: str) -> Iterator[None]:
        """Hold the right to write in a stage's work folder; the system gives it back when the process dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / key).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def specification_path(self, key: str) -> Path:
        """Return the file that tells the process of a stage what to do."""
        return self.root / "specs" / f"{key}.json"

    def log_path(self, key: str) -> Path:
        """Return the file for what the process of a stage prints."""
        return self.root / "specs" / f"{key}.log"

    @contextlib.contextmanager
    def showing_progress(self, key: str) -> Iterator[Callable[[int, int, str], None]]:
        """Give a function that tells other processes how far a stage is: done, total and unit."""
        path = self._progress_path(key)
        try:
            yield lambda done, total, unit: write_json(path, {"done": done, "total": total, "unit": unit})
        finally:
            path.unlink(missing_ok=True)

    def progress(self, key: str) -> tuple[int, int, str] | None:
        """Return done, total and unit of a stage that runs in another process, or None when it has not told."""
        told = _read_json(self._progress_path(key))
        return None if told is None else (int(told["done"]), int(told["total"]), str(told["unit"]))

    def _progress_path(self, key: str) -> Path:
        return self.root / "progress" / f"{key}.json"

    # claims

    def _claim_path(self, key: str) -> Path:
        return self.root / "claims" / f"{key}.json"

    @contextlib.contextmanager
    def _claims_locked(self) -> Iterator[None]:
        """Hold the lock under which claims change; the system releases it when its owner dies."""
        folder = self.root / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def claim(self, key: str) -> bool:
        """Claim a stage for this process; False when a living process holds it. A dead owner's claim is taken over."""
        with self._claims_locked():
            holder = self.claimed_by(key)
            if holder is not None and not _is_me(holder):
                return False
            write_json(
                self._claim_path(key),
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "started": _process_started(os.getpid()),
                    "claimed": time.time(),
                },
            )
        return True

    def release(self, key: str) -> None:
        """Give a claim of this process back."""
        with self._claims_locked():
            holder = _read_json(self._claim_path(key))
            if holder is not None and _is_me(holder):
                self._claim_path(key).unlink(missing_ok=True)

    def keep_alive(self, keys: list[str]) -> None:
        """Show that this process still works on its claims."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._claim_path(key))

    def claimed_by(self, key: str) -> dict[str, Any] | None:
        """Return the claim of a living process, or None when there is none or its owner has died."""
        path = self._claim_path(key)
        holder = _read_json(path)
        if holder is None:
            return None
        if holder["host"] == socket.gethostname():
            started = _process_started(int(holder["pid"]))
            alive = started is not None and (holder["started"] is None or abs(started - holder["started"]) < 1.0)
            return holder if alive else None
        try:
            return holder if time.time() - path.stat().st_mtime < CLAIM_EXPIRES else None
        except FileNotFoundError:
            return None

    # failures and durations

    def record_failure(self, key: str, failure: dict[str, Any]) -> None:
        """Remember why a stage had no result."""
        write_json(self.root / "failures" / f"{key}.json", failure)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return why the last try of a stage had no result, or None."""
        return _read_json(self.root / "failures" / f"{key}.json")

    def record_duration(self, kind: str, work: str, amount: float, seconds: float) -> None:
        """Note how long a stage took, for estimates: ``amount`` is in the unit that ``work`` names."""
        self.root.mkdir(parents=True, exist_ok=True)
        line = canonical({"kind": kind, "work": work, "amount": amount, "seconds": seconds})
        with (self.root / "durations.jsonl").open("a") as file:
            file.write(line + "\n")

    def durations(self) -> list[dict[str, Any]]:
        """Return the noted durations, oldest first."""
        try:
            lines = (self.root / "durations.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _is_me(holder: dict[str, Any]) -> bool:
    return holder["host"] == socket.gethostname() and int(holder["pid"]) == os.getpid()
