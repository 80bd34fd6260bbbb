"""The first stage of latent diffusion: its autoencoder, files and training, and how reconstructions are measured."""

import copy
import math
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from generators.first_stage import reconstruction, training
from generators.first_stage.autoencoder import NETWORKS, build, load, save
from generators.first_stage.discriminator import PatchDiscriminator, adaptive_weight, layers_for
from generators.first_stage.parameters import FirstStageParameters
from generators.first_stage.reconstruction import measure, psnr, reconstruct, ssim
from generators.first_stage.training import FirstStageTraining
from harness.data.phantom import render
from harness.errors import HarnessError, WeightsError
from harness.learning.perceptual import VGG, PerceptualNetwork
from harness.metrics.features.feature_network import FeatureNetwork

CPU = torch.device("cpu")
NOTE = "Perceptual distances are of two random layers, so they are not LPIPS."


@pytest.fixture(scope="module")
def phantoms():
    """Eight images, uint8 (8, 32, 32, 3)."""
    return np.stack([render(0, i, 32)[0] for i in range(8)])


@pytest.fixture
def no_perceptual_network(monkeypatch):
    monkeypatch.setattr(training, "perceptual_network", lambda *_, **__: None)


@pytest.fixture
def random_perceptual_network(monkeypatch):
    """A perceptual network of two layers with random weights, in the place of the one on the developer's machine."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = PerceptualNetwork(VGG((1, 1), (0.5,) * 3, (0.2,) * 3), None, "two random layers", NOTE)
    monkeypatch.setattr(training, "perceptual_network", lambda *_, **__: network)
    return network


def to_tensor(images):
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def trained(images, seed=0, **values):
    """A training at its start, small and without what a machine may lack."""
    plain = {"network": "tiny", "steps": 20, "batch_size": 4, "perceptual_weight": 0.0, "adversarial_weight": 0.0}
    given = {**plain, "discriminator_features": 4, "precision": "float32", **values}
    return FirstStageTraining(FirstStageParameters(**given), to_tensor(images), seed, CPU)


def tiny(seed=0):
    """A tiny autoencoder whose codes lie among its latents."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder = build("tiny")
        nn.init.normal_(autoencoder.codebook)
    return autoencoder.eval()


# the network


def test_the_published_network_has_as_many_parameters_as_the_published_checkpoint():
    with torch.device("meta"):
        model = build("vq-f4").model

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model) == 55_322_782
    assert (count(model.encoder), count(model.decoder)) == (22_337_411, 32_960_771)
    assert (count(model.quant_conv), count(model.post_quant_conv), count(model.quantize)) == (12, 12, 8192 * 3)


@pytest.mark.parametrize("network", NETWORKS)
def test_latents_are_four_times_smaller_and_have_three_channels(network):
    with torch.device("meta"):
        autoencoder = build(network)
        latents = autoencoder.encode(torch.empty(2, 3, 32, 48))
        assert latents.shape == (2, autoencoder.channels, 32 // autoencoder.factor, 48 // autoencoder.factor)
        assert latents.shape == (2, 3, 8, 12)
        assert autoencoder.decode_quantised(latents).shape == (2, 3, 32, 48)


@torch.no_grad()
def test_encode_comes_before_the_quantisation_and_decode_begins_with_it():
    autoencoder = tiny()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = autoencoder.encode(images)
    assert torch.equal(latents, autoencoder.model.quant_conv(autoencoder.model.encoder(images)))
    nearest = torch.empty_like(latents)
    for image in range(2):
        for row in range(4):
            for column in range(4):
                far = [float(((code - latents[image, :, row, column]) ** 2).sum()) for code in autoencoder.codebook]
                nearest[image, :, row, column] = autoencoder.codebook[int(np.argmin(far))]
    assert not torch.allclose(nearest, latents, atol=1e-3)
    expected = autoencoder.model.decoder(autoencoder.model.post_quant_conv(nearest))
    assert torch.allclose(autoencoder.decode(latents), expected, atol=1e-5)
    assert torch.equal(autoencoder(images), autoencoder.decode(latents))


@torch.no_grad()
def test_decoding_is_idempotent_on_codes():
    autoencoder = tiny()
    quantised = autoencoder.quantise(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)))
    again = autoencoder.quantise(quantised.latents)
    assert torch.equal(again.codes, quantised.codes)
    assert float(again.loss) < 1e-10


