"""DCGAN: published sizes, a fit that learns, resumes, stops when it diverges, and pure sampling."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import wasserstein_distance

from generators.dcgan import DCGAN, SIZES
from generators.dcgan_networks import augment, discriminator_network, flip, generator_network, seeded
from harness.conformance import drawn_pairs
from harness.errors import HarnessError
from harness.fitting import LocalFitContext, run_fit
from harness.plugins import SampleContext


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def context(folder, seed=0, **options):
    return LocalFitContext(folder, torch.device("cpu"), seed, **options)


def fit(folder, pairs, seed=0, **values):
    return run_fit(DCGAN.create(**{**DCGAN.example(), **values}), pairs, context(folder, seed))


def sample(checkpoint, pairs, seeds, **values):
    return DCGAN.create(**values).sample(checkpoint, np.asarray(seeds), SampleContext(torch.device("cpu"), pairs))


def test_published_parameter_counts():
    published = DCGAN.create(setting="as-published").parameters
    assert count(generator_network(64, published.latent, published.generator_features)) == 3_577_728
    assert count(discriminator_network(64, published.discriminator_features, "batch")) == 2_766_592


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalisation", ["batch", "spectral"])
def test_every_size(size, normalisation):
    pictures = generator_network(size, 10, 4)(torch.randn(2, 10, 1, 1))
    assert pictures.shape == (2, 4, size, size)
    assert float(pictures.detach().abs().max()) <= 1
    assert discriminator_network(size, 4, normalisation)(pictures).shape == (2,)


def test_published_setting_gives_way_to_what_a_study_says():
    parameters = DCGAN.create(setting="as-published", batch_size=32).parameters
    assert (parameters.batch_size, parameters.ema, parameters.flip, parameters.augment) == (32, 0.0, "horizontal", ())
    assert (parameters.learning_rate, parameters.betas, parameters.steps) == (2e-4, (0.5, 0.999), 62_500)


def test_checkpoint_steps():
    assert DCGAN.create(steps=100).parameters.checkpoint_steps(10) == [25, 50, 75, 100]
    assert DCGAN.create(steps=100, checkpoints=[10, 40]).parameters.checkpoint_steps(10) == [10, 40, 100]
    assert DCGAN.create(steps=2, checkpoints=5).parameters.checkpoint_steps(10) == [1, 2]
    assert DCGAN.create(epochs=3, batch_size=4, checkpoints=1).parameters.checkpoint_steps(10) == [8]
    with pytest.raises(HarnessError, match="checkpoint 101 is outside steps 1 to 100"):
        DCGAN.create(steps=100, checkpoints=[101]).parameters.checkpoint_steps(10)


def test_parameters_are_checked_by_name():
    with pytest.raises(ValidationError, match="learning_rate"):
        DCGAN.create(learning_rate=-1)
    with pytest.raises(ValidationError, match="discriminator"):
        DCGAN.create(discriminator="big")


@pytest.mark.parametrize("size", [24, 512])
def test_a_size_it_cannot_make_is_named(tmp_path, size):
    with pytest.raises(HarnessError, match=f"{size} x {size} px; set dataset.size"):
        fit(tmp_path, drawn_pairs(2, size))


def test_an_epoch_sees_every_pair_once():
    generator = DCGAN.create(batch_size=4)
    seen = [position for step in range(6) for position in generator._positions(8, step, seed=3)]
    epochs = [seen[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len(generator._positions(3, 5, seed=3)) == 4


def test_a_fit_learns_mask_areas_and_colours(tmp_path):
    """Wasserstein distances to the real pairs fall far below those of the network before training."""
    pairs = drawn_pairs(64, 32)
    values = {"steps": 600, "checkpoints": [1], "latent": 16, "batch_size": 16, "ema": 0.98}
    values |= {"generator_features": 12, "discriminator_features": 12}
    first, last = fit(tmp_path, pairs, **values)

    def distances(checkpoint):
        made = sample(checkpoint, pairs, range(64), **values)
        areas = wasserstein_distance(made.masks.mean((1, 2)), pairs.masks.mean((1, 2)))
        colours = [wasserstein_distance(made.images[..., k].ravel(), pairs.images[..., k].ravel()) for k in range(3)]
        inside = [made.images[made.masks == value].mean() for value in (0, 1)]
        return areas, np.mean(colours), inside[1] - inside[0]

    untrained, trained = distances(first), distances(last)
    assert trained[0] < 0.35 * untrained[0]
    assert trained[1] < 0.35 * untrained[1]
    # Polyps are drawn about 11 grey levels brighter than mucosa: image and mask must belong together.
    assert trained[2] > 3


def test_a_killed_fit_resumes_bit_equal_whatever_its_settings(tmp_path):
    class Kill(BaseException):
        pass

    class Killing(LocalFitContext):
        calls = 0

        def should_save(self):
            self.calls += 1
            if self.calls == 5:
                raise Kill
            return self.calls == 4

    pairs = drawn_pairs(6, 32)
    values = {**DCGAN.example(), "loss": "hinge", "discriminator_normalisation": "spectral", "epochs": 5}
    values["augment"] = ["colour", "translation", "cutout"]
    with pytest.raises(Kill):
        run_fit(DCGAN.create(**values), pairs, Killing(tmp_path / "killed", torch.device("cpu"), 1))
    contexts = [context(tmp_path / name, 1) for name in ("killed", "whole")]
    resumed, whole = (run_fit(DCGAN.create(**values), pairs, opened) for opened in contexts)
    for one, other in zip(resumed, whole, strict=True):
        assert one.step == other.step
        for name in ("generator.safetensors", "config.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    logs = [[(row["name"], row["step"], row["value"]) for row in opened.metrics()] for opened in contexts]
    assert logs[0] == logs[1] != []


def test_the_seed_matters_and_the_global_state_does_not(tmp_path):
    pairs = drawn_pairs(6, 32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    files = [(fit(tmp_path / str(i), pairs, seed)[-1].folder / "generator.safetensors").read_bytes()
             for i, seed in enumerate((0, 0, 1))]  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    files.append((fit(tmp_path / "again", pairs, 0)[-1].folder / "generator.safetensors").read_bytes())
    assert files[0] == files[1] == files[3]
    assert files[0] != files[2]


def test_samples_do_not_depend_on_how_many_are_asked_for(tmp_path):
    pairs = drawn_pairs(6, 32)
    checkpoint = fit(tmp_path, pairs)[-1]
    whole = sample(checkpoint, pairs, range(37))
    for start, stop in ((0, 1), (5, 22), (36, 37)):
        part = sample(checkpoint, pairs, range(start, stop))
        assert np.array_equal(part.images, whole.images[start:stop])
        assert np.array_equal(part.masks, whole.masks[start:stop])
    assert sample(checkpoint, pairs, []).images.shape == (0, 32, 32, 3)


def test_averaged_weights_are_sampled_with_statistics_of_their_own(tmp_path):
    pairs = drawn_pairs(16, 32)
    values = {"steps": 30, "checkpoints": 1, "batch_size": 8}
    averaged, raw = (
        sample(fit(tmp_path / name, pairs, ema=ema, **values)[-1], pairs, range(8)).images
        for name, ema in (("averaged", 0.9), ("raw", 0.0))
    )
    assert not np.array_equal(averaged, raw)


def test_a_loss_that_is_no_number_stops_the_fit_with_a_sentence(tmp_path):
    with pytest.raises(HarnessError, match=r"dcgan diverged: a loss is .*nan.* at step .*lower learning_rate"):
        fit(tmp_path, drawn_pairs(6, 32), learning_rate=1e30, discriminator_learning_rate=1e30, steps=40)


def test_a_constant_output_stops_the_fit_with_a_sentence(tmp_path):
    generator = DCGAN.create(**DCGAN.example())
    network = generator_network(32, 8, 4).eval()
    torch.nn.init.zeros_(network[-2].weight)
    with pytest.raises(HarnessError, match="dcgan collapsed: at step 900 all its pictures are the same"):
        generator._preview(network, 900, context(tmp_path))


def test_a_broken_checkpoint_is_named(tmp_path):
    pairs = drawn_pairs(6, 32)
    checkpoint = fit(tmp_path, pairs)[-1]
    weights = checkpoint.folder / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(HarnessError, match="is not a whole checkpoint of dcgan"):
        sample(checkpoint, pairs, [1])
    assert json.loads((checkpoint.folder / "config.json").read_text())["size"] == 32


def pictures(n=6):
    colours = torch.rand(n, 3, 16, 16, generator=seeded(1)) * 2 - 1
    mask = (torch.rand(n, 1, 16, 16, generator=seeded(2)) > 0.5).float() * 2 - 1
    return torch.cat([colours, mask], dim=1)


def test_colour_leaves_the_mask_alone_and_changes_every_picture():
    before, after = pictures(), augment(pictures(), ["colour"], seeded(3))
    assert torch.equal(after[:, 3], before[:, 3])
    assert (after[:, :3] - before[:, :3]).abs().amax(dim=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_translation_moves_image_and_mask_together(seed):
    before, after = pictures(), augment(pictures(), ["translation"], seeded(seed))
    for one, other in zip(before, after, strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                torch.nn.functional.pad(one, (2, 2, 2, 2))[:, 2 + down : 18 + down, 2 + right : 18 + right], other
            )
        ]
        assert len(found) == 1


def test_cutout_zeroes_one_square_of_all_channels():
    after = augment(pictures() + 5, ["cutout"], seeded(3))
    holes = after == 0
    assert torch.equal(holes.all(dim=1), holes.any(dim=1))
    for hole in holes[:, 0]:
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert 0 < rows.sum() <= 8
        assert torch.equal(hole, rows[:, None] & columns[None, :])


def test_augmentation_passes_gradients():
    inputs = pictures().requires_grad_()
    augment(inputs, ["colour", "translation", "cutout"], seeded(3)).sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_flip_moves_whole_pictures():
    before = pictures(32)
    after = flip(before, (3,), seeded(0))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(after, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 4 < sum(flipped) < 28
