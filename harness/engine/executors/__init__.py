"""Where stages run: one executor a file, found like plugins. Imports the engine's ``worker`` and lower rooms."""

from __future__ import annotations

from harness.engine.executors.executor import Executor
from harness.errors import DeclarationError, nearest
from harness.plugins.discovery import Found, discover


def executors() -> dict[str, Found[type[Executor]]]:
    """Return the executors that there are by name, built-in ones first.

    Raises:
        PluginError: an extension cannot be imported, or two executors have one name.
    """
    return discover(Executor, [__name__])


def make_executor(name: str, jobs: int | None) -> Executor:
    """Return an executor by name.

    Args:
        name: such as ``local`` (a process a stage) or ``in-process``.
        jobs: stages at once; None lets the executor choose from cores and accelerators.

    Raises:
        DeclarationError: there is no executor of that name, or it cannot run so many stages at once.
        PluginError: an extension cannot be imported.
    """
    if jobs is not None and jobs < 1:
        raise DeclarationError(f"--jobs must be at least 1, got {jobs}.")
    known = executors()
    if name not in known:
        raise DeclarationError(
            f"There is no executor {name!r}{nearest(name, list(known))}; there are: {', '.join(known)}."
        )
    return known[name].thing(jobs)
