import hashlib
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional
from torchmetrics.functional.image import lpips as reference
from torchvision.models.vgg import cfgs, make_layers

from harness.data.phantom import render
from harness.errors import WeightsError
from harness.learning import perceptual
from harness.learning.perceptual import CONVOLUTIONS, VGG, load_vgg, perceptual_network, read_keras_layers
from harness.weights import locate as weights
from harness.weights.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD
from harness.weights.encoders import encoder_weights

INSTALLED = weights.find("vgg16-edges")  # on the developer's machine, before the tests move the harness's home


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine without weights in any cache but those in installed packages, and without a network."""
    for variable, folder in (("HARNESS_HOME", "home"), ("TORCH_HOME", "torch"), ("HF_HOME", "hub")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: pytest.fail(f"the network was asked for {where}"))


def torchvision_layers(network, seed=0):
    """The layers of torchvision's network, with activations of about 1 everywhere."""
    layers = make_layers(cfgs[{"vgg16": "D", "vgg19": "E"}[network]], batch_norm=False).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            spread = (2 / (9 * layer.in_channels)) ** 0.5
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * spread)
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=draw) / 4)
    return layers


@pytest.fixture(scope="module")
def vgg16():
    return torchvision_layers("vgg16")


def pin(monkeypatch, name, file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pinned = replace(CATALOGUE[name].files[0], sha256=digest)
    monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], files=(pinned,)))


@pytest.fixture
def put_vgg16(vgg16, tmp_path, monkeypatch):
    """Puts torchvision's file, or its first numbers, where the torch hub keeps it."""
    file = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"

    def put(last=28):
        state = {f"features.{key}": tensor for key, tensor in vgg16.state_dict().items()}
        kept = {key: tensor for key, tensor in state.items() if int(key.split(".")[1]) <= last}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(kept, file)
        pin(monkeypatch, "vgg16-imagenet", file)
        return file

    yield put
    file.unlink(missing_ok=True)  # up to 59 MB, which pytest would keep


def write_keras(path, widths, seed=0):
    """Write a file as Keras does: of each convolution the kernel (height, width, in, out) and the bias."""
    draw = np.random.default_rng(seed)
    arrays = []
    with h5py.File(path, "w") as file:
        inputs = 3
        for block, outputs in enumerate(widths, start=1):
            for number, outs in enumerate(outputs):
                place = f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"
                kernel = draw.normal(0, (2 / (9 * inputs)) ** 0.5, (3, 3, inputs, outs)).astype(np.float32)
                bias = draw.normal(0, 0.25, outs).astype(np.float32)
                file[f"{place}/0"], file[f"{place}/1"] = kernel, bias
                arrays.append((kernel, bias))
                inputs = outs
            file.create_group(f"block{block}/layers/max_pooling2d/vars")
            file[f"dsn{block}/vars/0"] = np.zeros((1, 1, inputs, 1), np.float32)
    return arrays


@pytest.fixture
def put_edges(tmp_path, monkeypatch):
    """Adds a file of the first two blocks as the edge network's."""

    def put():
        arrays = write_keras(tmp_path / "edges.h5", [(64, 64), (128, 128)])
        pin(monkeypatch, "vgg16-edges", tmp_path / "edges.h5")
        weights.add("vgg16-edges", tmp_path / "edges.h5")
        return arrays

    return put


def images(count=2, height=32, width=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear") * 2 - 1
    return (smooth + torch.randn(count, 3, height, width, generator=draw) / 10).clamp(-1, 1)


@pytest.fixture
def torchmetrics_lpips(vgg16, monkeypatch):
    """The other implementation, with our VGG16 in the place of the one that it would download."""
    monkeypatch.setattr(torchvision.models, "vgg16", lambda **_: pytest.fail("a network was built"))
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda name, pretrained: {"vgg16": vgg16}[name])
    return reference


def test_with_the_pinned_weights_it_is_lpips(put_vgg16, torchmetrics_lpips):
    put_vgg16()
    network = perceptual_network()
    assert (network.name, network.standard, network.note) == ("LPIPS-VGG16", True, "")
    one, other = images(3, 48, 32), images(3, 48, 32, seed=1)
    expected = torchmetrics_lpips.learned_perceptual_image_patch_similarity(one, other, "vgg", reduction="none")
    distances = network(one, other)
    assert distances.shape == (3,)
    assert distances.min() > 0.01
    torch.testing.assert_close(distances, expected, rtol=2e-5, atol=0)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("blocks", "last"), [(1, 2), (2, 7), (4, 21)])
