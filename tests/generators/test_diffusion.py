"""The noising process, its losses, timesteps, samplers and networks, against closed forms and against diffusers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from generators import mask_ddpm, mask_ldm
from generators.diffusion.denoiser import Denoiser, Shape, coverage_of
from generators.diffusion.examples import LatentExamples, PixelExamples
from generators.diffusion.masks import threshold, threshold_as_published
from generators.diffusion.parameters import DiffusionParameters
from generators.diffusion.process import Process, variances
from generators.diffusion.sampling import denoise
from generators.diffusion.timesteps import ImportantTimesteps, UniformTimesteps
from generators.diffusion.training import DiffusionTraining
from generators.diffusion.watch import LossWatch
from harness.errors import HarnessError

CPU = torch.device("cpu")


def process(learned: bool = True, **values: Any) -> Process:
    return Process(DiffusionParameters(**values), CPU, learned_variance=learned)


def drawn(count: int = 6, channels: int = 1, side: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pictures of levels of a byte, as training has them, and noise."""
    randomness = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, channels, side, side), generator=randomness)
    return levels / 127.5 - 1, torch.randn(count, channels, side, side, generator=randomness)


# the noising process


@pytest.mark.parametrize("schedule", ["linear", "scaled-linear", "cosine"])
def test_variances_are_those_of_diffusers(schedule: str) -> None:
    from diffusers import DDPMScheduler

    named = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}[schedule]
    theirs = DDPMScheduler(1000, beta_start=0.0015, beta_end=0.0205, beta_schedule=named).betas
    ours = variances(schedule, 1000, 0.0015, 0.0205)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-4)


