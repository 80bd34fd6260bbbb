import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.data.pairs import PairSet
from harness.errors import DataError, DeclarationError, WeightsError
from harness.learning.judge import TrainedSegmenter
from harness.metrics.fidelity.frechet import beside_fid
from harness.metrics.fidelity.measure import evidence, measure, measured_quantities, of_masks
from harness.metrics.spec import Sets, fidelity_metric, fidelity_metrics
from harness.weights import locate

CPU = torch.device("cpu")
ALL = list(fidelity_metrics().values())
WITHOUT_WEIGHTS = [metric for metric in ALL if not metric.needs_weights]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


NETWORK = """
import torch


class Corner(torch.nn.Module):
    side = 16

    def forward(self, images):
        return images[:, :, :4, :4].flatten(1) / 255
"""


@pytest.fixture
def network(tmp_path):
    """A feature network of the user's own, by its name."""
    (tmp_path / "corner.py").write_text(NETWORK)
    return f"{tmp_path / 'corner.py'}:Corner"


def real_pairs(count=12, seed=0, size=32, name="real"):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8).repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    masks = np.zeros((count, size, size), np.uint8)
    for mask in masks:
        y, x, r = draw.integers(4, size - 12, 3)
        mask[y : y + r % 8 + 2, x : x + r % 8 + 2] = 1
    return PairSet.real(images, masks, [f"{name}/{i}" for i in range(count)])


def synthetic_pairs(sources, count=9, seed=5, size=32):
    made = real_pairs(count, seed, size)
    lineage = tuple(frozenset({sources.ids[i % len(sources)]}) for i in range(count))
    return PairSet(made.images, made.masks, tuple(f"gan/{i}" for i in range(count)), made.groups, lineage)


def knowing(pairs):
    """A segmenter that predicts the masks of these pairs, whatever it is shown."""
    return TrainedSegmenter("knowing", lambda images: pairs.masks)


def values_of(name, real, made, **more):
    """What one metric tells of two sets."""
    return measure([fidelity_metric(name)], Sets(real, made, CPU, **more))[name]


def test_every_metric_gives_its_number_and_says_what_it_is_of(inception, network):
    real = real_pairs()
    real = real.take(range(7))
    made, held_out = synthetic_pairs(real, 6), real_pairs(7, 9)
    measured = measure(ALL, Sets(real, made, CPU, held_out=held_out, network=network, segmenter=knowing(made)))
    assert list(measured) == [metric.name for metric in ALL]
    for name, values in measured.items():
        assert math.isfinite(values[name])
        assert (values["n_real"], values["n_synthetic"]) == (7, 6)
        assert {"network", "mode", "notes"} <= set(values)
        assert all(isinstance(value, float | int | str) for value in values.values())
    assert measured["fid"]["network"] == "fid-inception"
    assert "6 images is biased" in measured["fid"]["notes"]
    assert measured["frechet-distance"]["network"].startswith("corner.py:Corner")
    assert "fid" not in measured["frechet-distance"]
    assert "fid" not in measured["thumbnail-distance"]["network"]


def test_every_number_lies_in_its_bounds_and_is_one_that_the_metric_says_it_brings(inception, network):
    """A metric may bring another one's (FID its KID); all else that it tells stands on its own description."""
    real = real_pairs(20)
    made = synthetic_pairs(real, 18)
    measured = measure(ALL, Sets(real, made, CPU, network=network, segmenter=knowing(made)))
    known = fidelity_metrics()
    for name, values in measured.items():
        for told, value in values.items():
            if isinstance(value, str | bool) or told in ("n_real", "n_synthetic"):
                continue
            quantity = known[name].quantity(told) or (known["kid"].quantity(told) if name == "fid" else None)
            assert quantity is not None, (name, told)
            assert quantity.lower - 1e-9 <= value <= quantity.upper, (name, told, value)
        promised = {q.name for q in known[name].quantities if not q.two_sided} - {"agreement-lowest-mask"}
        assert promised <= set(values), name


def test_few_images_bring_kid_and_a_corrected_value_beside_the_fid(inception):
    real = real_pairs(40)
    made = synthetic_pairs(real, 36)
    values = measure([fidelity_metric("fid"), fidelity_metric("kid")], Sets(real, made, CPU, seed=3))
    assert values["fid"]["kid"] == values["kid"]["kid"]
    assert values["fid"]["kid-deviation"] == values["kid"]["kid-deviation"] > 0
    assert math.isfinite(values["fid"]["fid-corrected"])
    assert values["fid"]["fid-corrected"] < values["fid"]["fid"]


