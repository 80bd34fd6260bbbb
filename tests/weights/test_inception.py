"""The Inception network against clean-fid's own, with random weights: no download."""

import hashlib

import pytest
import torch
import torchvision
from cleanfid import inception_pytorch as reference

from harness.errors import WeightsError
from harness.weights.inception import TAPS, FidInception, layers_of_state_dict, sha256_of_layers


@pytest.fixture(scope="module")
def published():
    """The network as pytorch-fid and clean-fid build it, with random weights and statistics."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        inputs = {"Mixed_5b": 192, "Mixed_5c": 256, "Mixed_5d": 288}[name]
        setattr(network, name, reference.FIDInceptionA(inputs, pool))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(network, name, reference.FIDInceptionC(768, width))
    network.Mixed_7b, network.Mixed_7c = reference.FIDInceptionE_1(1280), reference.FIDInceptionE_2(2048)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2.0)
            module.bias.data.uniform_(-0.2, 0.5)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.2, 1.0)
    return network.eval()


@pytest.fixture(scope="module")
def ours(published):
    network = FidInception().eval()
    network.load_layers(layers_of_state_dict(published.state_dict()))
    return network


def reference_taps(n, x):
    pool = torch.nn.functional.max_pool2d
    stem = n.Conv2d_2b_3x3(n.Conv2d_2a_3x3(n.Conv2d_1a_3x3(x)))
    first = pool(stem, 3, 2)
    second = pool(n.Conv2d_4a_3x3(n.Conv2d_3b_1x1(first)), 3, 2)
    third = second
    for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e"):
        third = getattr(n, f"Mixed_{name}")(third)
    last = n.Mixed_7c(n.Mixed_7b(n.Mixed_7a(third))).mean(dim=(2, 3))
    return stem, {64: first, 192: second, 768: third, 2048: last}


@torch.no_grad()
def test_every_tap_equals_clean_fids_network(published, ours):
    images = torch.rand(1, 3, 139, 151) * 2 - 1
    stem, taps = reference_taps(published, images)
    torch.testing.assert_close(ours.before_pooling(images), stem, rtol=1e-4, atol=1e-4)
    for tap in TAPS:
        found = ours(images, tap)
        assert found.shape == taps[tap].shape
        assert (found - taps[tap]).abs().max() < 1e-4 * taps[tap].abs().max()


@torch.no_grad()
def test_spatial_sizes_at_299_pixels(ours):
    images = torch.zeros(1, 3, 299, 299)
    assert ours.before_pooling(images).shape == (1, 64, 147, 147)
    assert ours(images, 64).shape == (1, 64, 73, 73)
    assert ours(images, 192).shape == (1, 192, 35, 35)


def test_it_has_94_convolutions_and_the_published_size(ours):
    assert len(ours.convolutions()) == 94
    weights = sum(c.weight.numel() for c in ours.convolutions())
    assert round(weights / 1e6, 2) == 21.75


def test_weights_of_another_network_are_refused(published):
    layers = layers_of_state_dict(published.state_dict())
    with pytest.raises(WeightsError, match="has 93"):
        FidInception().load_layers(layers[1:])


def test_the_order_of_a_state_dict_does_not_matter(published):
    state = published.state_dict()
    in_order = layers_of_state_dict(state)
    assert [layer[0].shape for layer in in_order] == [
        tensor.shape for key, tensor in state.items() if key.endswith(".conv.weight")
    ]
    shuffled = layers_of_state_dict(dict(sorted(state.items())))
    assert all(
        torch.equal(a, b)
        for one, other in zip(in_order, shuffled, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    del state["Mixed_7c.branch_pool.bn.running_var"]
    with pytest.raises(WeightsError, match=r"'Mixed_7c\.branch_pool\.bn\.running_var' is missing"):
        layers_of_state_dict(state)


def test_the_digest_is_of_the_numbers_in_their_order(published):
    layers = layers_of_state_dict(published.state_dict())
    digest = hashlib.sha256(b"".join(t.numpy().astype("<f4").tobytes() for layer in layers for t in layer)).hexdigest()
    assert sha256_of_layers(layers) == digest
    doubles = [tuple(tensor.double() for tensor in layer) for layer in layers]
    assert sha256_of_layers(doubles) == digest
    assert sha256_of_layers([layers[1], layers[0], *layers[2:]]) != digest