def test_the_linear_schedule_is_paper_a_s() -> None:
    betas = variances("linear", 1000, 1e-4, 0.02)
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    # All but nothing of the picture is left at the end: alphabar of Ho et al. 2020 is 4.04e-5.
    assert np.prod(1 - betas) == pytest.approx(4.036e-5, rel=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_shift_divides_the_signal_to_noise_ratio_by_its_square(schedule: str) -> None:
    def ratio(shift: float) -> NDArray[np.float64]:
        kept = np.cumprod(1 - variances(schedule, 200, 1e-3, 0.05, shift))  # type: ignore[arg-type]
        return kept / (1 - kept)

    # Of the last step of the cosine schedule nothing is left, and its beta is cut.
    np.testing.assert_allclose(ratio(3.0)[:-1], ratio(1.0)[:-1] / 9, rtol=1e-6)


def test_noise_is_added_in_closed_form_as_by_steps() -> None:
    """The signal and the noise that x_t is made of are those of t + 1 single steps, one after another."""
    made = process(timesteps=50, sampling_steps=5, beta_end=0.2)
    signal, noise_variance = 1.0, 0.0
    for t, beta in enumerate(made.betas):
        signal, noise_variance = signal * math.sqrt(1 - beta), (1 - beta) * noise_variance + beta
        at = torch.tensor([t])
        one, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        assert float(made.noised(one, nothing, at)) == pytest.approx(signal, rel=1e-5)
        assert float(made.noised(nothing, one, at)) ** 2 == pytest.approx(noise_variance, rel=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_the_start_follows_from_a_perfect_prediction(prediction: str) -> None:
    made = process(prediction=prediction)
    start, noise = drawn()
    timesteps = torch.tensor([0, 1, 10, 300, 600, 800])
    current = made.noised(start, noise, timesteps)
    found = made.start(made.target(start, noise, timesteps), current, timesteps)
    torch.testing.assert_close(found, start, atol=2e-3, rtol=0)


def test_velocity_turns_the_noise_and_the_start() -> None:
    """Salimans and Ho 2022: v = alpha noise - sigma x, and (x_t, v) is a rotation of (x, noise)."""
    made = process(prediction="velocity")
    start, noise = drawn()
    timesteps = torch.tensor([0, 100, 200, 400, 700, 999])
    current, velocity = made.noised(start, noise, timesteps), made.target(start, noise, timesteps)
    torch.testing.assert_close(current**2 + velocity**2, start**2 + noise**2, atol=1e-4, rtol=1e-4)


# losses


def test_a_perfect_prediction_with_the_posterior_variance_costs_nothing() -> None:
    made = process()
    start, noise = drawn()
    timesteps = torch.tensor([1, 2, 50, 300, 700, 999])
    current = made.noised(start, noise, timesteps)
    posterior = torch.full_like(start, -1.0)
    losses = made.losses(torch.cat([noise, posterior], 1), start, noise, current, timesteps)
    assert losses.prediction.abs().max() == 0
    assert losses.variational is not None
    assert losses.variational.abs().max() < 1e-4


def test_the_variational_term_is_the_divergence_of_torch_distributions() -> None:
    made = process()
    start, noise = drawn()
    timesteps = torch.tensor([1, 3, 50, 300, 700, 999])
    current = made.noised(start, noise, timesteps)
    randomness = torch.Generator().manual_seed(1)
    predicted = torch.randn(start.shape, generator=randomness)
    said = torch.rand(start.shape, generator=randomness) * 2 - 1
    found = made.variational_term(predicted, said, start, current, timesteps)

    betas = torch.from_numpy(made.betas)
    kept = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    for i, t in enumerate(timesteps.tolist()):
        beta, bar, bar_before = betas[t], kept[t], before[t]
        x0, xt = start[i].double(), current[i].double()
        guess = (xt - (1 - bar).sqrt() * predicted[i].double()) / bar.sqrt()

        def mean(x: Tensor, xt: Tensor = xt, beta: Tensor = beta, bar: Tensor = bar, bb: Tensor = bar_before) -> Tensor:
            return bb.sqrt() * beta / (1 - bar) * x + (1 - beta).sqrt() * (1 - bb) / (1 - bar) * xt

        smallest, largest = (beta * (1 - bar_before) / (1 - bar)).log(), beta.log()
        share = (said[i].double() + 1) / 2
        log_variance = share * largest + (1 - share) * smallest
        truth = torch.distributions.Normal(mean(x0), (0.5 * smallest).exp())
        ours = torch.distributions.Normal(mean(guess), (0.5 * log_variance).exp())
        bits = torch.distributions.kl_divergence(truth, ours).mean() / math.log(2)
        assert float(found[i]) == pytest.approx(float(bits), rel=2e-3)


def test_at_the_first_timestep_it_is_the_likelihood_of_a_byte() -> None:
    """The probabilities of all 256 levels sum to 1, and the loss is minus the logarithm of the right one."""
    made = process()
    timesteps = torch.zeros(256, dtype=torch.int64)
    levels = (torch.arange(256) / 127.5 - 1)[:, None, None, None]
    current = torch.full((256, 1, 1, 1), 0.1)
    predicted, said = torch.full_like(current, 0.3), torch.full_like(current, 0.5)
    bits = made.variational_term(predicted, said, levels, current, timesteps)
    assert float(torch.exp2(-bits.double()).sum()) == pytest.approx(1, abs=1e-3)
    # One level by hand: a Gaussian of the predicted mean and variance between the level's edges.
    beta, kept = made.betas[0], 1 - made.betas[0]
    mean = (0.1 - math.sqrt(1 - kept) * 0.3) / math.sqrt(kept)  # at t = 0 the posterior mean is x_0
    posterior = made.betas[1] * (1 - kept) / (1 - kept * (1 - made.betas[1]))
    deviation = math.exp(0.5 * (0.75 * math.log(beta) + 0.25 * math.log(posterior)))
    near = round((mean + 1) * 127.5)
    normal = torch.distributions.Normal(mean, deviation)
    edge = torch.tensor([near / 127.5 - 1 - 1 / 255, near / 127.5 - 1 + 1 / 255], dtype=torch.float64)
    probability = float(normal.cdf(edge[1]) - normal.cdf(edge[0]))
    assert float(bits[near]) == pytest.approx(-math.log2(probability), rel=1e-3)


def test_the_variational_term_moves_the_variances_only() -> None:
    made = process()
    start, noise = drawn()
    timesteps = torch.tensor([0, 3, 50, 300, 700, 999])
    current = made.noised(start, noise, timesteps)
    output = torch.zeros(6, 2, 8, 8, requires_grad=True)
    losses = made.losses(output, start, noise, current, timesteps)
    assert losses.variational is not None
    (gradient,) = torch.autograd.grad(losses.variational.sum(), output)
    assert gradient[:, 0].abs().max() == 0
    assert gradient[:, 1].abs().min(dim=0).values.max() > 0
    output = torch.zeros(6, 2, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(made.losses(output, start, noise, current, timesteps).prediction.sum(), output)
    assert gradient[:, 1].abs().max() == 0


def test_the_hybrid_objective_weighs_the_bound_as_published() -> None:
    """At 1000 timesteps the term counts once (0.001 T); at 100 a tenth."""
    for timesteps, weight in ((1000, 1.0), (100, 0.1)):
        made = process(timesteps=timesteps)
        start, noise = drawn()
        at = torch.tensor([1, 3, 20, 40, 70, 99])
        current = made.noised(start, noise, at)
        output = torch.zeros(6, 2, 8, 8)
        losses = made.losses(output, start, noise, current, at)
        assert losses.variational is not None
        bits = made.variational_term(output[:, :1], output[:, 1:], start, current, at)
        torch.testing.assert_close(losses.variational, weight * bits)
        torch.testing.assert_close(losses.total(), losses.prediction + losses.variational)


def test_losses_are_means_of_absolute_or_squared_errors() -> None:
    start, noise = drawn()
    at = torch.tensor([1, 3, 20, 40, 70, 99])
    output = torch.randn(start.shape, generator=torch.Generator().manual_seed(3))
    for loss, error in (("l1", (output - noise).abs()), ("l2", (output - noise) ** 2)):
        made = process(learned=False, loss=loss)
        found = made.losses(output, start, noise, made.noised(start, noise, at), at)
        torch.testing.assert_close(found.prediction, error.mean(dim=(1, 2, 3)))
        assert found.variational is None


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_min_snr_weighs_the_error_of_the_start_by_the_cut_ratio(prediction: str) -> None:
    """Hang et al. 2023: in terms of x_0 the weight is min(SNR, 5), whatever is predicted."""
    made = process(learned=False, prediction=prediction, weighting="min-snr")
    start, noise = drawn()
    at = torch.tensor([2, 40, 200, 300, 500, 700])
    current = made.noised(start, noise, at)
    output = made.target(start, noise, at) + 0.1
    found = made.losses(output, start, noise, current, at).prediction
    kept = torch.from_numpy(np.cumprod(1 - made.betas))[at].float()
    error = (made.start(output, current, at) - start).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found, error * (kept / (1 - kept)).clamp(max=5), rtol=2e-2, atol=1e-6)


# timesteps


def test_important_timesteps_are_those_of_large_losses() -> None:
    chosen = ImportantTimesteps(4)
    assert torch.equal(chosen.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))
    sizes = torch.tensor([1.0, 2.0, 3.0, 10.0])
    for _ in range(12):
        chosen.learn(torch.arange(4), sizes)
    expected = 0.999 * sizes.double() / 16 + 0.001 / 4
    torch.testing.assert_close(chosen.probabilities(), expected)
    timesteps, weights = chosen.draw(40_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(timesteps, minlength=4) / 40_000
    torch.testing.assert_close(counts.double(), expected, atol=0.01, rtol=0)
    # Weighted, the mean loss is that of uniform draws.
    assert float((sizes[timesteps] * weights).mean()) == pytest.approx(4.0, rel=0.02)


def test_important_timesteps_forget_all_but_ten_losses() -> None:
    chosen = ImportantTimesteps(2)
    for loss in (100.0, *[3.0] * 10):
        chosen.learn(torch.tensor([0, 1]), torch.tensor([loss, 1.0]))
    assert float(chosen.probabilities()[0]) == pytest.approx(0.999 * 0.75 + 0.0005)
    again = ImportantTimesteps(2)
    again.restore(chosen.state())
    assert torch.equal(again.probabilities(), chosen.probabilities())


def test_uniform_timesteps_reach_every_level_and_weigh_alike() -> None:
    timesteps, weights = UniformTimesteps(10).draw(2000, torch.Generator().manual_seed(0))
    assert torch.bincount(timesteps, minlength=10).min() > 120
    assert weights.unique().tolist() == [1.0]


# networks


@pytest.mark.parametrize(
    ("parameters", "plugin", "count"),
    [
        ({"setting": "as-published"}, mask_ddpm.MaskDDPM, 113_676_678),
        ({"setting": "as-published"}, mask_ldm.MaskLDM, 215_229_315),
    ],
)
def test_published_networks_have_the_published_size(parameters: dict[str, Any], plugin: Any, count: int) -> None:
    made = plugin.create(**parameters)
    config = made.parameters.model_dump(mode="json") | {
        "side": 256,
        "factor": 4,
        "learned_variance": True,
    }
    with torch.device("meta"):
        network = made.build(config)
    assert sum(p.numel() for p in network.network.parameters()) == count
    rescaler = 0 if network.rescaler is None else sum(p.numel() for p in network.rescaler.parameters())
    assert rescaler == (6 if plugin is mask_ldm.MaskLDM else 0)


def test_published_attention_is_where_the_network_has_it() -> None:
    """Paper A's mask DDPM attends at 16 px; its latent diffusion in the middle only, the sound one at 32 and 16."""

    def levels(plugin: Any, **values: Any) -> list[bool]:
        made = plugin.create(**values)
        config = made.parameters.model_dump(mode="json") | {"side": 256, "factor": 4, "learned_variance": True}
        with torch.device("meta"):
            network = made.build(config).network
        return [hasattr(block, "attentions") for block in network.down_blocks]

    assert levels(mask_ddpm.MaskDDPM, setting="as-published") == [False, False, False, False, True, False]
    assert levels(mask_ldm.MaskLDM, setting="as-published") == [False, False, False]
    assert levels(mask_ldm.MaskLDM) == [False, True, True]


SHAPE = Shape((8, 16), 1, head_width=8, groups=4)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_denoiser_starts_by_predicting_nothing(patch: int) -> None:
    network = Denoiser(3, 8, SHAPE, patch=patch, learned_variance=True)
    made = network(torch.randn(2, 3, 8, 8), torch.tensor([0, 5]))
    assert made.shape == (2, 6, 8, 8)
    assert made.abs().max() == 0


def stirred(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network weights as after training: none are 0."""
    randomness = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=randomness))
    return network.eval()


def test_a_denoiser_hears_its_mask_unless_it_is_left_out() -> None:
    network = stirred(Denoiser(3, 8, SHAPE, masks=True, patch=2))
    noisy, at = torch.randn(2, 3, 8, 8), torch.tensor([3, 3])
    empty, full = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    heard = network(noisy, at, empty) - network(noisy, at, full)
    assert heard.abs().max() > 1e-3
    left_out = torch.tensor([0.0, 1.0])
    difference = network(noisy, at, empty, left_out) - network(noisy, at, full, left_out)
    assert difference[0].abs().max() == 0
    assert difference[1].abs().max() > 1e-3


def test_a_side_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(HarnessError, match="multiple of 4, got 18"):
        Denoiser(3, 18, SHAPE, patch=2)


def test_coverage_is_two_bilinear_halvings() -> None:
    """The published rescaler halves twice with bilinear interpolation."""
    masks = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
    halved = masks.float()
    for _ in range(2):
        halved = nn.functional.interpolate(halved, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(coverage_of(masks, 4), halved)
    assert torch.equal(coverage_of(masks, 1), masks.float())


# samplers


class Oracle(Denoiser):
    """Knows that all pictures are one grey: its noise prediction is exact, and its variance the posterior's."""

    def __init__(self, made: Process, grey: float, learned: bool) -> None:
        nn.Module.__init__(self)
        self.made, self.grey, self.learned, self.calls = made, grey, learned, 0

    def forward(self, noisy: Tensor, timesteps: Tensor, coverage: Any = None, given: Any = None) -> Tensor:
        self.calls += 1
        kept = torch.from_numpy(np.cumprod(1 - self.made.betas))[timesteps].float()[:, None, None, None]
        noise = (noisy - kept.sqrt() * self.grey) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * self.grey
        predicted = noise if self.made.settings.prediction == "noise" else velocity
        return torch.cat([predicted, -torch.ones_like(predicted)], 1) if self.learned else predicted


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm-solver++"])
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samplers_find_what_a_perfect_network_knows(sampler: str, prediction: str, schedule: str) -> None:
    values = {"sampler": sampler, "prediction": prediction, "noise_schedule": schedule, "precision": "float32"}
    steps = 1000 if sampler == "ancestral" else 20
    made = process(sampling_steps=steps, **values)
    network = Oracle(made, 0.4, learned=True)
    found = denoise(network, made.settings, (1, 4, 4), np.arange(3), CPU, learned_variance=True)
    assert found.shape == (3, 1, 4, 4)
    torch.testing.assert_close(found, torch.full_like(found, 0.4), atol=2e-2, rtol=0)
    assert network.calls == steps


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm-solver++"])
def test_what_is_predicted_of_a_picture_is_cut_to_its_range(sampler: str) -> None:
    """A network that always says 3 ends at 1 where pictures are cut, and at 3 where latents are not."""
    made = process(sampler=sampler, sampling_steps=50, prediction="velocity", precision="float32")
    for clip, expected in ((True, 1.0), (False, 3.0)):
        network = Oracle(made, 3.0, learned=True)
        found = denoise(network, made.settings, (1, 4, 4), np.arange(2), CPU, learned_variance=True, clip=clip)
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=0.05, rtol=0)


def test_ancestral_steps_are_those_of_the_published_sampler() -> None:
    """One reverse step by hand, with learned variance and x_0 cut to [-1, 1]."""
    from generators.diffusion.sampling import scheduler_of

    made = process(sampler="ancestral", sampling_steps=1000)
    scheduler = scheduler_of(made.settings, clip=True, learned_variance=True)
    assert scheduler.timesteps[:3].tolist() == [999, 998, 997]
    t = 400
    current = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    predicted = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    said = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    output = torch.cat([predicted, said], 1)
    found = scheduler.step(output, t, current, generator=[torch.Generator().manual_seed(3)]).prev_sample
    betas = made.betas
    kept = np.cumprod(1 - betas)
    start = ((current - math.sqrt(1 - kept[t]) * predicted) / math.sqrt(kept[t])).clamp(-1, 1)
    mean = math.sqrt(kept[t - 1]) * betas[t] / (1 - kept[t]) * start
    mean = mean + math.sqrt(1 - betas[t]) * (1 - kept[t - 1]) / (1 - kept[t]) * current
    smallest = math.log(betas[t] * (1 - kept[t - 1]) / (1 - kept[t]))
    share = (said + 1) / 2
    deviation = torch.exp(0.5 * (share * math.log(betas[t]) + (1 - share) * smallest))
    torch.testing.assert_close(found, mean + deviation * noise, atol=1e-4, rtol=1e-4)


def test_ddim_takes_the_published_timesteps() -> None:
    """Paper A: 200 steps 1, 6, ..., 996; the sound spacing starts at the noisiest."""
    from generators.diffusion.sampling import scheduler_of

    published = mask_ldm.MaskLDM.create(setting="as-published").parameters
    timesteps = scheduler_of(published, clip=False, learned_variance=False).timesteps.tolist()
    assert timesteps == list(range(996, 0, -5))
    sound = DiffusionParameters(sampler="ddim", sampling_steps=200)
    assert scheduler_of(sound, clip=False, learned_variance=False).timesteps[0] == 999


def test_ddim_with_eta_draws_noise_of_the_stated_size() -> None:
    from generators.diffusion.sampling import scheduler_of

    made = process(sampler="ddim", sampling_steps=100, eta=1.0)
    scheduler = scheduler_of(made.settings, clip=False, learned_variance=False)
    t, before = 499, 489
    current, predicted = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    found = scheduler.step(predicted, t, current, eta=1.0, generator=[torch.Generator().manual_seed(0)]).prev_sample
    kept = np.cumprod(1 - made.betas)
    # Song et al. 2021, equation 16.
    sigma = math.sqrt((1 - kept[before]) / (1 - kept[t]) * (1 - kept[t] / kept[before]))
    assert float(found.std()) == pytest.approx(sigma, rel=0.03)


def test_guidance_exaggerates_what_the_mask_changes() -> None:
    from generators.diffusion.sampling import _predict

    network = stirred(Denoiser(3, 8, SHAPE, masks=True))
    current, masks = torch.randn(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    at = torch.tensor([7, 7])
    with torch.no_grad():
        given = network(current, at, masks)
        without = network(current, at, masks, torch.zeros(2))
        torch.testing.assert_close(_predict(network, 1.0, current, at, masks), given)
        expected = without + 3.0 * (given - without)
        torch.testing.assert_close(_predict(network, 3.0, current, at, masks), expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True), st.data())
def test_a_sample_depends_on_its_own_seed_and_mask(seeds: list[int], data: st.DataObject) -> None:
    network = stirred(Denoiser(3, 8, SHAPE, masks=True))
    asked = DiffusionParameters(sampler="ddim", eta=0.5, timesteps=20, sampling_steps=3, precision="float32")
    coverage = torch.rand(len(seeds), 1, 8, 8, generator=torch.Generator().manual_seed(len(seeds)))

    def sampled(order: list[int]) -> Tensor:
        own = np.array([seeds[i] for i in order])
        return denoise(network, asked, (3, 8, 8), own, CPU, coverage=coverage[order], guidance=2.0)

    order = data.draw(st.permutations(range(len(seeds))))
    kept = order[: data.draw(st.integers(1, len(order)))]
    assert torch.equal(sampled(list(kept)), sampled(list(range(len(seeds))))[kept])


# examples


@pytest.mark.parametrize(("flips", "expected"), [("none", 1), ("horizontal", 2), ("both", 4)])
def test_pictures_and_their_masks_are_flipped_alike(flips: str, expected: int) -> None:
    masks = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
    pictures = (masks * 255).repeat(1, 3, 1, 1)
    pixels = PixelExamples(pictures, masks, flips)
    latents = LatentExamples(pictures, masks, flips, lambda images: nn.functional.avg_pool2d(images, 4), 4)
    seen: set[bytes] = set()
    for seed in range(40):
        for examples, factor in ((pixels, 1), (latents, 4)):
            made, coverage = examples.batch(np.array([0]), torch.Generator().manual_seed(seed))
            assert coverage is not None
            torch.testing.assert_close((made + 1) / 2, coverage.repeat(1, 3, 1, 1))
            assert made.shape[-1] == 8 // factor
            seen |= {made.numpy().tobytes()} if factor == 1 else set()
    assert len(seen) == expected


# training


def training(**values: Any) -> DiffusionTraining:
    asked = DiffusionParameters(
        **{"batch_size": 6, "timesteps": 20, "sampling_steps": 4, "precision": "float32"} | values
    )
    pictures = (torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8) * 255
    return DiffusionTraining(
        asked,
        PixelExamples(pictures, None, asked.flip),
        lambda: Denoiser(1, 8, SHAPE, learned_variance=True),
        Process(asked, CPU, learned_variance=True),
        seed=3,
        device=CPU,
    )


def weights(made: DiffusionTraining) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.denoiser.parameters()])


