"""What several sets say together: means, deviations, each set by itself, holes that stay holes, notes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness.metrics.fidelity.sample_sets import between_sets, of_set, over_sets, quantity_of

FIVE = [270.82, 269.79, 268.38, 268.32, 269.13]  # paper B, Table 4, DCGAN; it prints 269.29 and 1.05


def values(fid: float, **changes: Any) -> dict[str, Any]:
    about = {"network": "inception", "mode": "clean", "n_real": 700, "n_synthetic": 1000, "notes": "Biased."}
    return {"fid": fid, **about, **changes}


def test_mean_and_deviation_are_those_that_the_paper_prints():
    found = over_sets("fid", [values(fid) for fid in FIVE])
    assert f"{found['fid']:.2f} {found['fid-between-sets']:.2f}" == "269.29 1.05"
    assert [found[f"fid-set-{number}"] for number in range(1, 6)] == FIVE
    assert "fid-set-6" not in found


def test_the_deviation_divides_by_one_less_than_there_are_sets():
    found = over_sets("fid", [values(1.0), values(3.0)])
    assert found["fid"] == 2.0
    assert found["fid-between-sets"] == pytest.approx(math.sqrt(2.0))  # 1 with n


def test_words_stand_once_and_counts_have_no_deviation():
    sets = [values(float(i), neighbours=5, **{"empty-masks": i, "copied-p-value": 0.5}) for i in range(3)]
    found = over_sets("fid", sets)
    assert found == {
        "fid": 1.0, "fid-between-sets": 1.0, "fid-set-1": 0.0, "fid-set-2": 1.0, "fid-set-3": 2.0, "neighbours": 5.0,
        "empty-masks": 1.0, "copied-p-value": 0.5, "network": "inception", "mode": "clean", "n_real": 700,
        "n_synthetic": 1000, "notes": "Biased.",
    }  # fmt: skip


def test_the_deviation_of_kid_over_subsets_is_another_number():
    sets = [values(1.0, kid=kid, **{"kid-deviation": 0.002}) for kid in (0.1, 0.3)]
    found = over_sets("fid", sets)
    assert found["kid-deviation"] == pytest.approx(0.002)
    assert found["kid-between-sets"] == pytest.approx(math.sqrt(0.02))
    assert "kid-deviation-between-sets" not in found


def test_a_set_without_a_value_takes_the_mean_away_and_is_named():
    hole = {"fid": math.nan, "network": "", "mode": "", "n_real": 700, "n_synthetic": 1000, "notes": "All alike."}
    found = over_sets("fid", [values(1.0, kid=0.5), hole, values(3.0, kid=0.5)])
    for quantity in ("fid", "kid"):
        assert math.isnan(found[quantity])
        assert math.isnan(found[between_sets(quantity)])
        assert math.isnan(found[of_set(quantity, 2)])
    assert (found["fid-set-1"], found["fid-set-3"], found["kid-set-3"]) == (1.0, 3.0, 0.5)
    assert found["notes"] == "Set 2 of 3: All alike."
    assert over_sets("fid", [hole, values(1.0)])["network"] == "inception"


def test_notes_that_differ_say_of_which_set_and_equal_ones_stand_once():
    assert (
        over_sets("fid", [values(1.0, notes="a."), values(2.0, notes="b.")])["notes"] == "Set 1 of 2: a. Set 2 of 2: b."
    )
    assert over_sets("fid", [values(math.nan), values(math.nan)])["notes"] == "Biased."
    same = over_sets("fid", [values(math.nan), values(2.0)])
    assert same["notes"] == "Set 1 of 2: Biased."


def test_what_is_measured_of_all_at_once_stands_in_the_place_of_means():
    sets = [values(0.25, **{"copied-p-value": 0.5}), values(0.75, **{"copied-p-value": 0.1})]
    together = values(0.5, n_synthetic=2000, notes="All.", copies=True, **{"copied-p-value": 0.001})
    found = over_sets("fid", sets, together)
    assert (found["copied-p-value"], found["copies"], found["notes"]) == (0.001, True, "All.")
    assert found["n_synthetic"] == 1000  # the size of a set
    assert found["fid-between-sets"] == pytest.approx(math.sqrt(0.125))
    hole = over_sets("fid", [values(math.nan), values(0.75)], together)
    assert math.isnan(hole["fid"])
    assert hole.get("copied-p-value") != 0.001


@pytest.mark.parametrize("quantity", ["fid", "fid-corrected", "mean-area-real", "kid-deviation"])
def test_every_name_leads_back_to_its_quantity(quantity):
    names = {between_sets(quantity), of_set(quantity, 1), of_set(quantity, 12), quantity}
    assert len(names) == 4
    assert {quantity_of(name) for name in names} == {quantity}


def test_a_copy_in_any_set_is_a_copy_even_where_another_set_has_no_value():
    together = values(0.9, copies=True, **{"exact-copies": 3})
    found = over_sets("fid", [values(1.0, copies=True), values(math.nan)], together)
    assert found["copies"] is True
    assert math.isnan(found["fid"])
