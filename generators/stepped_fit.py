"""The loop of a fit that is a number of steps: when to log, to show, to keep a checkpoint and to save the state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.learning import Checkpoint, FitContext, HarnessError

_LOG_EVERY = 20


class SteppedTraining(Protocol):
    """A training that is taken one step at a time, all randomness of which comes from its seed and the step."""

    def step(self, step: int) -> Mapping[str, Any]:
        """Take the step (from 0) and return numbers to log, or tensors of one number."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed fit needs after so many steps."""
        ...

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a state and return its step."""
        ...


@dataclass(frozen=True)
class Stops:
    """Where a fit pauses, in steps done.

    Attributes:
        total: the last step.
        checkpoints: where a checkpoint is kept.
        shown: where samples are shown; not where a checkpoint is kept, which shows them itself.
    """

    total: int
    checkpoints: Sequence[int] = ()
    shown: Sequence[int] = ()


def evenly(count: int, total: int) -> list[int]:
    """Return at most ``count`` steps that divide 1 to ``total`` evenly, the last of them ``total``."""
    count = min(count, total)
    return sorted({round(total * (i + 1) / count) for i in range(count)})


def chosen_steps(checkpoints: int | Sequence[int], total: int) -> list[int]:
    """Return the increasing steps of checkpoints, given how many or which; the last step is always one.

    Raises:
        HarnessError: a step that was asked for lies beyond the end.
    """
    if isinstance(checkpoints, int):
        return evenly(max(checkpoints, 1), total)
    beyond = [step for step in checkpoints if not 1 <= step <= total]
    if beyond:
        raise HarnessError(f"Checkpoint {beyond[0]} is outside steps 1 to {total}; give steps within the fit.")
    return sorted({*checkpoints, total})


def fit_in_steps(
    training: SteppedTraining,
    context: FitContext,
    stops: Stops,
    batch_size: int,
    *,
    state: dict[str, Any] | None = None,
    look: Callable[[dict[str, float], int], None] = lambda told, step: None,
    show: Callable[[int], None] = lambda step: None,
    keep: Callable[[int], Checkpoint] | None = None,
    prefix: str = "",
) -> Iterator[Checkpoint]:
    """Take a training from its start, or from a saved state, to its end.

    Args:
        training: at its start.
        context: of the fit.
        stops: where it pauses.
        batch_size: pictures a step, for the rate that is logged.
        state: to go on from.
        look: is given what a step told, and the steps done, when that is logged; raises when the training is lost.
            Of what it lets pass, values that are not numbers are not logged.
        show: logs samples.
        keep: writes a checkpoint, which is yielded before the state is saved.
        prefix: of the names that are logged.
    """
    done = 0 if state is None else training.restore(state)
    logged, logged_at = done, time.monotonic()
    while done < stops.total:
        told = training.step(done)
        done += 1
        saving = context.should_save()
        regular = done % _LOG_EVERY == 0 or done in stops.checkpoints
        if regular:
            values = {name: float(value) for name, value in told.items()}
            look(values, done)
            seconds = max(time.monotonic() - logged_at, 1e-9)
            rate = {"images-per-second": (done - logged) * batch_size / seconds}
            known = {prefix + name: value for name, value in (values | rate).items() if not math.isnan(value)}
            context.log(done, **known)
            logged = done
        context.progress(done, stops.total)
        if keep is not None and done in stops.checkpoints:
            yield keep(done)
        elif done in stops.shown:
            show(done)
        if saving:
            context.save_state(training.state(done))
        if regular:
            # What a checkpoint, a grid or a saved state takes is no training.
            logged_at = time.monotonic()