def test_gradients_of_parts_are_those_of_the_whole_batch() -> None:
    whole, parts = training(), training(accumulate=3)
    for step in range(3):
        assert float(whole.step(step)["loss"]) == pytest.approx(float(parts.step(step)["loss"]), rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(parts), atol=2e-6, rtol=1e-4)


def test_the_average_follows_the_weights() -> None:
    made = training(ema=0.5, ema_warmup=False)
    expected = weights(made).clone()
    for step in range(3):
        made.step(step)
        expected = 0.5 * expected + 0.5 * weights(made)
    averaged = torch.cat([p.flatten() for p in made.averaged.parameters()])
    torch.testing.assert_close(averaged, expected)
    assert made.sampled_network() is made.averaged
    assert training(ema=0).sampled_network().state_dict().keys() == made.denoiser.state_dict().keys()


def test_the_average_warms_up() -> None:
    made = training(ema=0.9999)
    start = weights(made).clone()
    made.step(0)
    averaged = torch.cat([p.flatten() for p in made.averaged.parameters()])
    torch.testing.assert_close(averaged, 0.1 * start + 0.9 * weights(made))


def test_the_learning_rate_rises_and_falls() -> None:
    made = training(steps=100, warmup_steps=10, decay_steps=20)
    assert [round(made.rate(step), 3) for step in (0, 4, 9, 50, 80, 90, 99)] == [0.1, 0.5, 1, 1, 1, 0.5, 0.05]
    assert training().rate(0) == 1