def test_fewer_blocks_are_the_first_terms_of_the_sum_and_not_called_lpips(put_vgg16, torchmetrics_lpips, blocks, last):
    put_vgg16(last)  # the deeper ones are not even read
    network = perceptual_network(blocks=blocks)
    one, other = images(), images(seed=1)
    _, terms = torchmetrics_lpips._LPIPS(net="vgg")(one, other, retperlayer=True)
    torch.testing.assert_close(network(one, other), sum(terms[:blocks]).flatten(), rtol=2e-5, atol=0)
    assert network.name == f"LPIPS-VGG16, {blocks} of 5 blocks"
    assert not network.standard
    assert network.name in network.note
    assert "not LPIPS" in network.note


def explicit_distance(arrays, one, other):
    """The unweighted distance of the edge network's first two blocks, for one image each, as its program takes them."""

    def taps(image):
        bgr = (image[0].double().numpy().transpose(1, 2, 0)[..., ::-1] + 1) * 127.5
        features = bgr - np.array([104.00699, 116.66877, 122.67892])
        for number, (kernel, bias) in enumerate(arrays):
            if number == 2:
                height, width, channels = features.shape
                features = features[: height // 2 * 2, : width // 2 * 2]
                features = features.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))
            padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
            features = np.maximum(np.einsum("yxcij,ijco->yxo", windows, kernel, optimize=True) + bias, 0)
            if number % 2:
                yield features

    total = 0.0
    for a, b in zip(taps(one), taps(other), strict=True):
        a, b = (features / np.linalg.norm(features, axis=2, keepdims=True) for features in (a, b))
        total += ((a - b) ** 2).sum(axis=2).mean()
    return total


