"""Verdicts on anyone's table."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pandas as pd
import pytest

import harness
from harness.errors import DataError
from harness.stats import Components, blocks, verdict


def scores(effects, *, replicates=3, images=80, run=0.005, seed=0, segmenters=("unet",), **columns) -> pd.DataFrame:
    """Scores of arms that differ from the first by what ``effects`` says."""
    rng = np.random.default_rng(seed)
    rows = []
    for segmenter in segmenters:
        base = rng.beta(8, 3, images)
        for (arm, shift), replicate in itertools.product(effects.items(), range(replicates)):
            values = base + shift + rng.normal(0, run) + rng.normal(0, 0.04, images)
            names = [f"i{i}" for i in range(images)]
            made = {"segmenter": segmenter, "arm": arm, "replicate": replicate, "image": names}
            rows.append(pd.DataFrame(made | {"value": values} | {n: f(arm, replicate) for n, f in columns.items()}))
    return pd.concat(rows, ignore_index=True)


EFFECTS = {"real=100": 0.0, "good": 0.06, "bad": -0.06, "same": 0.0}


def test_each_verdict_on_what_is_true_by_construction():
    found = verdict(scores(EFFECTS), margin=0.03).set_index("arm")
    assert found["verdict"].to_dict() == {"good": "helps", "bad": "hurts", "same": "no relevant difference"}
    assert found.loc["good", "low"] > 0 > found.loc["bad", "high"]
    assert (found["p_adjusted"] == np.minimum(1, 3 * found["p"])).all()
    assert found["over"].unique().tolist() == ["over trainings"]


def test_small_effects_are_found_by_enough_replicates():
    """Three points of IoU, half of what synthetic data can hope to bring."""
    effects = {"real": 0.0, "good": 0.03, "nothing": 0.0, "bad": -0.03}
    found = verdict(scores(effects, replicates=5, images=200, run=0.008)).set_index("arm")
    assert found["verdict"].to_dict() == {"good": "helps", "nothing": "no evidence either way", "bad": "hurts"}


def test_without_a_margin_nothing_is_said_to_be_the_same():
    assert verdict(scores(EFFECTS)).set_index("arm").loc["same", "verdict"] == "no evidence either way"


def test_lower_is_better_turns_verdicts_and_nothing_else():
    found, turned = verdict(scores(EFFECTS)), verdict(scores(EFFECTS), lower_is_better=True)
    assert turned.set_index("arm").loc["good", "verdict"] == "hurts"
    pd.testing.assert_frame_equal(found.drop(columns="verdict"), turned.drop(columns="verdict"))


def test_a_verdict_says_what_it_speaks_for():
    rows = scores(EFFECTS, fit=lambda arm, r: None if arm.startswith("real") else "dcgan", pool=lambda arm, r: r)
    assert verdict(rows)["over"].unique().tolist() == ["over trainings and pools of one fit"]


def parts(rows: pd.DataFrame):
    """The components that a verdict on a table of one segmenter stands on."""
    table = rows.assign(numerator=rows["value"], denominator=1.0)
    return Components(blocks(table)[0][0])


def test_all_that_is_printed_is_for_the_family():
    rows = scores(EFFECTS)
    found = verdict(rows).set_index("arm")
    for arm in ("good", "bad", "same"):
        alone = parts(rows).difference(arm, "real=100")
        assert (found.loc[arm, "low"], found.loc[arm, "high"]) == pytest.approx(alone.interval(family=3))
        assert found.loc[arm, "detectable"] == pytest.approx(alone.detectable(family=3))
        assert found.loc[arm, "detectable"] > alone.detectable()


def test_equivalence_is_of_the_family_too():
    """A margin that one comparison alone would be within, and three together are not."""
    rows = scores(EFFECTS)
    same = parts(rows).difference("same", "real=100")
    narrow, wide = (max(abs(end) for end in same.interval(0.1, family)) for family in (1, 3))
    margin = (narrow + wide) / 2
    assert same.within(margin)
    assert verdict(rows, margin=margin).set_index("arm").loc["same", "verdict"] == "no evidence either way"
    assert verdict(rows, margin=wide + 1e-6).set_index("arm").loc["same", "verdict"] == "no relevant difference"


def test_one_replicate_is_not_comparable():
    found = verdict(scores(EFFECTS, replicates=1))
    assert set(found["verdict"]) == {"not comparable"}
    assert set(found["reason"]) == {"one training run an arm"}
    assert found["p_adjusted"].isna().all()


def test_an_arm_that_lacks_an_image_is_not_comparable_and_not_in_the_family():
    rows = scores(EFFECTS)
    rows = rows[~((rows["arm"] == "bad") & (rows["image"] == "i3"))]
    found = verdict(rows).set_index("arm")
    assert found.loc["bad", "reason"] == "not scored by the same runs on the same images"
    assert found.loc["good", "p_adjusted"] == pytest.approx(2 * found.loc["good", "p"])


def test_an_arm_without_any_score_says_nothing_of_itself_or_the_others():
    rows = scores(EFFECTS)
    rows["value"] = rows["value"].where(rows["arm"] != "bad")
    found = verdict(rows).set_index("arm")
    assert found.loc["bad", "reason"] == "a run has no score of any image"
    assert found.loc["good", "verdict"] == "helps"
    nothing = verdict(rows, baseline="bad").set_index("arm")
    assert set(nothing["verdict"]) == {"not comparable"}


def test_a_segmenter_without_the_baseline_says_so():
    rows = scores(EFFECTS, segmenters=("unet", "fpn"))
    rows = rows[~((rows["segmenter"] == "fpn") & (rows["arm"] == "real=100"))]
    found = verdict(rows, baseline="real=100").set_index("segmenter")
    assert set(found.loc["fpn", "reason"]) == {"no scores of real=100"}
    assert found.loc["unet", "p_adjusted"].notna().all()


def test_constants_are_not_comparable_even_within_a_margin():
    found = verdict(scores(EFFECTS).assign(value=0.5), margin=0.1)
    assert set(found["reason"]) == {"neither images nor runs vary"}


@pytest.mark.parametrize("seed", range(8))
def test_no_interval_is_absurd(seed):
    """Noise alone, nested fits, two units: what is left after what images explain may be next to nothing by chance."""
    rng = np.random.default_rng(seed)
    rows = scores(dict.fromkeys(("real", "a", "b"), 0.0), replicates=6, images=30, run=0.0, seed=seed)
    rows["value"] = 0.6 + rng.normal(0, 0.1, len(rows))
    rows["fit"] = (rows["replicate"] // 3).where(rows["arm"] != "real")
    found = verdict(rows)
    assert (found["high"] - found["low"]).max() < 2


def test_images_without_a_score_are_left_out():
    rows = scores(EFFECTS)
    rows.loc[rows["image"] == "i3", "value"] = np.nan
    expected = verdict(rows[rows["image"] != "i3"])
    assert verdict(rows)["difference"].to_numpy() == pytest.approx(expected["difference"].to_numpy())


def test_groups_are_said_to_be_missing():
    assert "No groups" in " ".join(verdict(scores(EFFECTS)).attrs["notes"])
    assert not verdict(scores(EFFECTS, group=lambda arm, r: "p")).attrs["notes"]


def test_an_unsteady_arm_is_noted():
    rows = scores({f"arm{i}": 0.0 for i in range(6)} | {"real": 0.0}, replicates=5, run=0.003)
    rows.loc[rows["arm"] == "arm2", "value"] += rows["replicate"].map({0: 0.1, 1: -0.1, 2: 0.06, 3: -0.06, 4: 0.0})
    assert "arm2 varies more" in " ".join(verdict(rows, baseline="real").attrs["notes"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="image"), "no column 'image'"),
        (lambda t: t.rename(columns={"replicate": "replicates"}), "did you mean 'replicates'"),
        (lambda t: t.assign(value=t["value"].astype(object).where(t.index != 5, "n/a")), "Row 7 has the value 'n/a'"),
        (lambda t: t.assign(value=t["value"].where(t.index != 5, np.inf)), "Row 7"),
        (lambda t: t.assign(arm=t["arm"].where(t.index != 5)), "Row 7 has no arm"),
        (lambda t: pd.concat([t, t.iloc[[0]]]), "scored twice"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(value=t["value"] * 1e200), "Row 2 has the value"),
        (lambda t: t.assign(group=[f"p{i % 7}" for i in range(len(t))]), "Image 'i0' is in several groups"),
        (lambda t: t.assign(arm=t["arm"].replace({"real=100": "first"})), "Which arm is the baseline"),
    ],
)
def test_mistakes_are_said_in_one_sentence(change, said):
    with pytest.raises(DataError, match=said):
        verdict(change(scores(EFFECTS)))


def test_a_baseline_that_is_not_there_and_a_margin_of_nothing_are_refused():
    with pytest.raises(DataError, match="did you mean 'good'"):
        verdict(scores(EFFECTS), "goood")
    with pytest.raises(DataError, match="above 0"):
        verdict(scores(EFFECTS), margin=0.0)


def test_it_is_the_harness_s_own_name():
    assert harness.verdict is verdict


def test_two_hundred_images_five_replicates_and_sixteen_arms_are_quick():
    """A bound that only arithmetic in Python loops would break; how long it takes is the benchmark's."""
    rows = scores({"real": 0.0} | {f"arm{i}": 0.0 for i in range(15)}, replicates=5, images=200)
    start = time.perf_counter()
    verdict(rows)
    assert time.perf_counter() - start < 2