def test_the_gradient_is_clipped_and_its_norm_told() -> None:
    assert float(training(gradient_clip=None).step(0)["gradient-norm"]) > 0
    made = training(gradient_clip=1e-9)
    made.step(0)
    norms = [p.grad.norm() for p in made.denoiser.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-9, rel=0.01)


def test_losses_are_told_by_quarters_of_the_timesteps() -> None:
    made = training()
    told = [made.step(step) for step in range(20)][-1]
    names = [name for name in told if name.startswith("loss-timesteps")]
    assert names == ["loss-timesteps-0-4", "loss-timesteps-5-9", "loss-timesteps-10-14", "loss-timesteps-15-19"]
    counts = made._counts
    assert int(counts.sum()) == 20 * 6
    # The mean of all is that of the quarters, weighted.
    values = torch.stack([told[name] for name in names])
    again = training()
    losses = [float(again.step(step)["loss"]) for step in range(20)]
    assert float((values * counts).sum() / counts.sum()) == pytest.approx(np.mean(losses), rel=1e-4)


def test_it_learns_what_all_pictures_are() -> None:
    """Trained on one picture, samples become that picture."""
    asked = DiffusionParameters(
        batch_size=8, timesteps=100, sampling_steps=10, learning_rate=3e-3, ema=0.9, flip="none", precision="float32"
    )
    picture = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    picture[:, :, 2:6, 1:5] = 255
    made = DiffusionTraining(
        asked,
        PixelExamples(picture, None, "none"),
        lambda: Denoiser(1, 8, Shape((16, 32), 1, head_width=8, groups=4)),
        Process(asked, CPU),
        seed=0,
        device=CPU,
    )
    for step in range(250):
        told = made.step(step)
    assert float(told["loss"]) < 0.3
    found = threshold(denoise(made.sampled_network(), asked, (1, 8, 8), np.arange(4), CPU).numpy(), 0)
    assert (found == (picture[:, 0].numpy() > 0)).mean() > 0.97


