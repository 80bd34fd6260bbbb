import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import harness.weights.locate
from harness.data.pairs import PairSet
from harness.errors import DataError, DeclarationError, WeightsError
from harness.metrics.fidelity.agreement import TrainedSegmenter
from harness.metrics.fidelity.measure import FIDELITY, beside_fid, measure, of_masks

CPU = torch.device("cpu")
WITHOUT_WEIGHTS = [name for name, metric in FIDELITY.items() if not metric.needs_weights]


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


def test_the_module_imports_nothing_heavy():
    heavy = "print([m for m in ('numpy', 'torch', 'PIL') if m in sys.modules])"
    program = f"import sys, harness.metrics.fidelity.measure; {heavy}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_metrics_that_studies_may_name():
    expected = {
        "fid",
        "frechet-distance",
        "kid",
        "prdc",
        "sifid",
        "sim",
        "mask-area",
        "memorisation",
        "thumbnail-distance",
        "agreement",
    }
    assert expected <= set(FIDELITY)
    assert all(name == metric.name for name, metric in FIDELITY.items())
    assert {name for name, metric in FIDELITY.items() if not metric.lower_is_better} == {"prdc", "sim", "agreement"}
    assert {name for name, metric in FIDELITY.items() if metric.needs_weights} == {"fid", "kid", "prdc", "sifid"}
    assert {name for name, metric in FIDELITY.items() if metric.needs_segmenter} == {"agreement"}


def test_every_metric_gives_its_number_and_says_what_it_is_of(inception, network):
    real = real_pairs()
    real = real.take(range(7))
    made, held_out = synthetic_pairs(real, 6), real_pairs(7, 9)
    measured = measure(
        list(FIDELITY), real, made, held_out=held_out, device=CPU, network=network, segmenter=knowing(made)
    )
    assert list(measured) == list(FIDELITY)
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


def test_few_images_bring_kid_and_a_corrected_value_beside_the_fid(inception):
    real = real_pairs(40)
    made = synthetic_pairs(real, 36)
    values = measure(["fid", "kid"], real, made, device=CPU, seed=3)
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
    values = measure(["memorisation"], real.take(range(seen)), synthetic_pairs(real), device=CPU)["memorisation"]
    assert math.isnan(values["memorisation"])
    assert said in values["notes"]
    with pytest.raises(DataError, match=f"got {seen} real"):
        measure(["sim"], real.take(range(seen)), synthetic_pairs(real), device=CPU)


def test_images_of_one_colour_each_have_no_value():
    real = real_pairs()
    made = synthetic_pairs(real, 5)
    flat = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], made.images.shape)
    values = measure(["mask-area"], real, PairSet(flat, made.masks, made.ids, made.groups, made.lineage), device=CPU)
    assert math.isnan(values["mask-area"]["mask-area"])
    assert "All 5 synthetic images are of one colour each" in values["mask-area"]["notes"]


def test_a_copy_of_the_real_set_is_best_and_is_called_a_copy(inception, network):
    real = real_pairs(7)
    other = synthetic_pairs(real, 7)
    dark = PairSet(other.images // 4, other.masks, other.ids, other.groups, other.lineage)
    copy = PairSet(real.images, real.masks, tuple(f"copy/{i}" for i in range(7)), real.groups, real.lineage)
    perfect, worse = (
        measure(list(FIDELITY), real, made, device=CPU, network=network, segmenter=knowing(copy))
        for made in (copy, dark)
    )
    assert perfect["memorisation"]["memorisation"] == 1.0
    for name in set(FIDELITY) - {"memorisation"}:
        best = 0 if FIDELITY[name].lower_is_better else 1
        assert perfect[name][name] <= 1e-6 if best == 0 else perfect[name][name] == 1, name
        assert abs(worse[name][name] - best) > 1e-4, name
        assert (worse[name][name] > perfect[name][name]) == FIDELITY[name].lower_is_better, name


def test_a_generator_of_masks_is_compared_with_masks():
    real = real_pairs()
    made = of_masks(synthetic_pairs(real))
    found = measure(["thumbnail-distance", "sim"], real, made, device=CPU)
    declared = measure(["thumbnail-distance"], of_masks(real), made, device=CPU)
    assert found["thumbnail-distance"]["thumbnail-distance"] == declared["thumbnail-distance"]["thumbnail-distance"]
    assert "masks as grey pictures" in found["sim"]["notes"]
    assert "masks as grey pictures" not in declared["thumbnail-distance"]["notes"]


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_collapsed_generator_has_no_value(name):
    real = real_pairs()
    made = synthetic_pairs(real, 4)
    same = PairSet(made.images[[0] * 4], made.masks[[0] * 4], made.ids, made.groups, made.lineage)
    values = measure([name], real, same, device=CPU)[name]
    assert math.isnan(values[name])
    assert "All 4 synthetic images are the same picture" in values["notes"]


def test_sifid_matches_each_image_with_its_source(inception):
    real = real_pairs()
    order = [3, 0, 7]
    lineage = tuple(frozenset({real.ids[i]}) for i in order)
    copies = PairSet(real.images[order], real.masks[order], ("a", "b", "c"), ("a", "b", "c"), lineage)
    assert measure(["sifid"], real, copies, device=CPU)["sifid"]["sifid"] == pytest.approx(0, abs=1e-6)
    many = PairSet(copies.images, copies.masks, copies.ids, copies.groups, (frozenset(real.ids),) * 3)
    values = measure(["sifid"], real, many, device=CPU)["sifid"]
    assert math.isnan(values["sifid"])
    assert "one real image" in values["notes"]


def test_planted_copies_are_noted():
    real = real_pairs(40)
    made = synthetic_pairs(real, 20)
    images = made.images.copy()
    images[:3] = real.images[:3]
    planted = PairSet(images, made.masks, made.ids, made.groups, made.lineage)
    values = measure(["memorisation"], real, planted, held_out=real_pairs(30, 8), device=CPU)["memorisation"]
    assert values["exact-copies"] == 3
    assert "Copies" in values["notes"]
    assert values["reference"] == "held-out"


def test_without_weights_the_sentence_says_how_to_get_them():
    real = real_pairs()
    if harness.weights.locate.find("fid-inception"):
        pytest.skip("an installed package brings the weights")
    with pytest.raises(WeightsError, match="harness weights fetch fid-inception"):
        measure(["fid"], real, synthetic_pairs(real), device=CPU)


def test_mistakes():
    real = real_pairs()
    with pytest.raises(DeclarationError, match="did you mean 'kid'"):
        measure(["kidd"], real, synthetic_pairs(real), device=CPU)
    with pytest.raises(DataError, match="got 12 real and 1 synthetic"):
        measure(["sim"], real, synthetic_pairs(real, 1), device=CPU)