def test_many_images_need_nothing_beside_the_fid(monkeypatch):
    # Tested on its own; for two thousand vectors of three numbers it takes half a minute.
    monkeypatch.setattr("harness.metrics.fidelity.frechet.corrected_frechet_distance", lambda *_, seed: 1.0)
    features = np.random.default_rng(0).normal(size=(2048, 3))
    assert beside_fid(features, features[::-1]) == {}
    assert set(beside_fid(features, features[1:])) == {"fid-corrected", "kid", "kid-deviation", "notes"}


@pytest.mark.parametrize(("seen", "said"), [(0, "no real image"), (1, "one real image only")])
def test_what_has_seen_too_little_is_no_copy_and_no_original(seen, said):
    real = real_pairs()
    for sides in ({"real": real.take(range(seen))}, {"real": real, "fitted": real.take(range(seen))}):
        values = measure([fidelity_metric("memorisation")], Sets(synthetic=synthetic_pairs(real), device=CPU, **sides))
        assert math.isnan(values["memorisation"]["memorisation"])
        assert said in values["memorisation"]["notes"]
        assert values["memorisation"]["n_real"] == seen


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_too_few_pairs_are_no_number_and_a_sentence(metric, network, inception):
    real = real_pairs()
    made = synthetic_pairs(real, 9)
    more = {"network": network, "segmenter": knowing(made)}
    few = metric.fewest - 1
    for sides in ((real, made.take(range(few))), (real.take(range(few)), made)):
        values = values_of(metric.name, *sides, **more)
        assert math.isnan(values[metric.name])
        if len(sides[1]) == few or not metric.against_fitted:
            assert f"there are {len(sides[0])} real and {len(sides[1])} synthetic" in values["notes"]
    enough = made.take(range(max(metric.fewest, 1)))
    measured = values_of(metric.name, real, enough, **{**more, "segmenter": knowing(enough)})
    assert math.isfinite(measured[metric.name])


def test_images_of_one_colour_each_have_no_value():
    real = real_pairs()
    made = synthetic_pairs(real, 5)
    flat = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], made.images.shape)
    values = values_of("mask-area", real, PairSet(flat, made.masks, made.ids, made.groups, made.lineage))
    assert math.isnan(values["mask-area"])
    assert "All 5 synthetic images are of one colour each" in values["notes"]