def test_a_lost_training_is_told_in_a_sentence() -> None:
    with pytest.raises(HarnessError, match=r"mask-ddpm diverged: its loss is nan at step 40; lower learning_rate"):
        mask_ddpm.MaskDDPM.create().look(LossWatch(), {"loss": math.nan}, 40)


def told(*ranges: float) -> dict[str, float]:
    return {"loss": 0.5, **{f"loss-timesteps-{i}-{i}": value for i, value in enumerate(ranges)}}


def test_a_loss_that_has_risen_and_stays_ends_the_fit() -> None:
    """What was seen of a real fit: from one look to the next it learns nothing any more, and its loss is finite."""
    model, watch = mask_ddpm.MaskDDPM.create(learning_rate=8e-4), LossWatch()
    for step in range(20, 3420, 20):
        model.look(watch, told(0.16, 0.04, 0.03, 0.07), step)
    said = (
        r"mask-ddpm diverged: its mean loss over all timesteps had fallen to 0.075, and is 0.\d+ up to step \d+; lower "
        r"learning_rate \(now 0.0008\) or the second of betas \(now 0.999\)."
    )
    for step in range(3420, 3480, 20):
        model.look(watch, told(0.98, 0.71, 0.37, 0.18), step)
    with pytest.raises(HarnessError, match=said):
        model.look(watch, told(0.98, 0.71, 0.37, 0.18), 3480)


