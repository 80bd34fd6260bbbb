"""Style transfer: the published arithmetic, images that do not feel each other, and what it does without weights."""

import hashlib
import socket
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from generators.style_transfer import StyleTransfer, padded
from generators.style_transfer import network as style_transfer_network
from generators.style_transfer.network import (
    GramLoss,
    Objective,
    StyleOptimisation,
    gram_matrices,
    layer_in,
    random_vgg,
    resized,
)
from harness.conformance import drawn_pairs
from harness.data.pairs import PairSet
from harness.engine.stages.pool import PoolResult
from harness.engine.stages.refine import RefineStage
from harness.errors import HarnessError, OutOfMemory, WeightsError
from harness.learning.perceptual import VGG
from harness.learning.work_folder import WorkFolder
from harness.plugins.contract import SampleContext
from harness.weights import locate as weights
from harness.weights.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")
# Shallow, so that a test takes no time: the first three blocks, whose places in torchvision's VGG19 are these.
PLACES = {"conv1_1": 0, "conv2_1": 5, "conv3_1": 10}
STYLE_LAYERS = {"conv1_1": 0.75, "conv2_1": 0.5, "conv3_1": 0.25}
SHALLOW = {"network": "random", "content_layer": "conv3_1", "style_layers": STYLE_LAYERS, "precision": "float32"}


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine without weights, and without a network."""
    for variable, folder in (("HARNESS_HOME", "home"), ("TORCH_HOME", "torch"), ("HF_HOME", "hub")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: pytest.fail(f"the network was asked for {where}"))


def synthetic_and_sources(count=7, size=32, shared=()):
    """Pairs to refine and as many real ones; ``shared`` gives the number of the real pair of each instead."""
    drawn, real = drawn_pairs(count, size, seed=1), drawn_pairs(24, size)
    names = tuple(f"made/{i}" for i in range(count))
    synthetic = PairSet(255 - drawn.images, drawn.masks, names, names, (real.seen(),) * count)
    return synthetic, real.take(shared or range(count))


def refine(synthetic, sources, batch_size=64, **values):
    context = SampleContext(CPU, drawn_pairs(24, 32), batch_size)
    return StyleTransfer.create(**SHALLOW | values).refine(synthetic, sources, np.arange(len(synthetic)), context)


def published(**changes):
    """The optimisation with the published arithmetic, whatever the weights."""
    made = StyleTransfer.create(**SHALLOW).optimisation((32, 32), CPU)
    made.objective = replace(made.objective, relative=False, **changes)
    return made


# An implementation of paper B's code by its description: one image, torchvision's layers, whose ReLU works in place.


def torchvision_layers():
    layers = make_layers(cfgs["E"], batch_norm=False)[:18].eval().requires_grad_(False)
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for layer, drawn in zip(convolutions, random_vgg(3).convolutions.values(), strict=True):
        layer.load_state_dict(drawn.state_dict())
    return layers


def described_features(layers, image, before_relu=False):
    found = {}
    for place, layer in enumerate(layers[: PLACES["conv3_1"] + 2]):
        image = layer(image)
        for name, wanted in PLACES.items():
            if place == wanted:
                found[name] = image.clone() if before_relu else image
    return found


def described_losses(layers, image, content, style, before_relu=False):
    """Content and style loss of one image (1, 3, H, W), all three normalised."""
    made, kept, wanted = (described_features(layers, each, before_relu) for each in (image, content, style))
    content_loss = functional.mse_loss(made["conv3_1"], kept["conv3_1"])
    style_loss = 0
    for name, weight in STYLE_LAYERS.items():
        n, c, h, w = made[name].shape
        grams = [each[name].reshape(n * c, h * w) @ each[name].reshape(n * c, h * w).T for each in (made, wanted)]
        style_loss = style_loss + weight * functional.mse_loss(*grams) / (n * c * h * w)
    return content_loss, style_loss


def described_transfer(layers, image, source, content, style, steps):
    mean, std = (torch.tensor(colour).reshape(1, 3, 1, 1) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    first, other = ((torch.tensor(p).permute(2, 0, 1)[None] / 255 - mean) / std for p in (image, source))
    made = first.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([made], lr=0.01)
    for _ in range(steps):
        kept, taken = described_losses(layers, made, first, other)
        optimiser.zero_grad()
        (content * kept + style * taken).backward()
        optimiser.step()
    return (made.detach() * std + mean).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("features", ["after-relu", "before-relu"])
def test_losses_are_the_published_ones(features):
    synthetic, sources = synthetic_and_sources(3)
    optimisation = published()
    after = StyleTransfer.create(**SHALLOW, features=features).objective("vgg19-imagenet")
    optimisation.objective = after
    pictures = (drawn_pairs(3, 32, 5).images, synthetic.images, sources.images)
    images, contents, styles = map(optimisation.normalised, pictures)
    content = optimisation.features(contents)[after.content_layer]
    kept, taken = optimisation.losses(optimisation.features(images), content, optimisation.style(styles))
    layers = torchvision_layers()
    for i in range(3):
        expected = described_losses(
            layers, images[i : i + 1], contents[i : i + 1], styles[i : i + 1], before_relu=features == "before-relu"
        )
        torch.testing.assert_close(torch.stack([kept[i], taken[i]]), torch.stack(expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("content", "style"), [(1, 1000), (1, 0.02), (0, 1)])
def test_images_are_those_of_the_description_one_at_a_time(content, style):
    """Sums over a batch change nothing: every image is as when it is optimised alone."""
    synthetic, sources = synthetic_and_sources(2)
    optimisation = published(content=content, style=style)
    styles = optimisation.style(optimisation.normalised(sources.images))
    made = optimisation.to_bytes(optimisation.run(optimisation.normalised(synthetic.images), styles, 12, 0.01))
    layers = torchvision_layers()
    for i in range(2):
        expected = described_transfer(layers, synthetic.images[i], sources.images[i], content, style, 12)
        assert np.abs(expected - synthetic.images[i]).mean() > 2  # or there would be nothing to compare
        difference = np.abs(made[i] - expected)
        # Steps of Adam turn the sign of a gradient near 0 into a whole step, so a few pixels go their own way.
        assert np.quantile(difference, 0.99) < 1.5
        assert difference.mean() < 0.4


def test_gradients_of_gram_losses():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    wanted = gram_matrices(torch.randn(2, 3, 2, 7, generator=draw, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: GramLoss.apply(x, wanted), features)
    flat = features.flatten(2)
    expected = (flat @ flat.transpose(1, 2) - wanted).square().sum(dim=(1, 2))
    torch.testing.assert_close(GramLoss.apply(features, wanted), expected)


def test_relative_losses_do_not_know_the_scale_of_features():
    synthetic, sources = synthetic_and_sources(2)

    def losses(factor, relative):
        network = random_vgg(3)
        network.convolutions["1_1"].weight.mul_(factor)  # biases are 0, so all features grow alike
        objective = Objective(1, 1, "relu3_1", (("relu1_1", 0.75), ("relu3_1", 0.25)), relative)
        optimisation = StyleOptimisation(network, objective, CPU, bfloat16=False)
        content = optimisation.features(optimisation.normalised(synthetic.images))["relu3_1"]
        style = optimisation.style(optimisation.normalised(sources.images))
        images = optimisation.normalised(drawn_pairs(2, 32, 5).images)
        return torch.stack(optimisation.losses(optimisation.features(images), content, style))

    torch.testing.assert_close(losses(8, True), losses(1, True), rtol=1e-4, atol=0)
    expected = losses(1, False) * torch.tensor([8.0**2, 8.0**4])[:, None]
    torch.testing.assert_close(losses(8, False), expected, rtol=1e-4, atol=0)
    assert (losses(1, True) != losses(1, False)).all()


def test_relative_losses_of_features_that_have_a_mean_square_of_one_are_the_published_ones():
    optimisation = StyleTransfer.create(**SHALLOW).optimisation((32, 32), CPU)
    assert optimisation.objective.relative
    pictures = optimisation.normalised(drawn_pairs(2, 32).images)
    style = optimisation.style(pictures)
    layers = ("relu3_1", "relu1_1", "relu2_1", "relu3_1")
    found = optimisation.features(pictures)
    expected = torch.stack([found[layer].square().mean(dim=(1, 2, 3)) for layer in layers], dim=1)
    torch.testing.assert_close(style.powers, expected)
    assert torch.equal(published().style(pictures).powers, torch.ones(2, 4))


def test_pixels_survive_the_way_in_and_out():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    optimisation = published()
    assert np.array_equal(optimisation.to_bytes(optimisation.normalised(every)), every)
    assert np.array_equal(optimisation.to_bytes(torch.full((1, 3, 2, 2), 99.0)), np.full((1, 2, 2, 3), 255))


def test_an_image_is_the_same_alone_in_any_batch_and_in_any_order():
    synthetic, sources = synthetic_and_sources(7)
    together = refine(synthetic, sources, steps=5, images_at_once=4).images
    for positions in ([0], [6, 2], [6, 5, 4, 3, 2, 1, 0]):
        alone = refine(synthetic.take(positions), sources.take(positions), batch_size=1, steps=5, images_at_once=4)
        assert np.array_equal(alone.images, together[positions])
    assert not np.array_equal(together, synthetic.images)


def test_networks_see_batches_of_one_size_only(monkeypatch):
    seen = []
    features = StyleOptimisation.features
    monkeypatch.setattr(
        StyleOptimisation, "features", lambda self, images: seen.append(len(images)) or features(self, images)
    )
    refine(*synthetic_and_sources(7), steps=2, images_at_once=4)
    assert seen == [4] * 6  # two chunks: the styles, then two steps
    assert padded(np.arange(3), 5).tolist() == [0, 1, 2, 2, 2]


def test_a_source_that_pairs_share_is_looked_at_once(monkeypatch):
    shared = (1, 0, 1, 0, 1, 0)
    synthetic, sources = synthetic_and_sources(6, shared=shared)
    looked_at = []
    style = StyleOptimisation.style

    def counted(self, images):
        looked_at.append(self.to_bytes(images))
        return style(self, images)

    monkeypatch.setattr(StyleOptimisation, "style", counted)
    made = refine(synthetic, sources, steps=3, images_at_once=2).images
    # Chunks are (0, 0), (0, 1) and (1, 1).
    assert len(looked_at) == 2
    for images, number in zip(looked_at, (0, 1), strict=True):
        assert all(np.array_equal(image, drawn_pairs(24, 32).images[number]) for image in images)
    for i in range(6):
        alone = refine(synthetic.take([i]), sources.take([i]), steps=3, images_at_once=2).images
        assert np.array_equal(made[i], alone[0])


def test_the_style_loss_falls_and_content_holds_it_up():
    synthetic, sources = synthetic_and_sources(2)

    def after(content, steps=30):
        optimisation = published(content=content, style=1.0)
        images = optimisation.normalised(synthetic.images)
        style = optimisation.style(optimisation.normalised(sources.images))
        made = optimisation.run(images, style, steps, 0.01)
        kept = optimisation.features(images)["relu3_1"]
        return torch.stack(optimisation.losses(optimisation.features(made), kept, style))

    (start, first), (moved, free), (held, bound) = after(1, steps=0), after(0), after(1e6)
    assert (start == 0).all()
    assert (free < first / 2).all()
    assert (bound > 1.5 * free).all()
    assert (held < moved / 2).all()


def test_without_a_style_an_image_stays_as_it_is():
    synthetic, sources = synthetic_and_sources(3)
    for precision in ("float32", "bfloat16"):
        assert np.array_equal(
            refine(synthetic, sources, style=0, steps=5, precision=precision).images, synthetic.images
        )


def test_masks_stay_and_each_pair_names_its_source():
    synthetic, _ = synthetic_and_sources(3)
    sources = drawn_pairs(3, 48, seed=3)
    made = refine(synthetic, sources, steps=2)
    assert np.array_equal(made.masks, synthetic.masks)
    assert made.images.shape == synthetic.images.shape
    assert made.sources == tuple((name,) for name in sources.ids)


def test_a_source_of_another_size_is_resized_by_averaging():
    stripes = (torch.arange(64) % 4 == 0).float().expand(1, 1, 64, 64)
    made = resized(stripes, (32, 16))
    assert made.shape == (1, 1, 32, 16)
    torch.testing.assert_close(made[..., 1:-1], torch.full((1, 1, 32, 14), 0.25), atol=0.1, rtol=0)


def test_bfloat16_computes_the_network_only():
    synthetic, sources = synthetic_and_sources(3)
    told = []
    for bfloat16 in (False, True):
        optimisation = published()
        optimisation.bfloat16 = bfloat16
        style = optimisation.style(optimisation.normalised(sources.images))
        features = optimisation.features(optimisation.normalised(synthetic.images))
        kept, taken = optimisation.losses(features, torch.zeros(()), style)
        assert {each.dtype for each in features.values()} == {torch.bfloat16 if bfloat16 else torch.float32}
        assert {each.dtype for each in (*style.grams, style.powers, kept, taken)} == {torch.float32}
        told.append(torch.stack([kept, taken]))
    torch.testing.assert_close(told[1], told[0], rtol=0.05, atol=0)
    assert not torch.equal(told[1], told[0])


@pytest.mark.parametrize(("asked", "instructions", "bfloat16"), [
    ("auto", True, True), ("auto", False, False), ("float32", True, False), ("bfloat16", False, True),
])  # fmt: skip
def test_precision(asked, instructions, bfloat16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": instructions})
    assert StyleTransfer.create(**SHALLOW | {"precision": asked}).optimisation((32, 32), CPU).bfloat16 == bfloat16


def test_layers_of_a_network_with_fewer():
    assert layer_in("vgg19-imagenet", "conv3_4", True) == "relu3_4"
    assert layer_in("vgg16-edges", "conv3_4", True) == "relu3_3"
    assert layer_in("vgg16-imagenet", "conv5_1", False) == "conv5_1"
    assert layer_in("vgg16-imagenet", "conv2_2", False) == "conv2_2"


def test_the_defaults_are_those_of_paper_b():
    objective = StyleTransfer.create().objective("vgg19-imagenet")
    layers = (("relu1_1", 0.75), ("relu2_1", 0.5), ("relu3_1", 0.25), ("relu4_1", 0.25), ("relu5_1", 0.25))
    assert objective == Objective(1, 1000, "relu5_1", layers, relative=False)
    assert objective.layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    parameters = StyleTransfer.create().parameters
    assert (parameters.steps, parameters.learning_rate) == (1000, 0.01)


@pytest.mark.parametrize(("values", "said"), [
    ({"content": 0, "style": 0}, "both 0"),
    ({"style_layers": {"conv1_1": -1}}, "must not be below 0"),
    ({"style_layers": {"conv1_3": 1}}, "conv1_2"),
    ({"style_layers": {}}, "at least 1"),
])  # fmt: skip
def test_parameters_that_make_no_sense(values, said):
    with pytest.raises(ValidationError, match=said):
        StyleTransfer.create(**values)


def test_images_that_are_too_small():
    synthetic, sources = synthetic_and_sources(2, size=8)
    with pytest.raises(HarnessError, match="at least 16 pixels a side for layers of block 5, and these are 8 x 8; set"):
        StyleTransfer.create(network="random").refine(
            synthetic, sources, np.arange(2), SampleContext(CPU, drawn_pairs(2, 8))
        )
    assert refine(synthetic, sources, steps=1).images.shape == (2, 8, 8, 3)


def test_out_of_memory_names_the_batch(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(StyleOptimisation, "run", full)
    with pytest.raises(OutOfMemory, match=r"on cpu for a batch of 5 images of 32 x 32 px .* smaller images_at_once"):
        refine(*synthetic_and_sources(2), images_at_once=5)
    monkeypatch.setattr(StyleOptimisation, "run", lambda *_: [][0])
    with pytest.raises(IndexError):
        refine(*synthetic_and_sources(2))


# Weights


def put_vgg19(tmp_path, monkeypatch, name="vgg19-imagenet", file_name="vgg19-dcbb9e9d.pth"):
    """Put the first three blocks of random weights where the torch hub keeps them, and pin the file."""
    file = tmp_path / "torch" / "hub" / "checkpoints" / file_name
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{key}": tensor for key, tensor in torchvision_layers().state_dict().items()}, file)
    pin(monkeypatch, name, file)


def put_edges(tmp_path, monkeypatch):
    """Add the first block of an edge network, written as Keras does."""
    with h5py.File(tmp_path / "edges.h5", "w") as file:
        for place, inputs in (("conv2d", 3), ("conv2d_1", 64)):
            drawn = np.random.default_rng(inputs).normal(0, 0.1, (3, 3, inputs, 64)).astype(np.float32)
            file[f"block1/layers/{place}/vars/0"] = drawn
            file[f"block1/layers/{place}/vars/1"] = np.zeros(64, np.float32)
    pin(monkeypatch, "vgg16-edges", tmp_path / "edges.h5")
    weights.add("vgg16-edges", tmp_path / "edges.h5")


def pin(monkeypatch, name, file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pinned = replace(CATALOGUE[name].files[0], sha256=digest)
    monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], files=(pinned,)))


def test_the_published_network_is_taken_when_it_is_here(tmp_path, monkeypatch):
    put_edges(tmp_path, monkeypatch)
    put_vgg19(tmp_path, monkeypatch)
    plugin = StyleTransfer.create(**SHALLOW | {"network": "auto"})
    assert plugin.notes() == []
    assert plugin.weights() == ()
    assert plugin.environment_key() == {"style-network": weights.find("vgg19-imagenet").sha256}
    assert not plugin.optimisation((32, 32), CPU).objective.relative
    # The file holds the random weights, which without a name would count relative.
    pictures = published().normalised(drawn_pairs(2, 32).images)
    made = plugin.optimisation((32, 32), CPU).style(pictures)
    for one, other in zip(made.grams, published().style(pictures).grams, strict=True):
        torch.testing.assert_close(one, other)


def test_the_edge_network_stands_in_and_says_so(tmp_path, monkeypatch):
    put_edges(tmp_path, monkeypatch)
    plugin = StyleTransfer.create(content_layer="conv1_2", style_layers={"conv1_1": 1}, steps=2)
    synthetic, sources = synthetic_and_sources(2)
    made = plugin.refine(synthetic, sources, np.arange(2), SampleContext(CPU, sources))
    assert not np.array_equal(made.images, synthetic.images)
    (note,) = plugin.notes()
    assert note.startswith("Style transfer took the network vgg16-edges (a VGG16 that was trained on to detect edges")
    assert "in place of the pinned file of vgg19-imagenet" in note
    assert plugin.weights() == ()
    assert plugin.environment_key() == {"style-network": weights.find("vgg16-edges").sha256}
    assert plugin.optimisation((32, 32), CPU).objective.relative


def test_the_nearest_network_in_torchvisions_form(tmp_path, monkeypatch):
    put_edges(tmp_path, monkeypatch)
    put_vgg19(tmp_path, monkeypatch, "vgg16-imagenet", "vgg16-397923af.pth")
    (note,) = StyleTransfer.create().notes()
    assert "the network vgg16-imagenet (" in note
    assert "edges" in StyleTransfer.create(network="vgg16-edges").notes()[0]
    assert not StyleTransfer.create().objective("vgg16-imagenet").relative


def test_without_any_network():
    synthetic, sources = synthetic_and_sources(2)
    for asked, name in (("auto", "vgg19-imagenet"), ("vgg16-imagenet", "vgg16-imagenet")):
        plugin = StyleTransfer.create(network=asked)
        said = f"'{name}'.* not on this machine.*harness weights fetch vgg16-edges"
        with pytest.raises(WeightsError, match=said) as told:
            plugin.refine(synthetic, sources, np.arange(2), SampleContext(CPU, sources))
        assert len(str(told.value).splitlines()) == 1
        assert plugin.notes() == []
        assert plugin.environment_key() == {"style-network": "none"}
    assert StyleTransfer.create().weights() == ("vgg16-edges",)
    assert StyleTransfer.create(network="vgg16-imagenet").weights() == ("vgg16-imagenet",)


def test_random_weights_are_always_the_same_and_said(monkeypatch):
    plugin = StyleTransfer.create(network="random")
    assert (plugin.weights(), plugin.environment_key()) == ((), {})
    assert "random weights" in plugin.notes()[0]
    torch.manual_seed(1)
    one = random_vgg(2).convolutions.state_dict()
    torch.manual_seed(2)
    other = random_vgg(2).convolutions.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert isinstance(style_transfer_network.network_of(None, 1), VGG)


def test_the_stage_notes_which_network_was_taken(tmp_path):
    synthetic, sources = synthetic_and_sources(2)
    synthetic.save(tmp_path / "pool" / "pairs")
    (tmp_path / "pool" / "provenance.json").write_text("{}")
    stage = SimpleNamespace(
        plugin=lambda kind: StyleTransfer.create(**SHALLOW | {"steps": 1}),
        input=lambda name: PoolResult(tmp_path / "pool"),
        dataset=SimpleNamespace(first=lambda count, seed: sources),
        parameters={"real": None, "order-seed": 0},
        seed=0,
        context=WorkFolder(tmp_path / "stage", CPU, 0),
        folder=tmp_path / "stage",
        sample_context=lambda pairs: SampleContext(CPU, pairs),
    )
    RefineStage.run(stage)
    assert stage.context.notes() == StyleTransfer.create(network="random").notes()
