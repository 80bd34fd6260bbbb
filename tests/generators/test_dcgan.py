"""DCGAN: published sizes, networks of every size, and a fit that learns."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from generators.dcgan import DCGAN
from generators.dcgan.networks import DCGANGenerator, discriminator_network
from harness.conformance import drawn_pairs
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import SampleContext

CPU = torch.device("cpu")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_parameter_counts():
    published = DCGAN.create(setting="as-published").parameters
    made = DCGANGenerator(64, published.latent, published.generator_features, published.doubling)
    assert count(made) == 3_577_728
    assert count(discriminator_network(64, published.discriminator_features, "batch")) == 2_766_592
    assert published.resolution == 64


@pytest.mark.parametrize("size", DCGAN.card.sizes)
@pytest.mark.parametrize("normalisation", ["batch", "spectral"])
@pytest.mark.parametrize("doubling", ["nearest", "transposed"])
def test_every_size(size, normalisation, doubling):
    network = DCGANGenerator(size, 10, 4, doubling)
    (pictures,) = network(*network.draw(2, torch.Generator()))
    assert pictures.shape == (2, 4, size, size)
    assert float(pictures.detach().abs().max()) <= 1
    assert discriminator_network(size, 4, normalisation)(pictures).shape == (2,)


@pytest.mark.parametrize("loss", ["bce", "hinge"])
def test_losses_and_normalisations_train(tmp_path, loss):
    pairs = drawn_pairs(6, 32)
    values = {**DCGAN.example(), "loss": loss, "discriminator_normalisation": "spectral", "epochs": 5}
    opened = WorkFolder(tmp_path, CPU, 0)
    (*_, last) = run_fit(DCGAN.create(**values), pairs, opened)
    assert last.step == 8
    assert {"discriminator-loss", "generator-loss"} <= {row["name"] for row in opened.metrics()}


def test_a_fit_learns_mask_areas_and_colours(tmp_path):
    """Wasserstein distances to the real pairs fall far below those of the network before training."""
    pairs = drawn_pairs(64, 32)
    values = {"steps": 300, "checkpoints": [1], "grids": 0, "latent": 16, "batch_size": 8, "ema": 0.98}
    values |= {"generator_features": 12, "discriminator_features": 12}
    first, last = run_fit(DCGAN.create(**values), pairs, WorkFolder(tmp_path, CPU, 0))

    def distances(checkpoint):
        made = DCGAN.create(**values).sample(checkpoint, np.arange(64), SampleContext(CPU, pairs))
        areas = wasserstein_distance(made.masks.mean((1, 2)), pairs.masks.mean((1, 2)))
        colours = [wasserstein_distance(made.images[..., k].ravel(), pairs.images[..., k].ravel()) for k in range(3)]
        inside = [made.images[made.masks == value].mean() for value in (0, 1)]
        return areas, np.mean(colours), inside[1] - inside[0]

    untrained, trained = distances(first), distances(last)
    assert trained[0] < 0.35 * untrained[0]
    assert trained[1] < 0.35 * untrained[1]
    # Polyps are drawn about 11 grey levels brighter than mucosa: image and mask must belong together.
    assert trained[2] > 3