@given(st.lists(st.floats(0.2, 0.5), min_size=1, max_size=60))
@settings(max_examples=50)
def test_a_loss_that_stays_within_its_noise_is_no_rise(losses: list[float]) -> None:
    watch = LossWatch()
    assert all(watch.look(told(loss, loss)) is None for loss in losses)


@pytest.mark.parametrize("undrawn", [(), (math.nan,)])
def test_a_rise_counts_from_three_times_the_lowest(undrawn: tuple[float, ...]) -> None:
    """Also where nothing was drawn from one of the ranges."""
    watch = LossWatch()
    for level, lost in ((0.1, False), (0.28, False), (0.32, True)):
        for _ in range(30):
            found = watch.look(told(level, level, level, *undrawn))
        assert (found is not None) == lost
    assert found == pytest.approx((0.1, 0.32))
    assert LossWatch().look(told(math.nan)) is None


def test_one_bad_batch_does_not_end_a_fit() -> None:
    watch = LossWatch()
    for number in range(60):
        assert watch.look(told(*[1.5 if number == 40 else 0.1] * 4)) is None


# masks


def pictures(*masks: list[str]) -> np.ndarray:
    """Return pictures of drawn masks, # for polyp."""
    drawn_masks = [[[1.0 if c == "#" else -1.0 for c in row] for row in mask] for mask in masks]
    return np.array(drawn_masks, dtype=np.float32)[:, None]


