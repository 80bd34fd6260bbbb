import numpy as np
import pytest
import torch
from cleanfid.fid import fid_from_feats

from harness.errors import DataError
from harness.metrics.fidelity.sifid import single_image_distances
from harness.weights.inception import FidInception

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FidInception().eval()


def images(count, size=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size + 4, 3), dtype=np.uint8)


def test_an_image_with_itself_is_zero(network):
    real = images(2)
    assert single_image_distances(real, real, device=CPU, network=network) == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_equal_to_the_definition_over_positions(network):
    real, synthetic = images(1, 96), images(1, 96, seed=1) // 2
    with torch.no_grad():
        maps = [
            network.before_pooling(torch.tensor(i).permute(0, 3, 1, 2) / 255 * 2 - 1)[0].flatten(1).T.double().numpy()
            for i in (real, synthetic)
        ]
    assert maps[0].shape[1] == 64
    found = single_image_distances(real, synthetic, device=CPU, network=network)
    assert found[0] == pytest.approx(fid_from_feats(*maps), rel=1e-3)


def test_pairs_are_kept_apart_and_sizes_may_differ(network):
    real, synthetic = images(3), images(3, 64, seed=1)
    together = single_image_distances(real, synthetic, device=CPU, network=network)
    alone = [
        single_image_distances(real[i : i + 1], synthetic[i : i + 1], device=CPU, network=network)[0] for i in range(3)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_pairs_may_share_a_real_image_which_goes_through_the_network_once(network, monkeypatch):
    real, synthetic = images(3), images(4, seed=1)
    chosen = [(2, 0), (0, 1), (2, 2), (2, 3)]
    alone = [
        single_image_distances(real[i : i + 1], synthetic[j : j + 1], device=CPU, network=network)[0] for i, j in chosen
    ]
    passed = []
    before = network.before_pooling
    monkeypatch.setattr(network, "before_pooling", lambda planes: passed.append(len(planes)) or before(planes))
    found = single_image_distances(real, synthetic, device=CPU, pairs=chosen, network=network)
    np.testing.assert_allclose(found, alone, rtol=1e-6)
    assert sum(passed) == 2 + 4


def test_what_is_kept_is_that_of_the_standard_network_only(network, monkeypatch, tmp_path):
    import harness.weights.locate

    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    real, synthetic = images(2), images(2, seed=1)
    single_image_distances(real, synthetic, device=CPU, network=network, cache=True)
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(harness.weights.locate, "fid_inception", lambda: network)
    first = single_image_distances(real, synthetic, device=CPU, cache=True)
    monkeypatch.setattr(harness.weights.locate, "fid_inception", lambda: pytest.fail("computed twice"))
    np.testing.assert_array_equal(single_image_distances(real, synthetic, device=CPU, cache=True), first)


def test_pairs_must_be_pairs(network):
    with pytest.raises(DataError, match="got 3 real and 2 synthetic"):
        single_image_distances(images(3), images(2), device=CPU, network=network)


def test_tiny_images_are_refused(network):
    with pytest.raises(DataError, match="real image 0 is 12x8"):
        single_image_distances(images(1, 8), images(1, 48), device=CPU, network=network)
