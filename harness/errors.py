"""Errors that are shown to users: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class HarnessError(Exception):
    """A mistake or a failure that a user can act on. Its message is shown as it is, without a traceback."""

    exit_code = 1


class DeclarationError(HarnessError):
    """A study or a command is wrong. Carries every problem found, so that all are reported at once."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(HarnessError):
    """Images, masks or splits that cannot be used. Carries every problem found, one line each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class LeakError(HarnessError):
    """Something that is about to be scored was seen by what is scored on it."""


class PluginError(HarnessError):
    """A plugin cannot be found, cannot be imported, or broke its contract."""

    exit_code = 2


class WeightsError(HarnessError):
    """Network weights that are asked for are not on this machine, or are not the pinned ones."""


class OutOfMemory(HarnessError):
    """The device or the machine had too little memory; the message names the batch that failed."""


def nearest(name: str, allowed: Sequence[str]) -> str:
    """Return ``'; did you mean X?'`` for the closest allowed name, or an empty string when none is close."""
    import difflib

    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