def test_specks_and_holes_go_and_edges_stay() -> None:
    given_masks = pictures(
        [
            "#.......",
            "..####..",
            "..#.##..",
            "..####..",
            "........",
            ".......#",
            "......#.",
            ".....#..",
        ]
    )
    found = threshold(given_masks, 3 / 64)
    expected = ["........", "..####..", "..####..", "..####..", "........", ".......#", "......#.", ".....#.."]
    assert ["".join("#" if p else "." for p in row) for row in found[0]] == expected
    assert (threshold(given_masks, 0)[0] == (given_masks[0, 0] > 0)).all()


def test_a_small_background_at_the_edge_is_no_hole() -> None:
    found = threshold(pictures(["#####.", "######", "######"]), 0.5)
    assert found[0, 0, 5] == 0


def test_empty_masks_stay_empty() -> None:
    empty = np.full((2, 1, 8, 8), -1, np.float32)
    assert not threshold(empty, 0.01).any()
    assert threshold(np.zeros((0, 1, 8, 8), np.float32), 0.01).shape == (0, 8, 8)


def test_the_published_threshold_has_its_flaws() -> None:
    black = np.full((1, 3, 4, 4), -1, np.float32)
    assert threshold_as_published(black, "red").all()  # no polyp becomes all polyp
    faint = black.copy()
    faint[0, :, 0, 0] = -0.9
    assert threshold_as_published(faint, "red").sum() == 1  # faint pixels become a mask
    coloured = black.copy()
    coloured[0, 1, 0] = 1  # green only
    assert threshold_as_published(coloured, "green").sum() == 4
    assert threshold_as_published(coloured, "red").sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_published_threshold_is_the_published_loop(seed: int) -> None:
    """Picture by picture, as the facts describe that code."""
    made = np.random.default_rng(seed).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for i, channel in ((0, "red"), (1, "green")):
        levels = np.clip((made + 1) * 127.5, 0, 255).astype(np.uint8)
        expected = []
        for picture in levels:
            picture = picture.copy()
            picture[picture < np.mean(picture)] = 0
            picture[picture >= np.mean(picture)] = 255
            expected.append(picture[i] > 128)
        assert (threshold_as_published(made, channel) == np.array(expected)).all()
