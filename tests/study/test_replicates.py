"""What each replicate draws anew."""

from __future__ import annotations

import pytest

from harness.study.replicates import Draw, draws, redrawn


def test_trainings_and_pools_vary_by_themselves_and_the_first_draw_is_what_was_declared():
    found = draws((0, 1, 2), ("training", "pool"), {}, 1)
    assert found == [Draw(0, 0), Draw(1, 1, pool=1), Draw(2, 2, pool=2)]
    assert redrawn(7, 0) == 7
    assert len({redrawn(seed, draw) for seed in range(20) for draw in range(20)}) == 400


def test_seeds_of_one_s_own_are_those_of_trainings_and_pools_go_by_place():
    found = draws((5, 9), ("training", "pool"), {}, 1)
    assert [(d.replicate, d.training, d.pool) for d in found] == [(5, 5, 0), (9, 9, 1)]


def test_what_is_not_drawn_anew_is_shared():
    found = draws((0, 1), ("pool",), {}, 1)
    assert [(d.training, d.pool) for d in found] == [(0, 0), (0, 1)]
    everything = draws((0, 1, 2), ("training", "pool", "subset", "fit"), {}, 1)
    assert everything[2] == Draw(2, 2, 2, 2, 2)


def test_replicates_can_share_a_fit_in_turn():
    found = draws(range(6), ("training", "pool", "fit"), {"fit": 3}, 1)
    assert [d.fit for d in found] == [0, 0, 0, 1, 1, 1]
    assert [d.pool for d in found] == [0, 1, 2, 3, 4, 5]


def test_every_fold_has_every_replicate_unless_folds_are_replicates():
    assert [(d.replicate, d.fold) for d in draws((0, 1), ("training",), {}, 3)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip
    assert [(d.replicate, d.fold) for d in draws(range(5), ("training", "fold"), {}, 5)] == [(i, i) for i in range(5)]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{count: 3, of: [training], share: {fit: 2}}", "fit is not among"),
        ("{count: 3, of: [training], share: {training: 2}}", "training cannot be shared"),
        ("{count: 5, of: [training, fit], share: {fit: 2}}", "does not divide 5 replicates"),
        ("{count: 3, of: [trainings]}", "did you mean 'training'"),
        ("{count: 3, of: [training, fold]}", "only where there are folds"),
        ("0", "greater than or equal to 1"),
    ],
)
def test_mistakes_are_said(temp_study, declared, said):
    answer = temp_study.command("study", "plan", "twelve", "--set", "seeds=null", "--set", f"replicates={declared}")
    assert answer.code == 2
    assert said in answer.err


def test_seeds_and_replicates_together_are_refused(temp_study):
    answer = temp_study.command("study", "plan", "twelve", "--set", "replicates=3")
    assert answer.code == 2
    assert "either replicates or seeds" in answer.err
