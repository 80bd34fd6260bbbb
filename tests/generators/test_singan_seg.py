"""SinGAN-Seg: its pyramid, many models trained as one against a plain model trained alone, and the plugin contract."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from generators.randomness import seeded
from generators.singan_seg import SinGANSeg, SinGANSegParameters, training
from generators.singan_seg.batch import ModelBatch, model_seed
from generators.singan_seg.networks import StackedCritic, StackedGenerator, bordered, width
from generators.singan_seg.pyramid import Pyramid, resized, resizing_matrix, truncated
from generators.singan_seg.sampling import Models
from harness.conformance import drawn_pairs
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import SampleContext

CPU = torch.device("cpu")
SMALL = {"features": 4, "together": 3, "epochs": 2, "decay_after": 0.5, "precision": "float32"}
#: Epochs whose randomness is drawn at once, few enough that some fits here have more than one such block.
BLOCK = 2
#: Where three updates of each network an epoch say no more than these.
FEW_UPDATES = {"critic_steps": 2, "generator_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def short_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BLOCK", BLOCK)
        yield


def seeds(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


# the pyramid


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (529, 622, [(25, 30), (33, 39), (43, 51), (56, 66), (73, 86), (96, 112), (125, 147), (163, 192), (213, 250)]),
        (64, 64, [(25, 25), (31, 31), (37, 37), (44, 44), (54, 54), (64, 64)]),
    ],
)
def test_scales_are_those_of_the_published_code(height, width, sizes):
    assert list(Pyramid.of(height, width, 25, 250, 0.75).sizes) == sizes


@given(st.integers(40, 1200), st.integers(40, 1200), st.integers(64, 300))
@settings(max_examples=50, deadline=None)
def test_scales_grow_from_the_smallest_side_to_the_largest(height, width, largest):
    found = Pyramid.of(height, width, 25, largest, 0.75)
    assert abs(max(found.sizes[-1]) - min(largest, max(height, width))) <= 1
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(found.sizes, found.sizes[1:], strict=False))
    # An image whose reduced side is shorter than the coarsest scale cannot be reduced to it.
    if min(found.sizes[-1]) > 25:
        assert min(found.sizes[0]) == 25


def imresize(line, scale, after):
    """Resize one line by the definition: each pixel a weighted sum of what lies under the (widened) kernel."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    wide = min(scale, 1)
    result = []
    for i in range(after):
        centre = (i + 0.5) / scale - 0.5
        weights = {j: kernel((j - centre) * wide) for j in range(math.floor(centre) - 12, math.floor(centre) + 13)}
        total = sum(weights.values())
        n = len(line)
        inside = {j: j % (2 * n) if j % (2 * n) < n else 2 * n - 1 - j % (2 * n) for j in weights}
        result.append(sum(w * line[inside[j]] for j, w in weights.items()) / total)
    return result


@given(st.integers(8, 40), st.floats(0.3, 2.2))
@settings(max_examples=40, deadline=None)
def test_resizing_follows_its_definition(before, scale):
    line = np.random.default_rng(before).normal(size=before)
    after = math.ceil(before * scale)
    np.testing.assert_allclose(resizing_matrix(before, after, scale) @ line, imresize(line, scale, after), atol=1e-10)


def test_reducing_agrees_with_pillow_away_from_the_borders():
    picture = np.random.default_rng(0).uniform(-0.6, 0.6, (60, 60)).astype(np.float32)
    ours = resized(torch.from_numpy(picture)[None], (30, 30), 0.5)[0].numpy()
    theirs = np.asarray(Image.fromarray(picture).resize((30, 30), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ours[3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-5)


def test_what_the_kernel_overshoots_is_cut():
    step = torch.ones(1, 16, 16)
    step[:, :, :8] = -1
    larger = resized(step, (22, 22), 22 / 16)
    assert larger.max() == 1
    assert larger.min() == -1


def test_truncating_rounds_down_to_bytes():
    values = torch.tensor([-1.2, -1.0, 0.0, 0.9999, 1.3])
    assert ((truncated(values) + 1) * 127.5).tolist() == pytest.approx([0, 0, 127, 254, 255], abs=1e-4)


# stacked networks against the usual modules


class PlainTrunk(nn.Module):
    """One model as the published code writes it."""

    def __init__(self, features, ends_in):
        super().__init__()
        shapes = [(4, features)] + [(features, features)] * 3
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)) for a, b in shapes
        )
        self.tail = nn.Conv2d(features, ends_in, 3)

    def forward(self, pictures):
        for block in self.blocks:
            pictures = block(pictures)
        return self.tail(pictures)

    @classmethod
    def like(cls, stacked, model):
        """Return one of the stacked models."""
        plain = cls(stacked.features, stacked.ends_in)
        layers = [(block[0], block[1]) for block in plain.blocks] + [(plain.tail, None)]
        with torch.no_grad():
            for i, (convolution, norm) in enumerate(layers):
                convolution.weight.copy_(stacked.weights[i].chunk(stacked.models)[model])
                convolution.bias.copy_(stacked.biases[i].chunk(stacked.models)[model])
                if norm is not None:
                    norm.weight.copy_(stacked.gains[i].chunk(stacked.models)[model])
                    norm.bias.copy_(stacked.shifts[i].chunk(stacked.models)[model])
        return plain


