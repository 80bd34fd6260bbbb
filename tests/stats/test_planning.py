"""How many replicates would do, against simulations of studies that have them; and what stopping early costs."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats import ArmKey, Components
from harness.stats.planning import decided, power
from harness.stats.verdicts import Pair, judge
from harness.study.looks import spent
from tests.stats.test_estimator import block, drawn


def key(arm: str) -> ArmKey:
    return ArmKey("d", "report", "unet", arm)


def known(components: Components) -> dict[ArmKey, Components]:
    return {key(arm): components for arm in components.block.arms}


PAIRS = [(key(f"arm{a}"), "arm0") for a in range(1, 8)]


@pytest.mark.parametrize("runs", [2, 6])
def test_what_more_replicates_would_see_is_what_they_do_see(runs):
    now = [
        power(PAIRS, known(Components(drawn(np.random.default_rng(n), 8, 3, run=0.02))), runs, 7)[0].detectable
        for n in range(60)
    ]
    then = [
        Components(drawn(np.random.default_rng(500 + n), 8, runs, run=0.02))
        .difference("arm1", "arm0")
        .detectable(family=7)
        for n in range(60)
    ]
    assert np.median(now) == pytest.approx(np.median(then), rel=0.12)


def test_the_margin_needs_as_many_replicates_as_see_it():
    components = Components(drawn(np.random.default_rng(0), 8, 3, run=0.02))
    (found,) = power(PAIRS, known(components), 3, 7, margin=0.06)
    assert found.needed is not None
    fewer, enough = (power(PAIRS, known(components), n, 7)[0].detectable for n in (found.needed - 1, found.needed))
    assert enough <= 0.06 < fewer
    (blind,) = power(PAIRS, known(components), 3, 7, margin=0.001)
    assert blind.needed is None
    assert blind.limit > 0.001


def test_one_replicate_says_nothing():
    assert power(PAIRS, known(Components(drawn(np.random.default_rng(0), 8, 1))), 3, 7) == []


def test_projecting_on_the_same_number_changes_nothing():
    components = Components(drawn(np.random.default_rng(1), 6, 4, run=0.02))
    now, same = components.difference("arm2", "arm0"), components.projected("arm2", "arm0", 4)
    assert same.error == pytest.approx(now.error)
    assert same.degrees == pytest.approx(now.degrees, rel=0.25)


def effects(components: Components, level: float, margin: float = float("nan")):
    return judge([Pair(*pair) for pair in PAIRS], known(components), level=level, margin=margin)


def test_looking_several_times_keeps_the_error_rate():
    """Nothing is true; the study stops as soon as anything is shouted."""
    looks, shouted = (3, 6, 12), 0
    for number in range(150):
        whole = drawn(np.random.default_rng(number), 8, 12, run=0.02)
        for place, runs in enumerate(looks):
            part = block(whole.numerators[:, :runs])
            found = effects(Components(part), spent(looks, place, 0.05))
            if any(effect.verdict in ("helps", "hurts") for effect in found):
                shouted += 1
                break
    assert shouted / 150 <= 0.085


def test_a_study_is_decided_when_nothing_is_open():
    components = Components(drawn(np.random.default_rng(2), 8, 5, run=0.002, image=0.02, rest=0.02))
    assert decided(effects(components, 0.05, margin=0.05))
    assert not decided(effects(components, 0.05))
