"""FastGAN: published sizes, every size, its two batch norms, reconstructions and averaged weights."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from generators.fastgan import FastGAN
from generators.fastgan.networks import (
    Excitation,
    FastGANDiscriminator,
    FastGANGenerator,
    FastGANTraining,
    OwnStatistics,
    quadrant,
)
from generators.four_channel_gan.pictures import RealPictures
from generators.randomness import seeded
from harness.conformance import drawn_pairs

CPU = torch.device("cpu")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def pixels(made, real):
    return (made - real).abs().mean(dim=(1, 2, 3))


def training(distance=pixels, size=32, **more):
    values = {**FastGAN.example(), "reconstruction": "l1", "precision": "float32", **more}
    return FastGANTraining(
        FastGAN.create(**values).parameters, RealPictures(drawn_pairs(8, size), size, CPU), 0, CPU, distance
    )


def test_published_parameter_counts():
    published = FastGAN.create(setting="as-published").parameters
    assert count(FastGANGenerator(256, published.latent, published.generator_features, tanh=False)) == 29_128_198
    assert count(FastGANDiscriminator(256, published.discriminator_features)) == 11_527_680


@pytest.mark.parametrize("size", FastGAN.card.sizes)
def test_every_size(size):
    made, judge = FastGANGenerator(size, 6, 4, tanh=True), FastGANDiscriminator(size, 4)
    large, small = made(*made.draw(2, torch.Generator()))
    half = min(size // 2, 128)
    assert large.shape == (2, 4, size, size)
    assert small.shape == (2, 4, half, half)
    scores, *decoded = judge(large, small, 3)
    assert scores.shape == (2, 50)
    assert [picture.shape for picture in decoded] == [(2, 4, half, half)] * 3
    assert len(judge(large, small)) == 1


def test_without_tanh_pictures_are_unbounded():
    made = FastGANGenerator(32, 6, 4, tanh=False)
    nn.init.constant_(made.to_large.parametrizations.weight.original, 1.0)
    with torch.no_grad():
        assert float(made(*(100 * t for t in made.draw(4, torch.Generator())))[0].abs().max()) > 1


def test_noise_counts_only_once_its_weight_does():
    made = FastGANGenerator(32, 6, 4, tanh=True).eval()
    latents, *noise = made.draw(2, seeded(1))
    other = [torch.randn(map.shape, generator=seeded(2)) for map in noise]
    assert torch.equal(made(latents, *noise)[0], made(latents, *other)[0])
    for name, weight in made.named_parameters():
        if "noise" in name:
            weight.data.fill_(1.0)
    assert not torch.allclose(made(latents, *noise)[0], made(latents, *other)[0])


def test_own_statistics_are_those_of_a_batch_of_one():
    made = FastGANGenerator(32, 6, 4, tanh=True)
    drawn = made.draw(3, seeded(1))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.bias)
    one_by_one = copy.deepcopy(made).eval()
    for module in one_by_one.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        expected = torch.cat([one_by_one(*(t[i : i + 1] for t in drawn))[0] for i in range(3)])
        OwnStatistics.instead_of(made.eval())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
        assert torch.allclose(made(*drawn)[0], expected, atol=1e-5)


def test_excitation_is_a_gate_for_each_channel():
    layer = Excitation(3, 5)
    fine = torch.rand(2, 5, 8, 8, generator=seeded(1)) + 0.1
    ratio = layer(torch.randn(2, 3, 8, 8, generator=seeded(2)), fine) / fine
    assert torch.allclose(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-6)
    assert float(ratio.min()) > 0
    assert float(ratio.max()) < 1


def test_quadrants_tile_a_picture():
    picture = torch.arange(32.0).reshape(1, 2, 4, 4)
    above, below = (torch.cat([quadrant(picture, i), quadrant(picture, i + 1)], dim=3) for i in (0, 2))
    assert torch.equal(torch.cat([above, below], dim=2), picture)


def test_reconstructions_are_compared_with_what_they_show():
    """The targets are the whole picture twice, and the quadrant whose features were decoded."""
    compared = []

    def distance(made, real):
        compared.append(real)
        return pixels(made, real)

    game = training(distance, size=64, reconstruction_interval=1, antialias=True)
    real = game.real.batch(torch.arange(4))
    parts = set()
    for step in range(12):
        game.begin(step)
        fake = tuple(torch.zeros(4, 4, side, side) for side in (64, 32))
        told = game.discriminator_losses(real, fake, game.draw_for_losses(4, step, seeded(step)))
        assert "reconstruction-loss" in told
        whole, again, part = compared[-1].split(4)
        half = functional.avg_pool2d(real, 2)[:, :3]
        assert torch.allclose(whole, half, atol=1e-6)
        assert torch.equal(whole, again)
        (found,) = [i for i in range(4) if torch.allclose(quadrant(real, i)[:, :3], part)]
        parts.add(found)
    assert parts == {0, 1, 2, 3}


@pytest.mark.parametrize("reconstruct_mask", [False, True])
def test_the_mask_is_reconstructed_only_if_asked_for(reconstruct_mask):
    game = training(reconstruct_mask=reconstruct_mask, reconstruction_interval=1)
    decoded = [torch.zeros(2, 4, 16, 16, requires_grad=True) for _ in range(3)]
    game._reconstruction(decoded, tuple(torch.ones(2, 4, 16, 16) for _ in range(3))).backward()
    assert all(bool((picture.grad[:, 3] != 0).any()) == reconstruct_mask for picture in decoded)
    assert all(bool((picture.grad[:, :3] != 0).all()) for picture in decoded)


def test_rarer_reconstructions_weigh_more():
    real = training().real.batch(torch.arange(4))
    fake = tuple(torch.zeros(4, 4, side, side) for side in (32, 16))
    weighed = {}
    for interval in (1, 3):
        game = training(reconstruction_interval=interval)
        game.begin(0)
        drawn = game.draw_for_losses(4, 0, seeded(0))
        weighed[interval] = float(game.discriminator_losses(real, fake, drawn)["reconstruction-loss"])
        game.begin(1)
        assert ("reconstruction-loss" in game.discriminator_losses(real, fake, drawn)) == (interval == 1)
    assert weighed[3] == pytest.approx(3 * weighed[1], rel=1e-4)


def test_averaged_weights_are_normalised_by_their_own_spectral_norm():
    """The averaged network is never trained, so the vectors of its power iteration must come from elsewhere."""
    game = training(ema=0.9)
    for step in range(6):
        game.step(step)
    for module in game.sampled_network(6).modules():
        if isinstance(module, nn.Conv2d):
            largest = float(torch.linalg.matrix_norm(module.weight.flatten(1), 2))
            assert largest == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("reconstruction", ["perceptual", "l1"])
def test_the_perceptual_network_of_this_machine_is_part_of_the_key(monkeypatch, reconstruction):
    generator = FastGAN.create(reconstruction=reconstruction)
    told = []
    for found in (None, SimpleNamespace(sha256="abc"), SimpleNamespace(sha256="def")):
        monkeypatch.setattr("harness.learning.pretrained.perceptual_weights", lambda found=found: found)
        told.append(str(generator.environment_key()))
    assert len(set(told)) == (3 if reconstruction == "perceptual" else 1)


def test_without_a_perceptual_network_pixels_are_compared_and_the_report_says_so(monkeypatch):
    notes = []
    fitting = SimpleNamespace(device=CPU, seed=0, note=notes.append)
    monkeypatch.setattr("harness.learning.perceptual.perceptual_weights", lambda: None)
    distance = FastGAN.create()._distance(fitting)
    assert distance(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)).tolist() == [1.0, 1.0]
    assert "pixel by pixel" in notes[0]
    assert "harness weights fetch" in notes[0]