def penalty_by_autograd(critic, between):
    between = between.detach().requires_grad_()
    scores = critic(between)
    (gradient,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()


@pytest.mark.parametrize(
    ("features", "made", "judged"), [(32, 30_340, 29_473), (64, 115_972, 114_241), (128, 453_124, 449_665)]
)
def test_parameters_are_as_many_as_published(features, made, judged):
    assert sum(p.numel() for p in StackedGenerator(features, seeds(1)).parameters()) == made
    assert sum(p.numel() for p in StackedCritic(features, seeds(1)).parameters()) == judged


def test_widths_are_as_published():
    assert [width(scale, 32, 4, 128) for scale in range(10)] == [32] * 4 + [64] * 4 + [128] * 2


def test_critics_score_like_each_alone():
    critic, pictures = StackedCritic(6, seeds(3)), torch.randn(2, 12, 20, 23)
    scores = critic(pictures)
    for model in range(3):
        plain = PlainTrunk.like(critic, model)
        for one in range(2):
            alone = plain(pictures[one : one + 1, 4 * model : 4 * model + 4]).mean()
            torch.testing.assert_close(scores[one, model], alone, atol=1e-5, rtol=1e-4)


def test_the_written_out_gradient_penalty_is_autograd_s_with_its_gradient():
    critic, pictures = StackedCritic(6, seeds(3)), torch.randn(1, 12, 20, 23)
    with torch.no_grad():
        for weight in critic.weights:
            weight.mul_(8)
    penalties = critic.gradient_penalty(pictures)
    penalties.sum().backward()
    for model in range(3):
        plain = PlainTrunk.like(critic, model)
        alone = penalty_by_autograd(plain, pictures[:, 4 * model : 4 * model + 4])
        alone.backward()
        torch.testing.assert_close(penalties[model], alone, atol=1e-6, rtol=1e-4)
        convolutions = [block[0] for block in plain.blocks] + [plain.tail]
        for i, convolution in enumerate(convolutions):
            ours = critic.weights[i].grad.chunk(3)[model]
            torch.testing.assert_close(ours, convolution.weight.grad, atol=1e-5, rtol=2e-3)
        for i, block in enumerate(plain.blocks):
            torch.testing.assert_close(critic.gains[i].grad.chunk(3)[model], block[1].weight.grad, atol=1e-5, rtol=2e-3)


def test_running_statistics_and_frozen_generators_are_those_of_batch_norm():
    from generators.singan_seg.networks import FrozenTrunk

    stacked = StackedGenerator(5, seeds(2))
    plain = [PlainTrunk.like(stacked, model) for model in range(2)]
    for times in (1, 3):
        pictures = torch.randn(3, 8, 18, 21)
        made, statistics = stacked(pictures)
        stacked.follow(statistics, (18, 21), times)
        for model, alone in enumerate(plain):
            for one in list(range(3)) * times:
                expected = alone(pictures[one : one + 1, 4 * model : 4 * model + 4])
                torch.testing.assert_close(
                    made[one : one + 1, 4 * model : 4 * model + 4], expected, atol=1e-5, rtol=1e-4
                )
    pictures = torch.randn(2, 8, 18, 21)
    frozen = FrozenTrunk.of(stacked)(pictures)
    expected = torch.cat([one.eval()(p) for one, p in zip(plain, pictures.chunk(2, dim=1), strict=True)], dim=1)
    torch.testing.assert_close(frozen, expected, atol=1e-5, rtol=1e-4)


# training many against training one the usual way


class PlainScale:
    """A finished scale of one model."""

    def __init__(self, network, amplitude):
        self.network, self.amplitude = network.eval().requires_grad_(False), amplitude

    def __call__(self, noise, before):
        padded = functional.pad(noise, (5,) * 4), functional.pad(before, (5,) * 4)
        return torch.tanh(self.network(self.amplitude * padded[0] + padded[1])) + before


def train_alone(settings, pair, key):
    """Train one model in the plain form of the published code: one image, one pass at a time, autograd's penalty."""
    image, mask = torch.from_numpy(np.array(pair.image)), torch.from_numpy(np.array(pair.mask))
    whole = torch.cat([image.permute(2, 0, 1), mask[None] * 255])[None].double() / 127.5 - 1
    pyramid = Pyramid.of(*whole.shape[2:], settings.min_size, settings.max_size or 10_000, settings.scale_factor)
    rounded = truncated if settings.truncate else (lambda pictures: pictures)
    enlarged = lambda pictures, scale: rounded(pyramid.finer(rounded(pictures), scale))  # noqa: E731
    finished, errors, again = [], [], None
    g = d = None
    for scale, (size, real) in enumerate(zip(pyramid.sizes, pyramid.of_images(whole), strict=True)):
        real = rounded(real)
        features = width(scale, settings.features, settings.features_double_every, settings.largest_features)
        before = (g, d)
        g = PlainTrunk.like(StackedGenerator(features, [seeded(key, 0, scale)]), 0)
        d = PlainTrunk.like(StackedCritic(features, [seeded(key, 1, scale)]), 0)
        if before[0] is not None and before[0].tail.in_channels == features:
            g.load_state_dict(before[0].state_dict())
            d.load_state_dict(before[1].state_dict())
        g.train(), d.train()
        optimisers = [torch.optim.Adam(n.parameters(), settings.learning_rate, settings.betas) for n in (g, d)]
        schedules = [
            torch.optim.lr_scheduler.MultiStepLR(o, [math.ceil(settings.decay_after * settings.epochs)], settings.decay)
            for o in optimisers
        ]
        if scale == 0:
            again, amplitude = torch.zeros_like(real), 1.0
        else:
            amplitude = settings.noise_amplitude * functional.mse_loss(real, again).sqrt()
        rebuilding = torch.zeros_like(real)
        fresh = 0 if settings.one_update else settings.generator_steps
        draws = settings.critic_steps + fresh
        for epoch in range(settings.epochs):
            if epoch % BLOCK == 0:
                source = seeded(key, 3, scale, epoch // BLOCK)
                channels = 1 if scale == 0 else 4
                own = torch.randn(BLOCK * (1 if settings.one_update else draws), channels, *size, generator=source)
                own = own.expand(-1, 4, -1, -1).view(BLOCK, -1, 4, *size).expand(-1, draws, -1, -1, -1)
                shares = torch.rand(BLOCK, settings.critic_steps, generator=source)
                lower = [
                    torch.randn(BLOCK * draws, 1 if s == 0 else 4, *pyramid.sizes[s], generator=source)
                    .expand(-1, 4, -1, -1)
                    .view(BLOCK, draws, 4, *pyramid.sizes[s])
                    for s in range(scale)
                ]
            if scale == 0 and (epoch == 0 or not settings.fixed_reconstruction_noise):
                rebuilding = torch.randn(1, 1, *size, generator=seeded(key, 2, 0, epoch)).expand(-1, 4, -1, -1)
            here = epoch % BLOCK

            def previous(draw, lower=lower, here=here):
                pictures = torch.zeros(1, 4, *pyramid.sizes[0])
                for s, one in enumerate(finished):
                    pictures = enlarged(one(lower[s][here, draw][None], pictures), s + 1)
                return pictures

            def made(noise, before, amplitude=amplitude, g=g):
                padded = functional.pad(amplitude * noise, (5,) * 4) + functional.pad(before, (5,) * 4)
                return torch.tanh(g(padded)) + before

            for step in range(settings.critic_steps):
                fake = made(own[here, step][None], previous(step))
                d.zero_grad()
                loss = -d(real).mean() + d(fake.detach()).mean()
                share = shares[here, step]
                between = share * real + (1 - share) * fake
                (loss + settings.gradient_penalty * penalty_by_autograd(d, between)).backward()
                optimisers[1].step()
            for step in range(settings.generator_steps):
                g.zero_grad()
                if not settings.one_update:
                    draw = settings.critic_steps + step
                    fake = made(own[here, draw][None], previous(draw))
                # With one update the fake is the critic's last, whose graph the published code keeps.
                (-d(fake).mean()).backward(retain_graph=settings.one_update)
                error = functional.mse_loss(made(rebuilding, again), real)
                (settings.reconstruction * error).backward()
                if not settings.one_update:
                    optimisers[0].step()
            if settings.one_update:
                optimisers[0].step()
            for schedule in schedules:
                schedule.step()
        errors.append(float(error))
        finished.append(PlainScale(g, amplitude))
        # The weights go on at the next scale: the finished one keeps its own.
        kept = PlainTrunk(features, 4)
        kept.load_state_dict(g.state_dict())
        g = kept
        again = finished[-1](rebuilding, again)
        if scale + 1 < len(pyramid.sizes):
            again = enlarged(again, scale + 1)
    return finished, errors, again


@pytest.fixture
def double():
    """Adam turns a gradient that is nearly nothing into a whole step, whichever sign rounding gives it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("setting", ["sound", "as-published"])
def test_each_of_many_models_becomes_what_it_is_alone(setting, double):
    values = {
        **SMALL,
        "epochs": BLOCK + 1,
        "generator_steps": 2,
        "setting": setting,
        "max_size": 40,
        "features_double_every": 2,
    }
    declared = SinGANSegParameters(**values)
    pairs = drawn_pairs(3, 40)
    batch = ModelBatch(declared, pairs, 5, CPU)
    errors = []
    for _ in batch.train():
        if batch.at_scale_end:
            errors.append(batch.training.history[-1][1]["reconstruction_error"])
    assert len(errors) == 4
    for model in (0, 2):
        finished, alone, rebuilt = train_alone(declared, pairs[model], model_seed(5, pairs.ids[model]))
        assert [float(error[model]) for error in errors] == pytest.approx(alone, rel=1e-3)
        torch.testing.assert_close(batch.reconstruction[:, 4 * model : 4 * model + 4], rebuilt, atol=0.03, rtol=0)
        # A rectifier that rounding puts on the other side of its kink is enough for the last scale to drift.
        exact = 1e-6
        for scale, one in enumerate(finished):
            noise = torch.randn(1, 4, *batch.pyramid.sizes[scale])
            before = torch.rand(1, 4, *batch.pyramid.sizes[scale]) * 2 - 1
            ours = batch.finished[scale](noise.repeat(1, 3, 1, 1), before.repeat(1, 3, 1, 1))
            torch.testing.assert_close(
                ours[:, 4 * model : 4 * model + 4], one(noise, before), atol=exact if scale < 3 else 0.03, rtol=0
            )


def test_what_is_trained_beside_a_model_does_not_matter(double):
    pairs = drawn_pairs(4, 32)
    declared = SinGANSegParameters(**{**SMALL, **FEW_UPDATES})
    together, alone = (ModelBatch(declared, some, 0, CPU) for some in (pairs, pairs.take([2])))
    for batch in (together, alone):
        for _ in batch.train():
            pass
    torch.testing.assert_close(together.reconstruction[:, 8:12], alone.reconstruction, atol=3e-3, rtol=0)


def test_it_learns_to_rebuild_its_picture():
    declared = SinGANSegParameters(**{**SMALL, "epochs": 10, "learning_rate": 8e-3, "critic_steps": 1})
    batch = ModelBatch(declared, drawn_pairs(1, 32), 0, CPU)
    start = float((batch.real[-1] - batch.real[-1].mean(dim=(2, 3), keepdim=True)).square().mean())
    for _ in batch.train():
        pass
    assert float((batch.reconstruction - batch.real[-1]).square().mean()) < 0.3 * start


# the contract


def context(folder, kind=WorkFolder):
    return kind(folder, CPU, 1)


def fit(folder, pairs, **more):
    return run_fit(SinGANSeg.create(**{**SMALL, **FEW_UPDATES, **more}), pairs, context(folder))


def sample(checkpoint, pairs, numbers, **more):
    generator = SinGANSeg.create(**{**SMALL, **more})
    return generator.sample(checkpoint, np.asarray(numbers, dtype=np.int64), SampleContext(CPU, pairs))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    pairs = drawn_pairs(5, 32)
    return pairs, fit(tmp_path_factory.mktemp("singan"), pairs, epochs=6)


def test_checkpoints_come_as_models_are_finished_and_hold_all_before(fitted):
    pairs, checkpoints = fitted
    assert [(c.step, sorted(c.seen)) for c in checkpoints] == [(3, sorted(pairs.ids[:3])), (5, sorted(pairs.ids))]
    first, last = (sorted(p.name for p in c.folder.iterdir()) for c in checkpoints)
    assert set(first) < set(last)


def test_an_item_is_made_by_the_model_of_the_pair_at_its_seed(fitted):
    pairs, checkpoints = fitted
    made = sample(checkpoints[-1], pairs, range(10))
    assert made.sources == tuple((pairs.ids[i % 5],) for i in range(10))
    assert made.images.shape == (10, 32, 32, 3)
    assert (made.images[0] != made.images[5]).any()
    only_three = sample(checkpoints[0], pairs.first(3), range(6))
    assert only_three.sources == tuple((pairs.ids[i % 3],) for i in range(6))
    first_two = sample(checkpoints[-1], pairs.first(2), [0, 1, 7])
    assert first_two.sources == tuple((pairs.ids[i],) for i in (0, 1, 1))


def test_an_item_does_not_depend_on_the_others(fitted):
    pairs, checkpoints = fitted
    numbers = np.arange(20) * 13 + 2
    whole, one = sample(checkpoints[-1], pairs, numbers), sample(checkpoints[-1], pairs, numbers[17:18])
    assert (whole.images[17] == one.images[0]).all()
    assert (whole.masks[17] == one.masks[0]).all()


def test_sampling_from_the_checkpoint_is_sampling_from_the_trained_models(tmp_path):
    pairs = drawn_pairs(2, 32)
    (checkpoint,) = fit(tmp_path, pairs)
    batch = ModelBatch(SinGANSegParameters(**{**SMALL, **FEW_UPDATES}), pairs, 1, CPU)
    for _ in batch.train():
        pass
    # Beyond the last scale nothing is drawn: both models rebuild their pictures.
    rebuilt, _ = Models(checkpoint.folder, CPU).make([1, 0], np.array([4, 5]), 2, 99, 0.5)
    expected = batch.reconstruction.view(2, 4, 32, 32)[:, :3].clamp(-1, 1)
    expected = ((expected + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(rebuilt[::-1].astype(float) - expected).max() <= 1


def test_scales_below_the_start_scale_rebuild(fitted):
    pairs, checkpoints = fitted
    numbers = np.arange(4) * 5
    spread = [
        sample(checkpoints[-1], pairs, numbers, start_scale=start).images.astype(float).std(axis=0).mean()
        for start in (0, 1, 2, 3)
    ]
    assert spread[0] > spread[1] > spread[2] > spread[3] == 0


def test_pictures_of_a_larger_study_are_enlarged(tmp_path):
    pairs = drawn_pairs(2, 48)
    (checkpoint,) = fit(tmp_path, pairs, max_size=32)
    assert json.loads((checkpoint.folder / "config.json").read_text())["sizes"][-1] == [32, 32]
    assert sample(checkpoint, pairs, [0]).images.shape == (1, 48, 48, 3)


@pytest.fixture(scope="module", params=["sound", "as-published"])
def whole(request, tmp_path_factory):
    """What a fit is declared by, and its checkpoints when nobody kills it."""
    declared = {"setting": request.param, "together": 2, "max_size": 32, "epochs": 3}
    return declared, fit(tmp_path_factory.mktemp("whole"), drawn_pairs(3, 32), **declared)


#: In a block of epochs, after a scale, between blocks of the second scale, and with the third model.
@pytest.mark.parametrize("killed_at", [1, 3, 5, 13])
def test_a_killed_fit_resumes_bit_equal(tmp_path, whole, killed_at):
    class Kill(BaseException):
        pass

    class Killing(WorkFolder):
        calls = 0

        def should_save(self):
            self.calls += 1
            if self.calls == killed_at + 1:
                raise Kill
            return self.calls == killed_at

    pairs, (declared, unharmed) = drawn_pairs(3, 32), whole
    with pytest.raises(Kill):
        run_fit(SinGANSeg.create(**{**SMALL, **FEW_UPDATES, **declared}), pairs, context(tmp_path / "killed", Killing))
    resumed = fit(tmp_path / "killed", pairs, **declared)
    assert [c.step for c in resumed] == [c.step for c in unharmed] == [2, 3]
    for one, other in zip(resumed, unharmed, strict=True):
        for path in sorted(other.folder.iterdir()):
            assert (one.folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_model_that_diverges_is_named(tmp_path):
    with pytest.raises(HarnessError, match=r"diverged at scale \d for .*lower learning_rate"):
        fit(tmp_path, drawn_pairs(2, 32), learning_rate=1e18, epochs=12)


def test_pairs_that_are_too_small_are_refused(tmp_path):
    with pytest.raises(HarnessError, match="larger than min_size, 25 px"):
        fit(tmp_path, drawn_pairs(2, 16))


def test_a_broken_checkpoint_is_a_sentence(fitted, tmp_path):
    from harness.plugins.contract import Checkpoint

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match="is not a whole checkpoint of singan-seg"):
        sample(Checkpoint(1, tmp_path), fitted[0], [0])


def test_the_border_is_what_the_networks_take_off():
    made, _ = StackedGenerator(4, seeds(1))(bordered(torch.zeros(1, 4, 12, 15)))
    assert made.shape == (1, 4, 12, 15)
