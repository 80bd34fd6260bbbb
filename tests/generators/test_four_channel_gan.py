"""What the four-channel GANs share: pictures, augmentation, losses, layers, the watch, and the plugin contract."""

import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from generators import adversarial_losses as losses
from generators.dcgan import DCGAN
from generators.dcgan.networks import DCGANTraining
from generators.fastgan import FastGAN
from generators.four_channel_gan.augmentation import augment, draw_augmentation
from generators.four_channel_gan.layers import doubled_convolution, gated
from generators.four_channel_gan.pictures import RealPictures, crop, draw_crops, to_bytes
from generators.four_channel_gan.training import Watch, recalibrate
from generators.progan import ProGAN
from generators.randomness import draw_flips, flip, seeded
from generators.specks import without_specks
from harness.conformance import drawn_pairs
from harness.errors import HarnessError, OutOfMemory
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, SampleContext

GANS = [DCGAN, ProGAN, FastGAN]
CPU = torch.device("cpu")
#: Losses without a network that a machine may lack.
PLAIN = {"fastgan": {"reconstruction": "l1"}}


def values(plugin, **more):
    return {**plugin.example(), **PLAIN.get(plugin.name, {}), **more}


def context(folder, seed=0, **options):
    return WorkFolder(folder, CPU, seed, **options)


def fit(plugin, folder, pairs, seed=0, **more):
    return run_fit(plugin.create(**values(plugin, **more)), pairs, context(folder, seed))


def sample(plugin, checkpoint, pairs, seeds):
    return plugin.create(**values(plugin)).sample(checkpoint, np.asarray(seeds), SampleContext(CPU, pairs))


@pytest.fixture(params=GANS, ids=lambda plugin: plugin.name, scope="module")
def plugin(request):
    return request.param


