"""From tables to arrays, and what is a unit of chance."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from harness.stats import blocks


def table(runs, arms=("base", "made"), images=4, **columns) -> pd.DataFrame:
    """One row an image, run and arm; ``columns`` map (arm, run) to what stands there."""
    rows = [
        {"arm": arm, "replicate": run, "image": f"i{i}", "numerator": 0.1 * i, "denominator": 1.0}
        | {name: value(arm, run) for name, value in columns.items()}
        for arm, run, i in itertools.product(arms, range(runs), range(images))
    ]
    return pd.DataFrame(rows)


def only(found):
    made, problems = found
    assert not problems
    assert len(made) == 1
    return made[0]


def test_the_order_of_rows_changes_nothing():
    rows = table(3, group=lambda arm, run: "g")
    one, other = only(blocks(rows)), only(blocks(rows.sample(frac=1, random_state=1).sort_values("arm")))
    np.testing.assert_allclose(one.numerators, other.numerators, rtol=1e-12)
    assert (one.arms, one.runs, one.groups) == (other.arms, other.runs, other.groups)


def test_scores_are_summed_within_groups_and_images_without_one_stand_alone():
    rows = table(1, images=3)
    rows["group"] = ["p1", "p1", None] * 2
    block = only(blocks(rows))
    assert block.groups == ("i2", "p1")
    np.testing.assert_allclose(block.numerators[0, 0], [0.2, 0.1])
    np.testing.assert_allclose(block.denominators[0, 0], [1, 2])
    assert block.images == 3


def test_every_run_is_a_unit_when_all_share_the_same_or_none():
    same = only(blocks(table(4, fit=lambda arm, run: "f" if arm == "made" else None)))
    assert same.units.tolist() == [0, 1, 2, 3]
    assert same.over == ("over trainings", "over trainings of one fit")
    fresh = only(blocks(table(3, fit=lambda arm, run: f"f{run}" if arm == "made" else None)))
    assert fresh.units.tolist() == [0, 1, 2]
    assert fresh.over[1] == "over trainings and fits"


def test_runs_that_share_a_fit_that_others_do_not_are_one_unit():
    fits = table(6, fit=lambda arm, run: f"f{run // 2}" if arm == "made" else None, pool=lambda arm, run: run)
    block = only(blocks(fits))
    assert block.units.tolist() == [0, 0, 1, 1, 2, 2]
    assert block.over[1] == "over trainings, pools and fits"
    np.testing.assert_allclose(block.unit_scores(), block.scores().reshape(2, 3, 2).mean(axis=2))


def test_seeds_within_folds_are_units_by_fold():
    rows = table(6)
    rows["fold"] = rows["replicate"] % 3
    rows["replicate"] = rows["replicate"] // 3
    rows["image"] = rows["image"] + " of fold " + rows["fold"].astype(str)
    block = only(blocks(rows))
    assert len(set(block.units)) == 3
    assert block.images == 12
    assert block.image_degrees() == 12 - 3
    assert "folds" in block.over[0]


def test_a_pool_and_a_subset_are_named():
    block = only(blocks(table(3, pool=lambda arm, run: run, subset=lambda arm, run: 0)))
    assert block.over == ("over trainings and pools of one subset",) * 2
    assert only(blocks(table(1, fit=lambda arm, run: "f"))).over[0] == "of one training and one fit"


def test_arms_of_other_runs_or_images_are_in_another_block():
    rows = table(3, arms=("base", "made", "other"))
    rows = rows[~((rows["arm"] == "other") & (rows["replicate"] == 2) & (rows["image"] == "i0"))]
    made, _ = blocks(rows)
    assert [block.arms for block in made] == [("base", "made"), ("other",)]


def test_an_image_that_is_scored_twice_is_a_problem_and_no_number():
    rows = table(2)
    made, problems = blocks(pd.concat([rows, rows.iloc[[0]]]))
    assert problems == {"base": "an image was scored twice by one run"}
    assert [block.arms for block in made] == [("made",)]


def test_influence_is_the_derivative_of_each_run_s_score():
    rng = np.random.default_rng(0)
    rows = table(2, images=6)
    rows["numerator"], rows["denominator"] = rng.random(len(rows)), rng.integers(1, 9, len(rows)).astype(float)
    block = only(blocks(rows))
    influence = block.unit_influence() / np.sqrt(6 / 5)
    for group in range(6):
        weights = np.ones(6)
        weights[group] += 1e-6
        moved = (block.numerators @ weights) / (block.denominators @ weights)
        np.testing.assert_allclose((moved - block.scores()) / 1e-6, influence[:, :, group], atol=1e-5)
    np.testing.assert_allclose(influence.sum(axis=2), 0, atol=1e-12)


def test_arrays_that_do_not_fit_are_refused():
    block = only(blocks(table(2)))
    with pytest.raises(ValueError, match="arms, runs, groups"):
        type(block)(block.arms, ("r",), block.units, block.groups, block.numerators, block.denominators, block.scored)


def test_an_empty_table_has_no_blocks():
    assert blocks(table(1).iloc[:0]) == ([], {})
