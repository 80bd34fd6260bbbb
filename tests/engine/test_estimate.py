"""How long what is left of a plan should take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine.estimate import estimate_seconds, in_words


def store(*rows: tuple[str, str, float, float]) -> Any:
    noted = [{"kind": kind, "work": work, "amount": amount, "seconds": took} for kind, work, amount, took in rows]
    return SimpleNamespace(durations=lambda: noted)


def stage(kind: str, work: str, amount: float) -> Any:
    return SimpleNamespace(kind=kind, work=work, amount=amount)


def test_time_is_proportional_to_the_amount_at_the_median_rate() -> None:
    noted = store(("fit", "fit dcgan", 100, 50), ("fit", "fit dcgan", 10, 20), ("fit", "fit dcgan", 10, 10))
    assert estimate_seconds([stage("fit", "fit dcgan", 30)], noted) == (30.0, 0)


def test_jobs_share_the_time() -> None:
    noted = store(("train", "train unet", 10, 10))
    left = [stage("train", "train unet", 8), stage("train", "train unet", 12)]
    assert estimate_seconds(left, noted, jobs=2) == (10.0, 0)


def test_another_segmenter_says_something_about_a_training() -> None:
    assert estimate_seconds([stage("train", "train fpn", 5)], store(("train", "train unet", 10, 20))) == (10.0, 0)


@pytest.mark.parametrize("kind", ["fit", "sample", "select", "refine"])
def test_another_generator_says_nothing(kind: str) -> None:
    """Twelve models of singan-seg in an hour would make 5000 steps of a diffusion model take weeks."""
    noted = store((kind, f"{kind} singan-seg", 12, 3600))
    assert estimate_seconds([stage(kind, f"{kind} mask-ddpm", 5000)], noted) == (0.0, 1)


def test_words() -> None:
    assert [in_words(s) for s in (40, 720, 3.5 * 3600, 2.1 * 86400)] == ["40 s", "12 min", "3.5 h", "2.1 days"]