@pytest.fixture(autouse=True, scope="module")
def short_recalibration():
    """Measure batch norm on 2 batches: 16 take most of the time of a fit of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generators.four_channel_gan.training.recalibrate", partial(recalibrate, batches=2))
        yield


@pytest.fixture(scope="module")
def fitted(plugin, tmp_path_factory):
    """Pairs of 32 px, and a checkpoint after two steps on them, which nobody may change."""
    pairs = drawn_pairs(6, 32)
    (checkpoint,) = fit(plugin, tmp_path_factory.mktemp(plugin.name), pairs, steps=2, checkpoints=1)
    return pairs, checkpoint


# the contract, of every GAN


@pytest.mark.parametrize("size", [32, 64])
def test_pairs_of_the_study_s_size_come_out(plugin, tmp_path, size):
    pairs = drawn_pairs(3, size)
    made = sample(plugin, fit(plugin, tmp_path, pairs, steps=1, batch_size=2)[-1], pairs, range(3))
    assert made.images.shape == (3, size, size, 3)
    assert made.masks.shape == (3, size, size)
    assert set(np.unique(made.masks)) <= {0, 1}


def test_specks_of_masks_go_but_as_published(plugin, fitted):
    pairs, checkpoint = fitted

    def made(**more):
        return plugin.create(**values(plugin, **more)).sample(checkpoint, range(4), SampleContext(CPU, pairs))

    raw, cleaned = made(smallest=0.0), made(smallest=0.05)
    assert np.array_equal(cleaned.masks, without_specks(raw.masks, 0.05))
    assert not np.array_equal(cleaned.masks, raw.masks)
    assert np.array_equal(cleaned.images, raw.images)
    assert plugin.create().parameters.smallest == 0.002
    assert plugin.create(setting="as-published").parameters.smallest == 0


@pytest.mark.parametrize("setting", ["sound", "as-published"])
def test_a_killed_fit_resumes_bit_equal(plugin, tmp_path, setting):
    class Kill(BaseException):
        pass

    class Killing(WorkFolder):
        calls = 0

        def should_save(self):
            self.calls += 1
            if self.calls == 6:
                raise Kill
            return self.calls == 5

    pairs = drawn_pairs(6, 32)
    declared = values(plugin, setting=setting, steps=8, grids=3, resolution=32)
    with pytest.raises(Kill):
        run_fit(plugin.create(**declared), pairs, Killing(tmp_path / "killed", CPU, 1))
    contexts = [context(tmp_path / name, 1) for name in ("killed", "whole")]
    resumed, whole = (run_fit(plugin.create(**declared), pairs, opened) for opened in contexts)
    assert [c.step for c in resumed] == [c.step for c in whole] != []
    for one, other in zip(resumed, whole, strict=True):
        for name in ("generator.safetensors", "config.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    logs = [
        {(row["name"], row["step"], row["value"]) for row in opened.metrics() if row["name"] != "images-per-second"}
        for opened in contexts
    ]
    assert logs[0] == logs[1] != set()


def test_the_seed_matters_and_the_global_state_does_not(plugin, tmp_path):
    pairs = drawn_pairs(6, 32)
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def weights(name, seed):
        (checkpoint,) = fit(plugin, tmp_path / name, pairs, seed, steps=2, checkpoints=1)
        return (checkpoint.folder / "generator.safetensors").read_bytes()

    one, other = weights("one", 0), weights("other", 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert weights("again", 0) == one != other


def test_samples_do_not_depend_on_how_many_are_asked_for(plugin, fitted):
    pairs, checkpoint = fitted
    whole = sample(plugin, checkpoint, pairs, range(19))
    for start, stop in ((0, 1), (5, 18), (18, 19)):
        part = sample(plugin, checkpoint, pairs, range(start, stop))
        assert np.array_equal(part.images, whole.images[start:stop])
        assert np.array_equal(part.masks, whole.masks[start:stop])
    assert sample(plugin, checkpoint, pairs, []).images.shape == (0, 32, 32, 3)


def test_curves_and_grids_are_logged(plugin, tmp_path, monkeypatch):
    monkeypatch.setattr("generators.stepped_fit._LOG_EVERY", 4)
    opened = context(tmp_path)
    run_fit(plugin.create(**values(plugin, steps=8, grids=4, checkpoints=1)), drawn_pairs(6, 32), opened)
    logged = {(row["name"], row["step"]) for row in opened.metrics()}
    for name in ("discriminator-loss", "generator-loss", "real-score", "fake-score", "images-per-second"):
        assert {step for known, step in logged if known == name} == {4, 8}
    for name in ("samples", "masks"):
        grids = {int(path.stem) for path in (tmp_path / "images" / name).glob("*.png")}
        assert grids == {2, 4, 6, 8}
    speed = [row["value"] for row in opened.metrics() if row["name"] == "images-per-second"]
    assert all(value > 0 for value in speed)


def test_averaged_weights_differ_from_raw_ones(plugin, tmp_path):
    pairs = drawn_pairs(8, 32)
    made = [
        sample(
            plugin, fit(plugin, tmp_path / str(ema), pairs, ema=ema, steps=3, checkpoints=1)[-1], pairs, range(4)
        ).images
        for ema in (0.9, 0.0)
    ]
    assert not np.array_equal(*made)


def test_a_lower_resolution_is_learned_and_enlarged(plugin, tmp_path):
    pairs = drawn_pairs(6, 64)
    checkpoint = fit(plugin, tmp_path, pairs, resolution=32, enlarge="nearest", steps=1)[-1]
    declared = values(plugin, enlarge="nearest")
    made = plugin.create(**declared).sample(checkpoint, np.arange(2), SampleContext(CPU, pairs))
    assert made.images.shape == (2, 64, 64, 3)
    assert np.array_equal(made.images, made.images[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
    with pytest.raises(HarnessError, match="cannot learn at resolution 128 from pairs of 64 px"):
        fit(plugin, tmp_path / "larger", pairs, resolution=128)


@pytest.mark.parametrize("size", [24, 1024])
def test_a_size_it_cannot_make_is_named(plugin, tmp_path, size):
    with pytest.raises(HarnessError, match=f"{size} x {size} px; set dataset.size"):
        fit(plugin, tmp_path, drawn_pairs(2, size))


def test_a_loss_that_is_no_number_stops_the_fit_with_a_sentence(plugin, tmp_path):
    rates = {"learning_rate": 1e30, "discriminator_learning_rate": 1e30}
    with pytest.raises(HarnessError, match=rf"{plugin.name} diverged: .* at step 20; lower learning_rate"):
        fit(plugin, tmp_path, drawn_pairs(6, 32), steps=40, checkpoints=1, grids=0, **rates)


def test_too_little_memory_names_the_batch(plugin, tmp_path, monkeypatch):
    def exhausted(self, step):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("generators.four_channel_gan.training.Training.step", exhausted)
    with pytest.raises(OutOfMemory, match=f"a batch of 4 pictures of 32 px with {plugin.name}"):
        fit(plugin, tmp_path, drawn_pairs(6, 32))


def test_a_broken_checkpoint_is_named(plugin, fitted, tmp_path):
    pairs, whole = fitted
    checkpoint = Checkpoint(whole.step, Path(shutil.copytree(whole.folder, tmp_path / "broken")))
    weights = checkpoint.folder / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(HarnessError, match=f"is not a whole checkpoint of {plugin.name}"):
        sample(plugin, checkpoint, pairs, [1])
    assert json.loads((checkpoint.folder / "config.json").read_text())["size"] == 32


def test_published_values_give_way_to_what_a_study_says(plugin):
    published = plugin.create(setting="as-published").parameters
    for name, value in plugin.Parameters.as_published.items():
        assert getattr(published, name) == value
    assert plugin.create(setting="as-published", steps=7).parameters.steps == 7
    assert plugin.create().parameters.steps != published.steps


def test_parameters_are_checked_by_name(plugin):
    with pytest.raises(ValidationError, match="learning_rate"):
        plugin.create(learning_rate=-1)
    with pytest.raises(ValidationError, match="discriminator"):
        plugin.create(discriminator="big")


def test_checkpoint_steps():
    assert DCGAN.create(steps=100).parameters.checkpoint_steps(10) == [25, 50, 75, 100]
    assert DCGAN.create(steps=100, checkpoints=[10, 40]).parameters.checkpoint_steps(10) == [10, 40, 100]
    assert DCGAN.create(steps=2, checkpoints=5).parameters.checkpoint_steps(10) == [1, 2]
    assert DCGAN.create(epochs=3, batch_size=4, checkpoints=1).parameters.checkpoint_steps(10) == [8]
    with pytest.raises(HarnessError, match="Checkpoint 101 is outside steps 1 to 100"):
        DCGAN.create(steps=100, checkpoints=[101]).parameters.checkpoint_steps(10)


def start(seed=0, **more):
    """Return a training of a small DCGAN."""
    settings = DCGAN.create(**values(DCGAN, **more)).parameters
    return DCGANTraining(settings, RealPictures(drawn_pairs(6, 32), 32, CPU), seed, CPU)


def test_averaged_weights_follow_the_raw_ones_by_their_decay():
    game = start(ema=0.3)
    expected = [weight.detach().clone() for weight in game.generator_module.parameters()]
    for step in range(5):
        game.step(step)
        decay = min(0.3, (1 + step) / (10 + step))
        raw = list(game.generator_module.parameters())
        expected = [decay * mean + (1 - decay) * new for mean, new in zip(expected, raw, strict=True)]
    for mean, wanted in zip(game.averaged.parameters(), expected, strict=True):
        assert torch.allclose(mean, wanted, atol=1e-6)


def test_every_step_draws_latents_of_its_own(monkeypatch):
    game, drawn = start(), []
    draw = game.generator_module.draw
    monkeypatch.setattr(game.generator_module, "draw", lambda *asked: drawn.append(draw(*asked)) or drawn[-1])
    for step in (0, 1, 0):
        game.step(step)
    (first,), (second,), (again,) = drawn
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_a_resumed_watch_remembers_what_it_saw():
    game, resumed = start(), start(seed=1)
    game.watch.won, game.watch.dead = 7, 3
    assert resumed.restore(game.state(12)) == 12
    assert resumed.watch == Watch(7, 3)


# pictures


def test_pairs_come_back_from_pictures_and_bytes():
    pairs = drawn_pairs(5, 32)
    batch = RealPictures(pairs, 32, CPU).batch(np.array([3, 0]))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert float(batch.min()) >= -1
    assert float(batch.max()) <= 1
    images, masks = to_bytes(batch, 0.5, 32, "bicubic")
    assert np.array_equal(images, pairs.images[[3, 0]])
    assert np.array_equal(masks, pairs.masks[[3, 0]])


def test_reduced_pictures_average_pixels_unless_told_otherwise():
    pairs = drawn_pairs(3, 64)
    averaged = RealPictures(pairs, 32, CPU).pictures
    # Pillow's reducing filter is an independent implementation of the antialiased bilinear one.
    pillow = np.array(Image.fromarray(pairs.images[0]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(averaged[0, :3].permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1
    aliased = RealPictures(pairs, 16, CPU, antialias=False).pictures[:, :3].float()
    corners = torch.from_numpy(pairs.images).permute(0, 3, 1, 2).float()
    # By a factor of four, bilinear without antialiasing sees the middle two of each four pixels only.
    middle = (corners[..., 1::4, :] + corners[..., 2::4, :]) / 2
    middle = (middle[..., 1::4] + middle[..., 2::4]) / 2
    assert (aliased - middle).abs().max() <= 0.51


def test_premultiplied_pictures_are_as_pillow_resizes_rgba():
    pairs = drawn_pairs(3, 32)
    packed = RealPictures(pairs, 32, CPU, premultiplied=True).pictures[0].permute(1, 2, 0).numpy()
    rgba = np.concatenate([pairs.images[0], pairs.masks[0][..., None] * np.uint8(255)], axis=2)
    # A resize by a hair goes through Pillow's premultiplied mode, as the published loader's does.
    resized = np.array(Image.fromarray(rgba, "RGBA").resize((32, 32), box=(0, 0, 32, 31.999)))
    assert pairs.images[0][pairs.masks[0] == 0].max() > 0
    assert packed[pairs.masks[0] == 0][:, :3].max() == 0
    assert (resized[packed[..., 3] == 0][:, :3] == 0).all()
    assert np.array_equal(packed[pairs.masks[0] == 1][:, :3], pairs.images[0][pairs.masks[0] == 1])


def test_what_lies_outside_the_range_is_cut():
    images, masks = to_bytes(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 4, 2, 2), 0.5, 2, "nearest")
    assert images[0].max() == 0
    assert images[1].min() == 255
    assert masks.reshape(2, -1).mean(axis=1).tolist() == [0, 1]


def test_flip_moves_whole_pictures():
    before = pictures(32)
    chosen = draw_flips(32, (3,), seeded(0))
    after = flip(before, (3,), chosen)
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(after, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert flipped == chosen[0].tolist()
    assert 4 < sum(flipped) < 28
    chosen = draw_flips(32, (2, 3), seeded(0))
    for one, other, (down, across) in zip(before, flip(before, (2, 3), chosen), chosen.T.tolist(), strict=True):
        axes = [axis for axis, asked in ((1, down), (2, across)) if asked]
        assert torch.equal(other, one.flip(axes))


def test_a_random_crop_is_a_window_of_the_enlarged_picture():
    before = pictures(8)
    corners = draw_crops(8, 16, 1.2, seeded(1))
    after = crop(before, 1.2, corners)
    larger = functional.interpolate(before, (20, 20), mode="bilinear", antialias=True)
    places = []
    for one, whole in zip(after, larger, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(one, whole[:, i : i + 16, j : j + 16])]
        assert len(found) == 1
        places += found
    assert places == list(map(tuple, corners.T.tolist()))
    assert len(set(places)) > 3


@pytest.mark.parametrize(
    ("plugin", "more", "steps", "kinds"),
    [
        (DCGAN, {}, 3, 1),
        # Sides 8, 16 and 32, the latter two fading and not, with and without the penalty.
        (ProGAN, {"fade": 0.5, "full_size_share": 0.4, "penalty_interval": 2}, 60, 10),
        # One of four quadrants at every other step.
        (FastGAN, {"reconstruction_interval": 2}, 21, 5),
    ],
)
def test_steps_of_one_kind_do_the_same(plugin, more, steps, kinds, tmp_path):
    """A GPU replays the first of a kind, so nothing but numbers may differ between them."""
    training = plugin.create(**values(plugin, steps=steps, **more)).training(
        RealPictures(drawn_pairs(8, 32), 32, CPU), context(tmp_path, 3)
    )
    seen, times = {}, Counter()
    for step in range(steps):
        training.step(step)
        kind = training.begin(step)
        network = training.averaged
        grown = getattr(network, "side", None), getattr(network, "alpha", 1.0) < 1
        done = (training._names[kind], grown, getattr(training, "part", None))
        assert seen.setdefault(kind, done) == done
        times[kind] += 1
    assert len(seen) == kinds
    assert min(times.values()) > 1


# augmentation


def pictures(n=6, side=16):
    colours = torch.rand(n, 3, side, side, generator=seeded(1)) * 2 - 1
    mask = (torch.rand(n, 1, side, side, generator=seeded(2)) > 0.5).float() * 2 - 1
    return torch.cat([colours, mask], dim=1)


def augmented(before, names, seed):
    return augment(before, names, draw_augmentation(len(before), names, seeded(seed)))


def plain_colour(picture, brightness, saturation, contrast):
    """Jitter step by step, as DiffAugment describes it."""
    picture = picture + (brightness - 0.5)
    grey = picture.mean(dim=0, keepdim=True)
    picture = grey + (picture - grey) * (2 * saturation)
    return picture.mean() + (picture - picture.mean()) * (0.5 + contrast)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_is_brightness_then_saturation_then_contrast(channels):
    before = pictures()
    draws = draw_augmentation(6, ["colour"], seeded(3))
    after = augment(before, ["colour"], draws, mask_colour=channels == 4)
    for i in range(6):
        expected = plain_colour(before[i, :channels], *draws[:, i])
        assert torch.allclose(after[i, :channels], expected, atol=1e-5)
    assert torch.equal(after[:, channels:], before[:, channels:])


@pytest.mark.parametrize("seed", range(4))
def test_translation_moves_image_and_mask_together(seed):
    before, after = pictures(), augmented(pictures(), ["translation"], seed)
    moved = []
    for one, other in zip(before, after, strict=True):
        padded = functional.pad(one, (2, 2, 2, 2))
        found = [(down, right) for down in range(5) for right in range(5)
                 if torch.equal(padded[:, down : down + 16, right : right + 16], other)]  # fmt: skip
        assert len(found) == 1
        moved += found
    assert len(set(moved)) > 1


def test_equal_randomness_moves_a_smaller_picture_alike():
    large = functional.interpolate(pictures(side=8), scale_factor=4)
    both = [augmented(p, ["translation", "cutout"], 5) for p in (large, functional.avg_pool2d(large, 2))]
    agreement = (functional.avg_pool2d(both[0], 2) - both[1]).abs() < 0.05
    # Shifts of an odd number of pixels differ by half a small one; the most is alike.
    assert agreement.float().mean() > 0.6


def test_cutout_zeroes_one_square_of_all_channels():
    after = augmented(pictures() + 5, ["cutout"], 3)
    holes = after == 0
    assert torch.equal(holes.all(dim=1), holes.any(dim=1))
    centres = (draw_augmentation(6, ["cutout"], seeded(3)) * 16).floor()
    for hole, centre in zip(holes[:, 0], centres.T, strict=True):
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert 0 < rows.sum() <= 8
        assert torch.equal(hole, rows[:, None] & columns[None, :])
        near = [(torch.arange(16) - place).abs() < 4 for place in centre]
        assert torch.equal(hole, near[0][:, None] & near[1][None, :])


def test_augmentation_passes_gradients():
    inputs = pictures().requires_grad_()
    augmented(inputs, ["colour", "translation", "cutout"], 3).sum().backward()
    assert inputs.grad.abs().sum() > 0


# losses and layers


def test_binary_cross_entropy_is_that_of_probabilities():
    real, fake = torch.tensor([0.3, -1.0]), torch.tensor([0.7, 2.0])
    p, q = real.sigmoid(), fake.sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - q).log().mean()
    assert float(losses.binary_cross_entropy(real, fake, 0.9)) == pytest.approx(float(expected))
    assert float(losses.non_saturating(fake)) == pytest.approx(float(-q.log().mean()))


def test_hinge_and_wasserstein_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert float(losses.hinge(real, fake)) == pytest.approx(0.25 + 0.75)
    assert float(losses.hinge(real, fake, (torch.full_like(real, 0.8), 0.8))) == pytest.approx(0.15 + 0.65)
    assert float(losses.hinge(real, fake, (1.0, 0.8))) == pytest.approx(0.25 + 0.65)
    assert float(losses.wasserstein(real, fake, 0.1)) == pytest.approx(-0.75 - 1.25 + 0.1 * 2.125)


def test_gradient_penalty_of_a_linear_critic_is_closed_form():
    direction = torch.randn(4, 3, 3, generator=seeded(1))
    norm = float(direction.norm())
    penalty = losses.gradient_penalty(
        lambda x: (x * direction).sum(dim=(1, 2, 3)), torch.zeros(5, 4, 3, 3), torch.ones(5, 4, 3, 3),
        torch.rand(5, 1, 1, 1),
    )  # fmt: skip
    assert float(penalty) == pytest.approx((norm - 1) ** 2, rel=1e-5)


def test_gradient_penalty_looks_between_real_and_made():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum(dim=(1, 2, 3)) / 2

    real, fake = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 3.0)
    penalty = losses.gradient_penalty(critic, real, fake, torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1))
    assert seen[0].flatten().tolist() == [3.0, 2.0]
    # The gradient of |x|^2 / 2 is x itself.
    assert float(penalty) == pytest.approx(((3 - 1) ** 2 + (2 - 1) ** 2) / 2)


def test_the_penalty_at_real_pictures_is_half_the_squared_gradient():
    real = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 4, 1, 1)
    # The gradient of |x|^2 / 2 is x itself: 4 channels of 1, and of 2.
    penalty = losses.real_gradient_penalty(lambda x: x.square().sum(dim=(1, 2, 3)) / 2, real)
    assert float(penalty) == pytest.approx((4 * 1 + 4 * 4) / 2 / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_doubled_convolution_equals_enlarging_and_convolving(n, before, after, height, width):
    features = torch.randn(n, before, height, width, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(after, before, 3, 3, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    plain = functional.conv2d(functional.interpolate(features, scale_factor=2), weight, padding=1)
    ours = doubled_convolution(features, weight)
    assert torch.allclose(ours, plain)
    probe = torch.randn(plain.shape, generator=seeded(3), dtype=torch.float64)
    for one, other in zip(*(torch.autograd.grad((made * probe).sum(), (features, weight)) for made in (ours, plain)),
                          strict=True):  # fmt: skip
        assert torch.allclose(one, other)


def test_gated_is_glu():
    features = torch.randn(2, 6, 3, 3, generator=seeded(1))
    assert torch.allclose(gated(features), functional.glu(features, dim=1))


# the watch


def told(**more):
    return {"discriminator-loss": 1.0, "real-score": 0.5, "fake-score": -0.5, "variation": 0.2, **more}


def test_a_sound_training_passes_the_watch():
    watch = Watch()
    for step in range(1, 100):
        watch.look("gan", told(), step * 20, "do x")


@pytest.mark.parametrize("broken", [{"discriminator-loss": math.nan}, {"fake-score": math.inf}, {"real-score": 1e9}])
def test_the_watch_sees_divergence_at_once(broken):
    with pytest.raises(HarnessError, match=r"gan diverged: .* at step 20; do x\."):
        Watch().look("gan", told(**broken), 20, "do x")


def test_the_watch_sees_one_picture_but_not_before_it_may():
    Watch().look("gan", told(variation=0.001), 99, "do x")
    with pytest.raises(HarnessError, match="gan collapsed: at step 100 all its pictures are the same"):
        Watch().look("gan", told(variation=0.001), 100, "do x")


@pytest.mark.parametrize(
    ("symptom", "sentence"),
    [
        ({"discriminator-loss": 0.0}, "tells real from made without fail"),
        ({"fake-score": 0.5}, "scores real and made alike"),
    ],
)
def test_the_watch_waits_for_a_discriminator_that_collapsed(symptom, sentence):
    watch = Watch()
    for look in range(24):
        watch.look("gan", told(**symptom), 20 * look + 20, "do x")
    interrupted = Watch(**vars(watch))
    interrupted.look("gan", told(), 500, "do x")
    interrupted.look("gan", told(**symptom), 520, "do x")
    with pytest.raises(
        HarnessError, match=f"gan's discriminator collapsed: at 25 looks in a row up to step 500 it {sentence}"
    ):
        watch.look("gan", told(**symptom), 500, "do x")  # fmt: skip