def test_a_copy_of_the_real_set_is_best_and_is_called_a_copy(inception, network):
    real = real_pairs(7)
    other = synthetic_pairs(real, 7)
    dark = PairSet(other.images // 4, other.masks, other.ids, other.groups, other.lineage)
    copy = PairSet(real.images, real.masks, tuple(f"copy/{i}" for i in range(7)), real.groups, real.lineage)
    perfect, worse = (
        measure(ALL, Sets(real, made, CPU, network=network, segmenter=knowing(copy))) for made in (copy, dark)
    )
    assert perfect["memorisation"]["memorisation"] == 1.0
    for metric in ALL:
        if metric.name == "memorisation":
            continue
        one, other = perfect[metric.name][metric.name], worse[metric.name][metric.name]
        best = 0 if metric.better == "lower" else 1
        assert one <= 1e-6 if best == 0 else one == 1, metric.name
        assert abs(other - best) > 1e-4, metric.name
        assert (other > one) == (metric.better == "lower"), metric.name


def test_a_metric_has_the_network_of_its_own_and_one_without_has_the_declared_one(inception, network):
    real = real_pairs(8)
    made = synthetic_pairs(real, 8)
    metrics = [fidelity_metric("fid"), fidelity_metric("frechet-distance")]
    measured = measure(metrics, Sets(real, made, CPU, network=network))
    assert measured["fid"]["network"] == "fid-inception"
    assert measured["frechet-distance"]["network"].startswith("corner.py")
    other = measure([replace(metrics[0], network=network)], Sets(real, made, CPU))["fid"]
    assert other["fid"] == measured["frechet-distance"]["frechet-distance"]


def test_memorisation_compares_with_what_the_generator_was_fitted_on_and_the_others_with_the_reference():
    real, fitted = real_pairs(12), real_pairs(6, 3, name="fitted")
    copies = PairSet(fitted.images, fitted.masks, fitted.ids, fitted.groups, fitted.lineage)
    sets = Sets(real, copies, CPU, fitted=fitted, held_out=real_pairs(8, 4))
    measured = measure([fidelity_metric("memorisation"), fidelity_metric("sim")], sets)
    assert measured["memorisation"]["exact-copies"] == 6
    assert (measured["memorisation"]["n_real"], measured["sim"]["n_real"]) == (6, 12)
    assert measured["sim"]["sim"] < 1
    kept = evidence([fidelity_metric("memorisation")], sets)
    assert kept["closest"]["distance"].tolist() == [0.0] * 6


def test_a_generator_of_masks_is_compared_with_masks():
    real = real_pairs()
    made = of_masks(synthetic_pairs(real))
    metrics = [fidelity_metric("thumbnail-distance"), fidelity_metric("sim")]
    found = measure(metrics, Sets(real, made, CPU))
    declared = measure(metrics, Sets(of_masks(real), made, CPU))
    assert found["thumbnail-distance"]["thumbnail-distance"] == declared["thumbnail-distance"]["thumbnail-distance"]
    assert "masks as grey pictures" in found["sim"]["notes"]
    assert "masks as grey pictures" not in declared["thumbnail-distance"]["notes"]
    closest = evidence([fidelity_metric("memorisation")], Sets(real, made, CPU))["closest"]
    assert set(np.unique(closest["real"])) == {0, 255}


@pytest.mark.parametrize("metric", WITHOUT_WEIGHTS, ids=lambda metric: metric.name)
def test_a_collapsed_generator_has_no_value(metric):
    real = real_pairs()
    made = synthetic_pairs(real, 4)
    same = PairSet(made.images[[0] * 4], made.masks[[0] * 4], made.ids, made.groups, made.lineage)
    values = values_of(metric.name, real, same)
    assert math.isnan(values[metric.name])
    assert "All 4 synthetic images are the same picture" in values["notes"]


def test_sifid_matches_each_image_with_its_source(inception):
    real = real_pairs()
    order = [3, 0, 7]
    lineage = tuple(frozenset({real.ids[i]}) for i in order)
    copies = PairSet(real.images[order], real.masks[order], ("a", "b", "c"), ("a", "b", "c"), lineage)
    assert values_of("sifid", real, copies)["sifid"] == pytest.approx(0, abs=1e-6)
    many = PairSet(copies.images, copies.masks, copies.ids, copies.groups, (frozenset(real.ids),) * 3)
    values = values_of("sifid", real, many)
    assert math.isnan(values["sifid"])
    assert "one real image" in values["notes"]


def test_planted_copies_are_noted():
    real = real_pairs(40)
    made = synthetic_pairs(real, 20)
    images = made.images.copy()
    images[:3] = real.images[:3]
    planted = PairSet(images, made.masks, made.ids, made.groups, made.lineage)
    values = values_of("memorisation", real, planted, held_out=real_pairs(30, 8))
    assert values["exact-copies"] == 3
    assert "Copies" in values["notes"]
    assert values["reference"] == "held-out"


def test_each_number_stands_once_and_the_metric_that_it_belongs_to_comes_first(inception):
    real = real_pairs(20)
    measured = measure([fidelity_metric("fid"), fidelity_metric("kid")], Sets(real, synthetic_pairs(real, 18), CPU))
    measured["kid"]["kid"] = 7.0
    rows = list(measured_quantities(measured))
    assert [(name, value) for name, _, value, _ in rows if name == "kid"] == [("kid", 7.0)]
    assert [name for name, *_ in rows] == ["fid", "fid-corrected", "n_real", "kid", "kid-deviation", "subset-size"]
    assert {(network, images) for _, network, _, images in rows} == {("fid-inception", 18)}
    alone = [name for name, *_ in measured_quantities({"fid": measured["fid"]})]
    assert alone == ["fid", "fid-corrected", "kid", "kid-deviation", "n_real"]


def test_what_several_sets_bring_along_gives_way_too():
    sets = {"fid": 1.0, "kid": 0.2, "kid-set-1": 0.1, "kid-between-sets": 0.3, "network": "n", "n_synthetic": 9}
    own = {"kid": 0.5, "kid-set-1": None, "copies": True, "network": "n", "n_synthetic": 9, "reference": "held-out"}
    rows = {name: value for name, _, value, _ in measured_quantities({"fid": sets, "kid": own})}
    assert list(rows) == ["fid", "kid", "kid-set-1"]
    assert rows["kid"] == 0.5
    assert math.isnan(rows["kid-set-1"])


def test_without_weights_the_sentence_says_how_to_get_them(tmp_path, monkeypatch):
    for name in ("HARNESS_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(locate, "_clean_fid_folder", lambda: tmp_path / "clean-fid")
    real = real_pairs()
    with pytest.raises(WeightsError, match="harness weights fetch fid-inception"):
        values_of("fid", real, synthetic_pairs(real))


def test_mistakes():
    real = real_pairs()
    with pytest.raises(DeclarationError, match="did you mean 'kid'"):
        fidelity_metric("kidd")
    with pytest.raises(DataError, match="the real masks are"):
        values_of("sim", real, real_pairs(4, size=24))