@given(seed=st.integers(0, 2**31), spread=st.sampled_from([1e-3, 1.0, 30.0]), distance=st.sampled_from([0, 100]))
@settings(max_examples=20, deadline=None)
def test_no_code_is_nearer_than_the_one_chosen(seed, spread, distance):
    autoencoder = tiny()
    with torch.no_grad():
        autoencoder.codebook.add_(distance).mul_(spread)  # far from the origin, products of matrices lose digits
        latents = (torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed)) + distance) * spread
        quantised = autoencoder.quantise(latents)
    codes, places = autoencoder.codebook.detach().double().numpy(), latents[0].permute(1, 2, 0).double().numpy()
    far = np.square(places[:, :, None] - codes).sum(axis=-1)
    chosen = np.take_along_axis(far, quantised.codes[0].numpy()[..., None], axis=2)[..., 0]
    assert np.allclose(chosen, far.min(axis=2), rtol=1e-3, atol=0)
    assert np.allclose(codes[quantised.codes[0].numpy()], quantised.latents[0].permute(1, 2, 0), atol=1e-4 * spread)


@torch.no_grad()
def test_codes_do_not_depend_on_what_else_is_in_the_batch():
    autoencoder = tiny()
    latents = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    whole = autoencoder.quantise(latents)
    assert torch.equal(autoencoder.quantise(latents[4:5]).codes, whole.codes[4:5])


@torch.no_grad()
def test_many_latents_are_compared_with_the_codes_in_parts(monkeypatch):
    autoencoder = tiny()
    latents = torch.randn(2, 3, 9, 5, generator=torch.Generator().manual_seed(3))
    whole = autoencoder.quantise(latents).codes
    for latents_at_once in (7, 1):
        distances = latents_at_once * len(autoencoder.codebook)
        monkeypatch.setattr("generators.first_stage.autoencoder._DISTANCES", distances)
        assert torch.equal(autoencoder.quantise(latents).codes, whole)
    monkeypatch.setattr("generators.first_stage.autoencoder._DISTANCES", 1)  # fewer than there are codes
    assert torch.equal(autoencoder.quantise(latents).codes, whole)


@torch.no_grad()
def test_latents_are_quantised_in_float32_under_autocast():
    autoencoder = tiny()
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    expected = autoencoder.quantise(latents)
    with torch.autocast("cpu", torch.bfloat16):
        found = autoencoder.quantise(latents)
    assert found.latents.dtype == torch.float32
    assert torch.equal(found.latents, expected.latents)


