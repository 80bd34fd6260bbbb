"""ProGAN: published sizes, growth, and the parts that its paper describes."""

import math

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from generators import adversarial_losses as losses
from generators.four_channel_gan.pictures import RealPictures
from generators.progan import ProGAN
from generators.progan.networks import (
    EqualisedConvolution,
    PixelNorm,
    ProGANDiscriminator,
    ProGANGenerator,
    ProGANTraining,
    with_deviation,
)
from generators.randomness import seeded
from harness.conformance import drawn_pairs
from harness.learning.work_folder import WorkFolder, run_fit

CPU = torch.device("cpu")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_parameter_counts():
    published = ProGAN.create(setting="as-published").parameters
    made = ProGANGenerator(
        256, published.latent, published.generator_features, pixel_norm=False, tanh=False, doubling=published.doubling
    )
    assert count(made) == 1_601_944
    assert count(ProGANDiscriminator(256, published.discriminator_features, pixel_norm=True)) == 1_595_201


def test_small_sides_are_wider_up_to_the_widest():
    made = ProGANGenerator(128, 6, 8, pixel_norm=True, tanh=True, doubling="bilinear", widest=24)
    judge = ProGANDiscriminator(128, 8, pixel_norm=False, widest=24)
    expected = {4: 24, 8: 24, 16: 16, 32: 8, 64: 4, 128: 2}
    for side, width in expected.items():
        assert judge.from_picture[str(side)].weight.shape[0] == width
        if side > 4:
            assert made.to_picture[str(side)].weight.shape[1] == width
    assert judge.score.in_features == 24
    assert judge.score_scale == pytest.approx(math.sqrt(2 / 24))


@pytest.mark.parametrize("widest", [None, 16])
@pytest.mark.parametrize("size", ProGAN.card.sizes)
def test_every_size_at_every_stage_of_growth(size, widest):
    made = ProGANGenerator(size, 6, 4, pixel_norm=True, tanh=True, doubling="nearest", widest=widest)
    judge = ProGANDiscriminator(size, 4, pixel_norm=False, widest=widest)
    side = 8
    while side <= size:
        for alpha in (0.0, 0.3, 1.0):
            made.grow(side, alpha)
            judge.grow(side, alpha)
            (pictures,) = made(*made.draw(3, torch.Generator()))
            assert pictures.shape == (3, 4, side, side)
            assert judge(pictures).shape == (3,)
        side *= 2


@pytest.mark.parametrize("doubling", ["nearest", "bilinear"])
def test_a_block_is_faded_in_from_the_side_below(doubling):
    made = ProGANGenerator(32, 6, 4, pixel_norm=True, tanh=False, doubling=doubling)
    judge = ProGANDiscriminator(32, 4, pixel_norm=False)
    drawn = made.draw(4, seeded(1))

    def at(side, alpha):
        made.grow(side, alpha)
        return made(*drawn)[0]

    below = functional.interpolate(at(16, 1.0), scale_factor=2, mode=doubling)
    assert torch.allclose(at(32, 0.0), below, atol=1e-6)
    assert torch.allclose(at(32, 0.25), 0.75 * below + 0.25 * at(32, 1.0), atol=1e-6)
    pictures = at(32, 1.0)
    judge.grow(32, 0.0)
    coarse = judge(pictures)
    judge.grow(16, 1.0)
    assert torch.allclose(coarse, judge(functional.avg_pool2d(pictures, 2)), atol=1e-6)
    judge.grow(32, 1.0)
    assert not torch.allclose(coarse, judge(pictures), atol=1e-3)


def test_published_growth_gives_every_size_50_000_steps():
    published = ProGAN.create(setting="as-published").parameters
    assert [published.growth(step, 1000, 256)[0] for step in range(25_000, 300_000, 50_000)] == [
        8,
        16,
        32,
        64,
        128,
        256,
    ]
    assert published.growth(0, 1000, 256) == (8, 0.0)
    assert published.growth(50_000 + 12_500, 1000, 256) == (16, pytest.approx(0.5))
    assert published.growth(299_999, 1000, 256) == (256, 1.0)


@given(st.sampled_from(ProGAN.card.sizes), st.integers(1, 400), st.floats(0.05, 0.95), st.floats(0, 1))
def test_growth_never_goes_back_and_ends_grown(size, steps, share, fade):
    settings = ProGAN.create(steps=steps, full_size_share=share, fade=fade).parameters
    grown = [settings.growth(step, 10, size) for step in range(steps)]
    assert grown == sorted(grown)
    assert grown[0] == (8, 1.0) or steps < 6
    assert all(8 <= side <= size and 0 <= alpha <= 1 for side, alpha in grown)
    if steps > 50:
        at_full = sum(side == size for side, _ in grown) / steps
        assert at_full == pytest.approx(share, abs=2 / steps)


