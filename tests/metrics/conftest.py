"""A random network in place of the pretrained Inception, which the suite must not download."""

import pytest
import torch

import harness.weights
from harness.metrics.inception import FidInception


@pytest.fixture(scope="module")
def random_network():
    torch.manual_seed(0)
    network = FidInception().eval().requires_grad_(False)
    for convolution in network.convolutions():
        torch.nn.init.kaiming_normal_(convolution.weight)
    return network


@pytest.fixture
def inception(monkeypatch, random_network):
    """The random network wherever the pretrained one is asked for."""
    monkeypatch.setattr(harness.weights, "fid_inception", lambda: random_network)
    return random_network