def test_gradients_pass_the_quantisation_straight_and_its_loss_is_that_of_diffusers():
    autoencoder = tiny()
    latents = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    weights = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad((autoencoder.quantise(latents).latents * weights).sum(), latents)
    assert torch.equal(gradient, weights)

    quantised = autoencoder.quantise(latents)
    gradients = torch.autograd.grad(quantised.loss, [latents, autoencoder.codebook])
    difference = (latents - quantised.latents).detach()
    assert float(quantised.loss) == pytest.approx(1.25 * float(difference.square().mean()))
    assert torch.allclose(gradients[0], 2 * difference / difference.numel())
    pulled = torch.zeros_like(autoencoder.codebook)
    pulled.index_add_(0, quantised.codes.flatten(), -difference.permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.allclose(gradients[1], 0.25 * 2 * pulled / difference.numel(), atol=1e-7)

    theirs = autoencoder.model.quantize(latents)
    assert torch.allclose(quantised.latents, theirs[0])
    assert float(quantised.loss) == pytest.approx(float(theirs[1]))
    for mine, other in zip(gradients, torch.autograd.grad(theirs[1], [latents, autoencoder.codebook]), strict=True):
        assert torch.allclose(mine, other, atol=1e-7)


# files

_WIDTHS = NETWORKS["tiny"].widths


def compvis_state(seed=0):
    """Random tensors under CompVis' names and with its shapes: a first stage as small as ``tiny``."""
    draw = torch.Generator().manual_seed(seed)
    state = {}

    def convolution(name, inputs, outputs, side):
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=draw) / (inputs * side**2) ** 0.5
        state[f"{name}.bias"] = torch.randn(outputs, generator=draw) / 10

    def norm(name, width):
        state[f"{name}.weight"] = 1 + torch.randn(width, generator=draw) / 10
        state[f"{name}.bias"] = torch.randn(width, generator=draw) / 10

    def residual(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        convolution(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        convolution(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            convolution(f"{name}.nin_shortcut", inputs, outputs, 1)

    def middle(part):
        for block in (1, 2):
            residual(f"{part}.mid.block_{block}", _WIDTHS[-1], _WIDTHS[-1])
        norm(f"{part}.mid.attn_1.norm", _WIDTHS[-1])
        for layer in ("q", "k", "v", "proj_out"):
            convolution(f"{part}.mid.attn_1.{layer}", _WIDTHS[-1], _WIDTHS[-1], 1)

    convolution("encoder.conv_in", 3, _WIDTHS[0], 3)
    width = _WIDTHS[0]
    for level, outputs in enumerate(_WIDTHS):
        residual(f"encoder.down.{level}.block.0", width, outputs)
        width = outputs
        if level < 2:
            convolution(f"encoder.down.{level}.downsample.conv", width, width, 3)
    middle("encoder")
    norm("encoder.norm_out", width)
    convolution("encoder.conv_out", width, 3, 3)
    convolution("decoder.conv_in", 3, width, 3)
    middle("decoder")
    for level in (2, 1, 0):
        for block in (0, 1):
            residual(f"decoder.up.{level}.block.{block}", width, _WIDTHS[level])
            width = _WIDTHS[level]
        if level > 0:
            convolution(f"decoder.up.{level}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", width)
    convolution("decoder.conv_out", width, 3, 3)
    convolution("quant_conv", 3, 3, 1)
    convolution("post_quant_conv", 3, 3, 1)
    state["quantize.embedding.weight"] = torch.randn(NETWORKS["tiny"].codes, 3, generator=draw)
    return state


def compvis_encode(state, images):
    """What the published encoder does, written from its description."""
    features = _convolution(state, "encoder.conv_in", images)
    for level in range(3):
        features = _residual(state, f"encoder.down.{level}.block.0", features)
        if level < 2:
            padded = functional.pad(features, (0, 1, 0, 1))
            features = _convolution(state, f"encoder.down.{level}.downsample.conv", padded, stride=2, padding=0)
    features = _activated(state, "encoder.norm_out", _middle(state, "encoder", features))
    return _convolution(state, "quant_conv", _convolution(state, "encoder.conv_out", features))


def compvis_decode(state, codes):
    """What the published decoder does with latents that are codes."""
    features = _convolution(state, "decoder.conv_in", _convolution(state, "post_quant_conv", codes))
    features = _middle(state, "decoder", features)
    for level in (2, 1, 0):
        for block in (0, 1):
            features = _residual(state, f"decoder.up.{level}.block.{block}", features)
        if level > 0:
            features = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            features = _convolution(state, f"decoder.up.{level}.upsample.conv", features)
    return _convolution(state, "decoder.conv_out", _activated(state, "decoder.norm_out", features))


def _convolution(state, name, features, stride=1, padding=None):
    weight = state[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return functional.conv2d(features, weight, state[f"{name}.bias"], stride, padding)


def _norm(state, name, features):
    groups = NETWORKS["tiny"].groups
    return functional.group_norm(features, groups, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def _activated(state, name, features):
    return functional.silu(_norm(state, name, features))


def _residual(state, name, features):
    made = _convolution(state, f"{name}.conv1", _activated(state, f"{name}.norm1", features))
    made = _convolution(state, f"{name}.conv2", _activated(state, f"{name}.norm2", made))
    shortcut = f"{name}.nin_shortcut"
    return made + (_convolution(state, shortcut, features) if f"{shortcut}.weight" in state else features)


def _middle(state, part, features):
    features = _residual(state, f"{part}.mid.block_1", features)
    name = f"{part}.mid.attn_1"
    normed = _norm(state, f"{name}.norm", features)
    query, key, value = (_convolution(state, f"{name}.{letter}", normed).flatten(2) for letter in "qkv")
    attention = torch.softmax(torch.einsum("nci,ncj->nij", query, key) / query.shape[1] ** 0.5, dim=2)
    attended = torch.einsum("nij,ncj->nci", attention, value).reshape(features.shape)
    return _residual(state, f"{part}.mid.block_2", features + _convolution(state, f"{name}.proj_out", attended))


@pytest.mark.parametrize("inside", ["", "first_stage_model."])
@torch.no_grad()
def test_a_compvis_checkpoint_computes_what_the_published_network_computes(tmp_path, inside):
    state = compvis_state()
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = compvis_encode(state, images)
    codes = autoencoder_codes(state, latents)
    more = {"loss.discriminator.main.0.weight": torch.zeros(1), "model.diffusion_model.out.2.bias": torch.zeros(1)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {**{inside + name: value for name, value in state.items()}, **more}, "epoch": 3}, path)
    autoencoder = load(path)
    assert autoencoder.network == "tiny"
    assert not autoencoder.training
    assert torch.allclose(autoencoder.encode(images), latents, atol=1e-4)
    assert torch.allclose(autoencoder.decode(latents), compvis_decode(state, codes), atol=1e-4)


def autoencoder_codes(state, latents):
    """The nearest codes of latents, as latents."""
    codes = state["quantize.embedding.weight"]
    far = (latents.permute(0, 2, 3, 1)[..., None, :] - codes).square().sum(dim=-1)
    return codes[far.argmin(dim=-1)].permute(0, 3, 1, 2)


class Callback:
    """What Lightning writes beside the weights; the safe reader of torch knows neither its class nor its state."""

    def __init__(self):
        self.best = np.float64(0.5)


def do_harm(what):
    raise AssertionError(f"{what} was unpickled")


class Hostile:
    """An object that does something when it is unpickled."""

    def __reduce__(self):
        return (do_harm, ("an object",))


def test_no_object_in_a_checkpoint_is_unpickled(tmp_path):
    path = tmp_path / "model.ckpt"
    beside = {"callbacks": {Callback: Callback()}, "loops": Hostile(), "score": np.float64(2)}
    torch.save({**beside, "state_dict": compvis_state()}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert load(path).network == "tiny"


def test_what_is_saved_is_loaded_bit_equal(tmp_path):
    autoencoder = tiny()
    save(autoencoder, tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors", "tiny")
    for (name, one), (other_name, other) in zip(
        autoencoder.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(autoencoder(images), again(images))


def test_what_diffusers_saves_is_loaded(tmp_path):
    autoencoder = tiny()
    autoencoder.model.save_pretrained(tmp_path)
    loaded = load(tmp_path / "diffusion_pytorch_model.safetensors")
    assert torch.equal(loaded.codebook, autoencoder.codebook)


@pytest.mark.parametrize("kind", ["missing", "garbage", "other network", "wider", "one tensor more", "not asked for"])
def test_a_file_of_something_else_gives_one_clear_sentence(tmp_path, kind):
    path = tmp_path / "first-stage.safetensors"
    state, asked = tiny().model.state_dict(), None
    if kind == "missing":
        said = rf"There is no first-stage file {path}; correct the path, or leave `file` out to train one\."
    elif kind == "garbage":
        path = tmp_path / "model.ckpt"
        path.write_bytes(b"no weights at all")
        said = "is not a safetensors or torch weights file"
    elif kind == "other network":
        path = tmp_path / "model.ckpt"
        torch.save({"features.0.weight": torch.zeros(3)}, path)
        said = r"is no first stage that fits here: vq-f4 has encoder\.conv_in\.weight of shape \(128, 3, 3, 3\) and the"
    else:
        if kind == "wider":
            state["encoder.conv_in.weight"] = torch.zeros(17, 3, 3, 3)
            asked, said = "tiny", r"tiny has encoder\.conv_in\.weight of shape \(16, 3, 3, 3\) and the file has \(17,"
        if kind == "one tensor more":
            state["encoder.extra"] = torch.zeros(1)
            asked, said = "tiny", r"the file has encoder\.extra, which tiny has not"
        if kind == "not asked for":
            asked, said = "small", r"holds the network 'tiny', not 'small'; write network: tiny\."
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, path)
    with pytest.raises(WeightsError, match=said) as raised:
        load(path, asked)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


# the adversary


def test_the_discriminator_is_a_patch_discriminator_of_70_pixels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = PatchDiscriminator(64, layers_for(256))
    assert sum(parameter.numel() for parameter in judge.parameters()) == 2_765_633
    small = PatchDiscriminator(2, layers_for(256)).eval()
    picture = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores = small(picture)
    assert scores.shape == (1, 1, 30, 30)
    (seen,) = torch.autograd.grad(scores[0, 0, 15, 15], picture)
    rows, columns = np.nonzero(seen[0].abs().sum(0).numpy())
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (70, 70)


@pytest.mark.parametrize("side", [8, 16, 20, 32, 64, 128, 512])
def test_a_discriminator_fits_pictures_of_any_side(side):
    layers = layers_for(side)
    assert layers == 3 or side < 32
    assert PatchDiscriminator(2, layers)(torch.rand(2, 3, side, side)).numel() >= 2


@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_adaptive_weight_is_the_ratio_of_the_gradients_norms(factor, seed):
    gradient = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    length = math.sqrt(float(gradient.double().square().sum()))
    expected = factor * length / (length + 1e-4)
    assert float(adaptive_weight(factor * gradient, gradient.flip(0))) == pytest.approx(expected, rel=1e-4)


def test_the_adaptive_weight_is_bounded():
    gradient = torch.ones(4)
    assert float(adaptive_weight(1e3 * gradient, 0 * gradient)) == 1e4
    assert float(adaptive_weight(0 * gradient, gradient)) == 0


@pytest.mark.parametrize("interval", [1, 3])
def test_a_step_follows_the_gradient_of_the_published_loss(phantoms, random_perceptual_network, interval):
    weights = {"perceptual_weight": 0.7, "adversarial_weight": 0.6, "codebook_weight": 0.9}
    begun = trained(phantoms, adversarial_start=2, judging_interval=interval, flip="none", batch_size=8, **weights)
    autoencoder, judge = copy.deepcopy(begun.autoencoder), copy.deepcopy(begun.discriminator)
    told = begun.step(2)

    real = to_tensor(phantoms).float() / 127.5 - 1
    quantised = autoencoder.quantise(autoencoder.encode(real))
    made = autoencoder.decode_quantised(quantised.latents)
    pixels, likeness = (made - real).abs().mean(), random_perceptual_network(made, real).mean()
    deceiving = -judge(made).mean()
    last = autoencoder.model.decoder.conv_out.weight
    (pull,) = torch.autograd.grad(pixels + 0.7 * likeness, last, retain_graph=True)
    (push,) = torch.autograd.grad(deceiving, last, retain_graph=True)
    ratio = float(pull.norm() / (push.norm() + 1e-4))
    assert float(told["adaptive-weight"]) == pytest.approx(ratio, rel=1e-3)
    for name, value in (("l1", pixels), ("perceptual", likeness), ("deceiving", deceiving)):
        assert float(told[f"{name}-loss"]) == pytest.approx(float(value), rel=1e-3, abs=1e-5)
    (pixels + interval * (0.7 * likeness + 0.6 * ratio * deceiving) + 0.9 * quantised.loss).backward()
    for (name, mine), expected in zip(begun.autoencoder.named_parameters(), autoencoder.parameters(), strict=True):
        assert torch.allclose(mine.grad, expected.grad, rtol=2e-2, atol=1e-5), name

    scores = [judge.requires_grad_(True)(pictures) for pictures in (real, made.detach())]
    judge.zero_grad()
    (((1 - scores[0]).clamp_min(0).mean() + (1 + scores[1]).clamp_min(0).mean()) / 2).backward()
    for mine, expected in zip(begun.discriminator.parameters(), judge.parameters(), strict=True):
        assert torch.allclose(mine.grad, expected.grad, rtol=2e-2, atol=1e-5)


def test_critics_come_in_at_their_interval_and_their_start(phantoms, random_perceptual_network):
    begun = trained(
        phantoms, perceptual_weight=1.0, adversarial_weight=0.75, adversarial_start=4, judging_interval=2, batch_size=2
    )
    told = [set(begun.step(step)) for step in range(8)]
    assert ["perceptual-loss" in names for names in told] == [False, True] * 4
    assert ["discriminator-loss" in names for names in told] == [False] * 5 + [True, False, True]
    assert all({"l1-loss", "codebook-loss", "codebook-usage"} <= names for names in told)


# training


def test_eight_images_are_learned_and_the_codes_stay_in_use(phantoms, no_perceptual_network):
    # 512 codes and 8 x 64 latents: at most as many codes can be in use.
    learned = trained(phantoms, steps=60, batch_size=4, learning_rate=2e-3)
    before = psnr(phantoms, reconstruct(learned.autoencoder, phantoms, CPU)).mean()
    for step in range(60):
        told = learned.step(step)
    after = psnr(phantoms, reconstruct(learned.autoencoder, phantoms, CPU))
    with torch.no_grad():
        latents = learned.autoencoder.encode(to_tensor(phantoms).float() / 127.5 - 1)
        distinct = len(learned.autoencoder.quantise(latents).codes.unique())
    assert after.mean() > before + 8
    assert after.min() > 17
    assert float(told["codebook-usage"]) > 0.5
    assert distinct > 150


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_resumed_training_is_the_same_training_bit_for_bit(phantoms, random_perceptual_network, asked):
    values = {
        "perceptual_weight": 1.0, "adversarial_weight": 0.75, "adversarial_start": 2, "judging_interval": 2,
        "revive_interval": 3, "batch_size": 3, "steps": 10, "precision": asked,
    }  # fmt: skip
    whole = trained(phantoms, **values)
    for step in range(5):
        whole.step(step)
    saved = copy.deepcopy(whole.state(5))
    told = [whole.step(step) for step in range(5, 10)]
    resumed = trained(phantoms, **values)
    assert resumed.restore(saved) == 5
    told_again = [resumed.step(step) for step in range(5, 10)]
    for one, other in zip(told, told_again, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    for network in ("autoencoder", "discriminator"):
        pairs = zip(
            getattr(whole, network).state_dict().values(), getattr(resumed, network).state_dict().values(), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)


def test_the_seed_matters_and_the_global_state_does_not(phantoms):
    def after_two_steps(seed, world):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        begun = trained(phantoms, seed=seed, adversarial_weight=0.75, adversarial_start=0, judging_interval=1)
        begun.step(0)
        begun.step(1)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([parameter.detach().flatten() for parameter in begun.autoencoder.parameters()])

    weights = [trained(phantoms, seed=seed).autoencoder.model.encoder.conv_in.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first, again, other = after_two_steps(0, 1), after_two_steps(0, 2), after_two_steps(1, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_first_codes_are_latents_of_training_images(phantoms):
    begun = trained(phantoms, batch_size=8, flip="none", learning_rate=1e-12)
    with torch.no_grad():
        latents = begun.autoencoder.encode(to_tensor(phantoms).float() / 127.5 - 1)
    begun.step(0)
    places = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    far = (begun.autoencoder.codebook.detach()[:, None] - places).abs().amax(dim=2).amin(dim=1)
    assert float(far.max()) < 1e-5
    assert len(begun.autoencoder.codebook.detach().unique(dim=0)) > 450  # 512 latents for 512 codes


def test_as_published_the_first_codes_are_close_to_zero(phantoms):
    begun = trained(phantoms, codebook_start="uniform", revive_interval=None, learning_rate=1e-12)
    begun.step(0)
    assert float(begun.autoencoder.codebook.abs().max()) <= 1 / 512


@pytest.mark.parametrize("interval", [4, None])
def test_dead_codes_are_moved_onto_latents(phantoms, interval):
    begun = trained(phantoms, batch_size=8, revive_interval=interval, learning_rate=1e-4)
    begun.step(0)
    with torch.no_grad():
        begun.autoencoder.codebook[100:] = 50.0
    begun.idle.fill_(100)
    for step in (1, 2):
        told = begun.step(step)
        assert float(told["codebook-usage"]) <= 100 / 512
        assert float(begun.autoencoder.codebook[100:].min()) > 49
    begun.step(3)
    revived = float(begun.autoencoder.codebook.abs().max()) < 10
    usage = float(begun.step(4)["codebook-usage"])
    if interval is None:
        assert not revived
        assert usage <= 100 / 512
    else:
        assert revived
        assert usage > 0.5


def test_reviving_forgets_what_the_optimiser_knew_of_a_dead_code_alone(phantoms):
    begun = trained(phantoms, batch_size=8, revive_interval=2)
    begun.step(0)
    known = begun.optimiser.state[begun.autoencoder.codebook]
    with torch.no_grad():
        begun.autoencoder.codebook[100:] = 50.0
        for moment in ("exp_avg", "exp_avg_sq"):
            known[moment].fill_(1.0)
    begun.idle.fill_(100)
    begun.step(1)
    dead = begun.idle > 100
    assert bool(dead[100:].all())
    for moment in ("exp_avg", "exp_avg_sq"):
        assert float(known[moment][dead].abs().max()) == 0
        assert float(known[moment][~dead].abs().min()) > 0.3


def test_the_learning_rate_falls_at_the_end(phantoms):
    begun = trained(phantoms, steps=20, decay=0.25, learning_rate=1e-3)
    assert [begun.rate(step) for step in (0, 15, 16, 18, 19)] == pytest.approx([1e-3, 1e-3, 8e-4, 4e-4, 2e-4])
    begun.step(18)
    groups = (*begun.optimiser.param_groups, *begun.discriminator_optimiser.param_groups)
    assert [group["lr"] for group in groups] == pytest.approx([4e-4, 4e-4])
    assert trained(phantoms, decay=0.0, learning_rate=1e-3).rate(19) == 1e-3


def test_contrast_is_how_much_reconstructions_vary_of_what_images_do(phantoms):
    begun = trained(phantoms, batch_size=8, flip="none")
    real = to_tensor(phantoms).float() / 127.5 - 1
    with torch.no_grad():
        made = begun.autoencoder(real)
    expected = float(made.std(dim=(0, 2, 3)).mean() / real.std(dim=(0, 2, 3)).mean())
    begun.settings = begun.settings.model_copy(update={"codebook_start": "uniform"})  # leave the codes as they are
    assert float(begun.step(0)["contrast"]) == pytest.approx(expected, rel=1e-3)
    assert float(trained(np.full((1, 16, 16, 3), 90, np.uint8), perceptual_blocks=1).step(0)["contrast"]) > 0


def test_divergence_is_said(phantoms):
    begun = trained(phantoms)
    with torch.no_grad():
        begun.autoencoder.model.decoder.conv_out.bias.fill_(float("nan"))
    begun.step(3)  # numbers are not looked at in every step
    said = r"The first stage diverged: l1-loss is nan at step 25; lower learning_rate \(now 0\.0005\)\."
    with pytest.raises(HarnessError, match=said):
        begun.step(24)


@pytest.mark.parametrize("step", [224, 249])
def test_reconstructions_of_one_colour_are_said(phantoms, step):
    begun = trained(phantoms, steps=250 if step == 249 else 1000, learning_rate=1e-9)
    nn.init.zeros_(begun.autoencoder.model.decoder.conv_out.weight)
    begun.step(24)
    with pytest.raises(HarnessError, match=rf"collapsed: at step {step + 1} all its reconstructions are of one colour"):
        begun.step(step)


def test_one_image_of_one_colour_is_no_collapse():
    begun = trained(np.full((1, 16, 16, 3), 90, np.uint8), perceptual_blocks=1)
    nn.init.zeros_(begun.autoencoder.model.decoder.conv_out.weight)
    assert math.isfinite(float(begun.step(224)["l1-loss"]))


@pytest.mark.parametrize(("height", "width", "blocks"), [(30, 32, 3), (32, 30, 3), (4, 32, 1), (32, 8, 5)])
def test_images_that_do_not_fit_are_refused(height, width, blocks):
    images = np.zeros((2, height, width, 3), np.uint8)
    with pytest.raises(HarnessError, match=rf"multiples of 4 and at least \d+ pixels, got {height} x {width}; set"):
        trained(images, perceptual_blocks=blocks)


def test_the_note_names_the_perceptual_network(phantoms, random_perceptual_network, monkeypatch):
    assert trained(phantoms, perceptual_weight=1.0).note == f"First stage: {NOTE}"
    assert trained(phantoms, perceptual_weight=0.0).note == ""
    random_perceptual_network.note = ""  # LPIPS itself
    assert trained(phantoms, perceptual_weight=1.0).note == ""


def test_without_a_perceptual_network_the_note_says_so_and_training_goes_on(phantoms, no_perceptual_network):
    begun = trained(phantoms, perceptual_weight=1.0, judging_interval=1)
    assert re.match(
        "The first stage was trained without a perceptual term: no perceptual network is on this", begun.note
    )
    assert "perceptual-loss" not in begun.step(0)


# measures


def test_psnr_is_its_formula(phantoms):
    made = np.clip(phantoms.astype(int) + np.random.default_rng(0).integers(-20, 20, phantoms.shape), 0, 255)
    errors = ((phantoms - made.astype(float)) ** 2).mean(axis=(1, 2, 3))
    assert psnr(phantoms, made.astype(np.uint8)) == pytest.approx(10 * np.log10(255**2 / errors), abs=1e-5)


@given(offset=st.integers(1, 120))
def test_psnr_of_a_constant_offset_is_known(offset):
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(images, images + np.uint8(offset)) == pytest.approx([20 * math.log10(255 / offset)] * 2)


def test_equal_images_have_a_finite_psnr_and_an_ssim_of_1(phantoms):
    assert psnr(phantoms, phantoms) == pytest.approx([10 * math.log10(12 * 255**2)] * 8)
    assert ssim(phantoms, phantoms) == pytest.approx([1.0] * 8)


def wangs_ssim(one, other):
    """Equation 13 of Wang et al. 2004 in float64: Gaussian windows of 11 px with deviation 1.5, inside the image."""
    from scipy.signal import convolve2d

    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    small, large = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def average(plane):
        return convolve2d(plane, window, mode="valid")

    maps = []
    for a, b in zip(np.moveaxis(one.astype(float), 2, 0), np.moveaxis(other.astype(float), 2, 0), strict=True):
        mean_a, mean_b = average(a), average(b)
        spreads = average(a * a) - mean_a**2 + average(b * b) - mean_b**2
        together = average(a * b) - mean_a * mean_b
        similar = (2 * mean_a * mean_b + small) * (2 * together + large)
        maps.append(similar / ((mean_a**2 + mean_b**2 + small) * (spreads + large)))
    return np.mean(maps)


def test_ssim_is_its_formula(phantoms):
    made = phantoms[[1, 2, 3, 0, 4, 5, 6, 7]] // 2 + phantoms // 2
    expected = [wangs_ssim(one, other) for one, other in zip(phantoms, made, strict=True)]
    assert max(expected) - min(expected) > 0.1
    assert ssim(phantoms, made) == pytest.approx(expected, abs=1e-5)
    grey = np.full_like(phantoms, 120)
    expected = [wangs_ssim(one, other) for one, other in zip(phantoms, grey, strict=True)]
    assert ssim(phantoms, grey) == pytest.approx(expected, abs=1e-3)


def test_reconstructions_are_rounded_to_bytes_and_cut(phantoms):
    class Echo(nn.Module):
        def forward(self, images):
            return images * 1.5

    made = reconstruct(Echo(), phantoms, CPU)
    expected = np.clip(np.rint((phantoms / 127.5 - 1) * 1.5 * 127.5 + 127.5), 0, 255)
    assert made.dtype == np.uint8
    assert np.abs(made - expected).max() <= 1
    assert (made == expected).mean() > 0.99


def colours(device=None):
    """A feature network of mean colours, in the place of the Inception."""
    return FeatureNetwork("colours", lambda: (nn.Identity(), lambda images: images.mean(dim=(2, 3))), 16, None)


def test_what_is_measured(phantoms, monkeypatch):
    autoencoder = tiny().train()
    monkeypatch.setattr(reconstruction, "find", lambda name: None)
    told = measure(autoencoder, phantoms, CPU)
    made = reconstruct(autoencoder, phantoms, CPU)
    assert told == pytest.approx({"psnr": psnr(phantoms, made).mean(), "ssim": ssim(phantoms, made).mean()})
    assert autoencoder.training
    assert measure(autoencoder, phantoms[:, :8, :8], CPU).keys() == {"psnr"}  # its windows are wider

    monkeypatch.setattr(reconstruction, "find", lambda name: name == "fid-inception" or None)
    monkeypatch.setattr(reconstruction, "fid_network", colours)
    found = measure(autoencoder, phantoms, CPU)
    assert found.pop("reconstruction-fid") == pytest.approx(gaussian_distance(phantoms, made), rel=1e-3)
    assert found == told
    assert "reconstruction-fid" not in measure(autoencoder, phantoms[:1], CPU)


@pytest.mark.parametrize("pinned", [True, False])
def test_lpips_is_measured_with_its_own_network_and_no_other(phantoms, monkeypatch, pinned):
    vgg = VGG((2,), (0.5,) * 3, (0.5,) * 3)
    vgg.load([(torch.randn(64, depth, 3, 3) / 9, torch.zeros(64)) for depth in (3, 64)])
    network = PerceptualNetwork(vgg, None, "LPIPS", "")
    found = SimpleNamespace(pinned=pinned)
    monkeypatch.setattr(reconstruction, "find", lambda name: found if name == "vgg16-imagenet" else None)
    monkeypatch.setattr(reconstruction, "perceptual_network", lambda device, name: network)
    autoencoder = tiny()
    told = measure(autoencoder, phantoms, CPU)
    assert ("lpips" in told) == pinned
    if pinned:
        made = reconstruct(autoencoder, phantoms, CPU)
        one, other = (torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1 for images in (phantoms, made))
        assert told["lpips"] == pytest.approx(float(network(one, other).mean()), rel=1e-5)
        assert "lpips" not in measure(autoencoder, phantoms[:, :12, :12], CPU)


def gaussian_distance(real, made):
    """The Fréchet distance between the mean colours of two sets of images, by scipy's matrix root."""
    from scipy.linalg import sqrtm

    from harness.metrics.features.extract import resize

    one, other = (
        np.stack([resize(image, 16, "clean").mean(axis=(1, 2)) for image in images]).astype(np.float64)
        for images in (real, made)
    )
    spreads = [np.cov(colours, rowvar=False) for colours in (one, other)]
    root = sqrtm(spreads[0] @ spreads[1]).real
    return np.square(one.mean(0) - other.mean(0)).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)


# parameters


def test_as_published_is_the_recipe_of_the_published_checkpoint():
    published = FirstStageParameters(setting="as-published")
    assert published.network == "vq-f4"
    assert published.learning_rate == pytest.approx(published.batch_size * 4.5e-6)
    assert (published.perceptual_weight, published.adversarial_weight, published.codebook_weight) == (1.0, 0.75, 1.0)
    assert (published.adversarial_start, published.judging_interval, published.betas) == (0, 1, (0.5, 0.9))
    assert (published.codebook_start, published.revive_interval, published.decay) == ("uniform", None, 0.0)
    assert FirstStageParameters(setting="as-published", steps=7).steps == 7


def test_every_network_can_be_asked_for_and_no_other():
    assert [FirstStageParameters(network=name).network for name in NETWORKS] == list(NETWORKS)
    with pytest.raises(ValidationError, match="vq-f8"):
        FirstStageParameters(network="vq-f8")


def test_results_depend_on_the_file_or_on_the_perceptual_network(tmp_path, monkeypatch):
    import hashlib

    from harness.weights import locate as weights

    monkeypatch.setattr(weights, "perceptual_weights", lambda: None)
    assert FirstStageParameters(perceptual_weight=1.0).environment_key() == {"perceptual-network": "none"}
    assert FirstStageParameters(perceptual_weight=0.0).environment_key() == {}
    save(tiny(), tmp_path / "own.safetensors")
    file = str(tmp_path / "own.safetensors")
    digest = hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest()
    assert FirstStageParameters(file=file).environment_key() == {"first-stage": digest}
    with pytest.raises(WeightsError, match=r"missing\.safetensors cannot be read"):
        FirstStageParameters(file=str(tmp_path / "missing.safetensors")).environment_key()