def test_equalised_weights_scale_by_their_fan_in():
    layer = EqualisedConvolution(8, 5, 3, 1)
    layer.bias.data += 0.5
    inputs = torch.randn(2, 8, 6, 6, generator=seeded(1))
    plain = functional.conv2d(inputs, layer.weight * math.sqrt(2 / 72), layer.bias, padding=1)
    assert torch.allclose(layer(inputs), plain)
    assert float(EqualisedConvolution(64, 64, 3).weight.std()) == pytest.approx(1, abs=0.05)


def test_pixel_norm_makes_the_mean_square_one():
    made = PixelNorm()(torch.randn(2, 7, 3, 3, generator=seeded(1)) * 9)
    assert torch.allclose(made.square().mean(dim=1), torch.ones(2, 3, 3), atol=1e-4)


def test_deviation_channel_is_the_mean_deviation_over_the_batch():
    features = torch.randn(5, 3, 4, 4, generator=seeded(1))
    made = with_deviation(features)
    assert torch.equal(made[:, :3], features)
    expected = features.numpy().std(axis=0).mean()
    assert made[:, 3].flatten().tolist() == pytest.approx([float(expected)] * 80, rel=1e-3)


def test_real_pictures_are_reduced_and_faded_like_made_ones():
    real = RealPictures(drawn_pairs(4, 32), 32, CPU)
    settings = ProGAN.create(**{**ProGAN.example(), "steps": 100, "full_size_share": 0.5, "fade": 0.5}).parameters
    training = ProGANTraining(settings, real, 0, CPU)
    pictures = real.pictures.float()
    training.begin(0)
    assert torch.allclose(training.seen_as(pictures), functional.avg_pool2d(pictures, 4))
    training.begin(62)  # 12 of 25 steps into the fade of 32 px
    assert training.generator_module.side == training.averaged.side == 32
    assert training.averaged.alpha == pytest.approx(12 / 25)
    coarse = functional.interpolate(functional.avg_pool2d(pictures, 2), scale_factor=2)
    assert torch.allclose(training.seen_as(pictures), coarse + 12 / 25 * (pictures - coarse), atol=1e-3)


@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
def test_the_game_has_the_losses_that_were_asked_for(loss):
    real = RealPictures(drawn_pairs(4, 32), 32, CPU)
    values = {
        "loss": loss,
        "precision": "float32",
        "penalty_interval": 3,
        "r1": 0.7,
        "gradient_penalty": 5.0,
        "drift": 0.2,
    }
    settings = ProGAN.create(**{**ProGAN.example(), **values}).parameters
    training = ProGANTraining(settings, real, 0, CPU)
    training.begin(settings.steps)
    made, pictures = training.averaged(*training.averaged.draw(4, seeded(1))), real.pictures.float() / 127.5 - 1
    judge = training.discriminator.module
    on_real, on_fake = judge(pictures), judge(made[0])
    told, others = {}, {}
    for step, into in ((3, told), (4, others)):
        training.begin(settings.steps + step)
        into.update(training.discriminator_losses(pictures, made, training.draw_for_losses(4, step, seeded(2))))
    if loss == "wgan-gp":
        share = torch.rand(4, 1, 1, 1, generator=seeded(2))
        adversarial = on_fake.mean() - on_real.mean() + 0.2 * on_real.square().mean()
        penalty = 3 * 5.0 * losses.gradient_penalty(judge, pictures, made[0], share)
        deceiving = -on_fake.mean()
    else:
        adversarial = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        penalty = 3 * 0.7 * losses.real_gradient_penalty(judge, pictures)
        deceiving = functional.softplus(-on_fake).mean()
    assert float(told["adversarial-loss"]) == pytest.approx(float(adversarial), rel=1e-4)
    assert float(told["penalty-loss"]) == pytest.approx(float(penalty), rel=1e-4)
    assert float(training.generator_losses(made)["deceiving-loss"]) == pytest.approx(float(deceiving), rel=1e-4)
    assert "penalty-loss" not in others


@pytest.mark.parametrize("widest", [None, 8])
def test_a_checkpoint_in_the_middle_of_growth_makes_pictures_of_full_size(tmp_path, widest):
    pairs = drawn_pairs(6, 32)
    values = {**ProGAN.example(), "steps": 12, "checkpoints": [1, 12], "widest": widest}
    first, last = run_fit(ProGAN.create(**values), pairs, WorkFolder(tmp_path, CPU, 0))
    from harness.plugins.contract import SampleContext

    early = ProGAN.create(**values).sample(first, range(2), SampleContext(CPU, pairs))
    assert early.images.shape == (2, 32, 32, 3)
    # Learned at 8 px, so that neighbours are nearly alike.
    late = ProGAN.create(**values).sample(last, range(2), SampleContext(CPU, pairs))
    roughness = [abs(m.images[:, 1:].astype(int) - m.images[:, :-1]).mean() for m in (early, late)]
    assert roughness[0] < roughness[1]