def test_without_them_it_is_the_unweighted_distance_of_the_edge_network(put_edges):
    arrays = put_edges()
    network = perceptual_network(blocks=2)
    one, other = images(2, 17, 22), images(2, 17, 22, seed=1)
    expected = [explicit_distance(arrays, one[i : i + 1], other[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(network(one, other).double(), torch.tensor(expected).double(), rtol=1e-4, atol=0)


def test_which_network_is_used_and_what_reports_say(put_vgg16, put_edges):
    assert perceptual_network() is None
    assert "harness weights fetch vgg16-edges" in perceptual.NO_NETWORK
    put_edges()
    edges = perceptual_network(blocks=2)
    assert edges.name == "unweighted vgg16-edges, 2 of 5 blocks"
    assert not edges.standard
    assert "trained on to detect edges" in edges.note
    assert "not LPIPS" in edges.note
    file = put_vgg16(7)
    assert perceptual_network(blocks=2).name == "LPIPS-VGG16, 2 of 5 blocks"
    named = perceptual_network(blocks=2, name="vgg16-edges")
    assert (named.name, named.note) == (edges.name, edges.note)
    file.unlink()
    assert perceptual_network(blocks=2).name == edges.name
    with pytest.raises(WeightsError, match="harness weights fetch vgg16-imagenet"):
        perceptual_network(name="vgg16-imagenet")


def test_a_vgg16_of_the_users_has_no_learned_weights_and_another_name(put_vgg16, put_edges, monkeypatch):
    put_edges()
    published = CATALOGUE["vgg16-imagenet"]
    file = put_vgg16()
    monkeypatch.setitem(CATALOGUE, "vgg16-imagenet", published)
    kept = weights.add("vgg16-imagenet", file)
    assert not kept.pinned
    network = perceptual_network(blocks=2)
    kept.path.unlink()
    assert network.name == "unweighted vgg16-imagenet, 2 of 5 blocks"
    assert not network.standard
    assert "not pinned" in network.note
    one, other = images(), images(seed=1)
    sides = zip(network.features(one).values(), network.features(other).values(), strict=True)
    expected = sum((functional.normalize(a) - functional.normalize(b)).square().sum(1).mean((1, 2)) for a, b in sides)
    torch.testing.assert_close(network(one, other), expected)


def test_the_same_file_serves_the_segmentation_encoder(put_vgg16, vgg16):
    put_vgg16()
    found = encoder_weights("vgg16")
    assert found.state_dict.keys() == {f"features.{key}" for key in vgg16.state_dict()}
    assert torch.equal(found.state_dict["features.28.weight"], vgg16[28].weight)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_torchmetrics_holds_the_published_heads_and_is_not_imported():
    script = (
        "import sys; from harness.learning.perceptual import _lpips_heads; "
        "print([tuple(head.shape) for head in _lpips_heads()], 'torchmetrics' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split(" False")[0] == str([(1, width, 1, 1) for width in (64, 128, 256, 512, 512)])
    held = Path(reference.__file__).parent / "lpips_models" / "vgg.pth"
    published = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # of richzhang/PerceptualSimilarity
    assert hashlib.sha256(held.read_bytes()).hexdigest() == published


def test_it_is_a_distance(put_edges):
    put_edges()
    network = perceptual_network(blocks=2)
    one, other = images(4), images(4, seed=1)
    distances = network(one, other)
    assert distances.dtype == torch.float32
    assert (distances > 0.01).all()
    torch.testing.assert_close(network(other, one), distances)
    assert torch.equal(network(one, one), torch.zeros(4))
    torch.testing.assert_close(network(one[2:3], other[2:3]), distances[2:3])
    torch.testing.assert_close(network(one.contiguous(memory_format=torch.channels_last), other), distances)


def test_gradients_reach_the_image_and_not_the_weights(put_edges):
    put_edges()
    network = perceptual_network(blocks=2)
    one, other = images().requires_grad_(), images(seed=1)
    before = network(one, other)
    before.sum().backward()
    assert one.grad.abs().sum(dim=(1, 2, 3)).min() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    nearer = one.detach() - 0.01 * one.grad / one.grad.abs().mean()
    assert (network(nearer, other) < before).all()


def test_the_other_side_may_be_features_that_were_made_once(put_edges):
    put_edges()
    network = perceptual_network(blocks=2)
    one, other = images().requires_grad_(), images(seed=1)
    made = network.features(other)
    assert list(made) == ["relu1_2", "relu2_2"]
    assert not any(tensor.requires_grad for tensor in made.values())
    network(one, made).sum().backward()
    from_features, one.grad = one.grad, None
    network(one, other).sum().backward()
    assert torch.equal(from_features, one.grad)


@pytest.mark.parametrize("scale", [0, 1e-5])
def test_faint_features_count_as_in_torchmetrics(scale):
    network = VGG((1,), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    draw = torch.Generator().manual_seed(0)
    network.load([(torch.randn(64, 3, 3, 3, generator=draw) * scale, torch.zeros(64))])
    one, other = images().requires_grad_(), images(seed=1)
    distances = perceptual.PerceptualNetwork(network, None, "faint", "")(one, other)
    features = (network(side, ["relu1_1"])["relu1_1"] for side in (one, other))
    mine, others = (reference._normalize_tensor(side) for side in features)
    torch.testing.assert_close(distances, (mine - others).square().sum(dim=1).mean(dim=(1, 2)))
    distances.sum().backward()
    assert one.grad.isfinite().all()


def test_autocast_changes_little_and_sums_in_float32(put_edges):
    put_edges()
    network = perceptual_network(blocks=2)
    one, other = images(), images(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        mine, others = network.features(one), network.features(other)
        distances = network(one, other)
    assert {features.dtype for features in mine.values()} == {torch.bfloat16}
    assert distances.dtype == torch.float32
    pairs = [(mine[layer].double(), others[layer].double()) for layer in network.layers]
    exact = [(functional.normalize(a) - functional.normalize(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]
    torch.testing.assert_close(distances.double(), sum(exact), rtol=1e-5, atol=0)
    torch.testing.assert_close(distances, network(one, other), rtol=0.02, atol=0)


def test_images_in_bfloat16_lose_nothing_more(put_edges):
    put_edges()
    network = perceptual_network(blocks=2)
    one, other = images().bfloat16(), images(seed=1).bfloat16()
    assert torch.equal(network(one, other), network(one.float(), other.float()))


# Where torchvision has these layers: the places that style transfer and LPIPS are usually written with.
PLACES = {
    "vgg16": {"conv1_1": 0, "relu1_2": 3, "conv2_2": 7, "relu3_3": 15, "conv4_1": 17, "relu5_3": 29},
    "vgg19": {"conv1_1": 0, "conv2_1": 5, "conv3_4": 16, "relu3_4": 17, "conv4_1": 19, "conv4_2": 21, "relu5_4": 35},
}


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_activations_by_layer_name(name):
    layers = torchvision_layers(name)
    network = VGG(CONVOLUTIONS[name], IMAGENET_MEAN, IMAGENET_STD)
    network.load([(layer.weight, layer.bias) for layer in layers if isinstance(layer, torch.nn.Conv2d)])
    pictures = images(2, 34, 17)
    made = network(pictures, list(reversed(PLACES[name])))
    assert list(made) == list(PLACES[name])
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = ((pictures + 1) / 2 - mean) / std
    for layer, place in PLACES[name].items():
        # A copy, since the ReLU behind a convolution works in place.
        expected = torch.nn.Sequential(*layers[: place + 1])(normalised.clone())
        torch.testing.assert_close(made[layer], expected, rtol=1e-4, atol=1e-5)


def test_the_file_of_vgg19(tmp_path, monkeypatch):
    layers = torchvision_layers("vgg19")[:18]
    file = tmp_path / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    torch.save({f"features.{key}": tensor for key, tensor in layers.state_dict().items()}, file)
    pin(monkeypatch, "vgg19-imagenet", file)
    network = load_vgg(weights.required("vgg19-imagenet", "a test fails"), blocks=3)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    found = network(torch.zeros(1, 3, 32, 32), ["relu3_4"])["relu3_4"]
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(found, layers(((0.5 - mean) / std).expand(1, 3, 32, 32)), rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match=r"vgg19-dcbb9e9d\.pth is not a file of a VGG .*features\.19\.weight"):
        load_vgg(weights.find("vgg19-imagenet"))
    file.unlink()


def test_nothing_behind_the_last_layer_is_computed():
    network = VGG((2, 2), IMAGENET_MEAN, IMAGENET_STD)
    network.convolutions["2_2"].forward = lambda _: pytest.fail("it was computed")
    assert list(network(images(), ["relu2_1", "conv1_2"])) == ["conv1_2", "relu2_1"]


def test_keras_kernels_are_turned_for_rgb_channels_first(tmp_path):
    arrays = write_keras(tmp_path / "tiny.h5", [(4, 5), (6,)])
    layers = read_keras_layers(tmp_path / "tiny.h5", (2, 1))
    assert [tuple(weight.shape) for weight, _ in layers] == [(4, 3, 3, 3), (5, 4, 3, 3), (6, 5, 3, 3)]
    for (weight, bias), (kernel, expected) in zip(layers, arrays, strict=True):
        assert torch.equal(bias, torch.from_numpy(expected))
        first = weight.shape[1] == 3
        for o, i, y, x in np.ndindex(*weight.shape):
            assert weight[o, i, y, x] == kernel[y, x, 2 - i if first else i, o]


def test_files_of_other_networks_are_refused(tmp_path):
    write_keras(tmp_path / "tiny.h5", [(4, 5)])
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(WeightsError, match=r"tiny\.h5 is not a Keras file .*: block2/layers/conv2d/vars is missing"):
        read_keras_layers(tmp_path / "tiny.h5", (2, 1))
    with pytest.raises(WeightsError, match=r"text\.h5 is not a Keras file of a VGG network; name"):
        read_keras_layers(tmp_path / "text.h5", (2,))
    network = VGG((2,), IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(WeightsError, match="it has 2 convolutions, they are 2 or of other shapes"):
        network.load(read_keras_layers(tmp_path / "tiny.h5", (2,)))


@pytest.mark.parametrize(("shape", "blocks"), [((1, 3, 15, 40), 5), ((1, 1, 32, 32), 1), ((3, 32, 32), 1)])
def test_images_of_other_shapes_are_refused(shape, blocks):
    network = VGG(CONVOLUTIONS["vgg16"][:blocks], IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(ValueError, match=r"got \(.*give larger images or take fewer blocks"):
        network(torch.zeros(shape), ["conv1_1"])


def test_layers_and_blocks_that_do_not_exist(put_edges):
    put_edges()
    network = VGG((2, 2), IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(ValueError, match="no layer pool1, relu3_1; there are conv1_1, conv1_2, conv2_1, conv2_2"):
        network(images(), ["relu1_1", "relu3_1", "pool1"])
    for blocks in (0, 6):
        with pytest.raises(ValueError, match=f"got blocks={blocks}"):
            perceptual_network(blocks=blocks)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.skipif(INSTALLED is None, reason="needs the file of `harness weights fetch vgg16-edges`")
def test_the_published_edge_network_finds_a_blurred_picture_nearer_than_another(size, monkeypatch):
    assert INSTALLED.pinned
    assert sum(CONVOLUTIONS["vgg16"]) == len(read_keras_layers(INSTALLED.path, CONVOLUTIONS["vgg16"])) == 13
    monkeypatch.setattr(perceptual, "perceptual_weights", lambda: INSTALLED)
    network = perceptual_network()
    drawn = np.stack([render(0, index, size)[0] for index in (0, 40, 80, 120)])
    pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
    blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    assert (network(pictures, blurred) < network(pictures, pictures.roll(1, dims=0))).all()
    assert network.name == "unweighted vgg16-edges"
