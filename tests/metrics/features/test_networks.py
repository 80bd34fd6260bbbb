"""Feature networks by name, against the libraries' own networks with the same random weights: no download."""

import os
import re
import socket
import subprocess
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import WeightsEnum
from torchvision.transforms import functional

from harness.errors import DeclarationError, WeightsError
from harness.metrics.features import feature_network, networks
from harness.metrics.features.networks import network_named
from harness.weights import locate as weights


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine without weights in any cache, where nothing may be downloaded."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(weights, "_clean_fid_folder", lambda: tmp_path / "clean-fid")
    for module, name in ((socket, "getaddrinfo"), (subprocess, "Popen"), (torch.hub, "load_state_dict_from_url")):
        monkeypatch.setattr(module, name, lambda *a, **_: pytest.fail(f"{a} was asked"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images():
    def draw(side):
        return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 255

    return draw


def what_the_classifier_reads(model, classifier, images):
    seen = []
    model.get_submodule(classifier).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(images)
    return seen[0]


def lively(module):
    """Give batch normalisations the statistics of noise, so that the features tell images apart."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = None
    if layers:
        with torch.no_grad():
            module.train()(torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(2)))
    return module.eval()


def torchvision_model(name, **options):
    torch.manual_seed(0)
    return lively(torchvision.models.get_model(name, weights=None, **options))


def in_torch_hub(monkeypatch, tmp_path, name, states):
    """Put files where the torch hub keeps torchvision's weights, with names that end in their SHA-256, best first."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    official = torchvision.models.get_model_weights(name).DEFAULT.value
    members = {}
    for i, state in enumerate(states):
        torch.save(state, tmp_path / "fresh.pth")
        file = folder / f"{name}-{weights.sha256(tmp_path / 'fresh.pth')[:8]}.pth"
        (tmp_path / "fresh.pth").rename(file)
        value = type(official)(f"https://example.invalid/{file.name}", official.transforms, official.meta)
        members[f"V{i}"] = value
        members.setdefault("DEFAULT", value)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: WeightsEnum("Published", members))
    return [folder / value.url.rpartition("/")[2] for key, value in members.items() if key != "DEFAULT"]


CLASSIFIERS = {
    "resnet18": "fc",
    "mobilenet_v3_small": "classifier.3",
    "densenet121": "classifier",
    "mnasnet0_5": "classifier.1",
    "googlenet": "fc",
}


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_torchvisions_features_are_what_its_classifier_reads(monkeypatch, tmp_path, images, name):
    options = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    model = torchvision_model(name, **options)
    published = {
        re.sub(r"(denselayer\d+\.[a-z]+)([12])\.", r"\1.\2.", key): tensor for key, tensor in model.state_dict().items()
    }
    (file,) = in_torch_hub(monkeypatch, tmp_path, name, [published])
    network = network_named(f"torchvision:{name}")
    assert network.name == f"torchvision:{name} ({file.stem[-8:]})"
    assert network.side == 224
    pictures = images(224)
    scaled = functional.normalize(pictures / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = what_the_classifier_reads(model, CLASSIFIERS[name], scaled)
    torch.testing.assert_close(network.extract(pictures), expected.reshape(2, -1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_squeezenet_has_no_linear_layer_and_gives_its_last_map_averaged(tmp_path, images):
    model = torchvision_model("squeezenet1_1")
    torch.save(model.state_dict(), tmp_path / "squeeze.pth")
    pictures = images(224)
    scaled = functional.normalize(pictures / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = network_named("torchvision:squeezenet1_1@squeeze.pth").extract(pictures)
    torch.testing.assert_close(found, model.eval().features(scaled).mean(dim=(2, 3)))


@torch.no_grad()
def test_a_vision_transformer_is_built_for_the_size_of_its_weights(monkeypatch, tmp_path, images):
    def small(name, weights=None, image_size=224):
        return torchvision.models.VisionTransformer(image_size, 14, 1, 2, 32, 32)

    torch.manual_seed(0)
    model = small("vit_h_14", image_size=518)
    in_torch_hub(monkeypatch, tmp_path, "vit_h_14", [model.state_dict()])
    monkeypatch.setattr(torchvision.models, "get_model", small)
    network = network_named("torchvision:vit_h_14")
    assert network.side == 518
    pictures = images(518)
    scaled = functional.normalize(pictures / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = what_the_classifier_reads(model, "heads.head", scaled)
    torch.testing.assert_close(network.extract(pictures), expected, rtol=1e-4, atol=1e-5)


def test_every_network_of_torchvision_has_a_published_configuration():
    from harness.metrics.features.timm_torchvision import torchvision_names

    assert {"resnet50", "vit_b_16", "swin_t", "convnext_tiny"} < set(torchvision_names())
    assert not [name for name in torchvision_names() if "maskrcnn" in name or "deeplab" in name or "raft" in name]
    for name in torchvision_names():
        for known in torchvision.models.get_model_weights(name):
            assert len(known.transforms().crop_size) == 1
            assert re.search(r"-[0-9a-f]{8,}\.pth$", known.url)


def test_of_several_published_weights_the_best_that_is_there(monkeypatch, tmp_path):
    state = torchvision_model("shufflenet_v2_x0_5").state_dict()
    other = {**state, "conv5.0.weight": state["conv5.0.weight"] + 1}
    best, second = in_torch_hub(monkeypatch, tmp_path, "shufflenet_v2_x0_5", [state, other])
    first = network_named("torchvision:shufflenet_v2_x0_5")
    assert best.stem[-8:] in first.name
    best.unlink()
    found = network_named("torchvision:shufflenet_v2_x0_5")
    assert second.stem[-8:] in found.name
    assert found.name != first.name
    assert found.fingerprint != first.fingerprint


def test_torchvisions_weights_are_found_undamaged_or_not_at_all(monkeypatch, tmp_path):
    with pytest.raises(WeightsError, match=r"no resnet18-f37072fd\.pth in .*checkpoints; .*torchvision:resnet18@FILE"):
        network_named("torchvision:resnet18")
    (file,) = in_torch_hub(monkeypatch, tmp_path, "resnet18", [torchvision_model("resnet18").state_dict()])
    with file.open("r+b") as damaged:
        damaged.seek(5000)
        damaged.write(b"cut off")
    with pytest.raises(WeightsError, match=rf"{file.name} is there, but its SHA-256"):
        network_named("torchvision:resnet18")


@torch.no_grad()
def test_a_file_of_the_users_with_another_classifier(tmp_path, images):
    model = torchvision_model("resnet18", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "polyps.pth")
    network = network_named("torchvision:resnet18@polyps.pth")
    assert network.name == f"torchvision:resnet18@polyps.pth ({weights.sha256(tmp_path / 'polyps.pth')[:8]})"
    pictures = images(224)
    scaled = functional.normalize(pictures / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(network.extract(pictures), what_the_classifier_reads(model, "fc", scaled))
    save_file(model.state_dict(), tmp_path / "polyps.safetensors")
    assert network_named("torchvision:resnet18@polyps.safetensors").fingerprint == network.fingerprint


def test_a_file_of_another_network_is_refused(tmp_path):
    state = torchvision_model("resnet18").state_dict()
    torch.save(torchvision_model("resnet34").state_dict(), tmp_path / "larger.pth")
    torch.save({key: t for key, t in state.items() if key != "layer4.1.bn2.running_var"}, tmp_path / "smaller.pth")
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    torch.save(OrderedDict((key, t) for key, t in state.items() if "num_batches" not in key), tmp_path / "old.pth")
    for file, told in (
        ("larger.pth", "of a larger network: .* has no layer1.2"),
        ("smaller.pth", "layer4.1.bn2.running_var is missing"),
        ("grey.pth", r"conv1.weight is of shape \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)"),
        ("nowhere.pth", "no weights file nowhere.pth"),
        ("", "no weights file"),
    ):
        with pytest.raises(WeightsError, match=told):
            network_named(f"torchvision:resnet18@{file}")
    network_named("torchvision:resnet18@old.pth")


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet", "resnet18"])
def test_nothing_is_unpickled(tmp_path, name):
    torch.save({"a": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth is not a"):
        network_named(f"{name}@bad.pth")
    assert not (tmp_path / "executed").exists()


def timm_model(name):
    torch.manual_seed(0)
    return lively(timm.create_model(name)).eval()


def timm_features(model, images, mean, std):
    return model.forward_head(model.forward_features(functional.normalize(images / 255, mean, std)), pre_logits=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "convnext_atto", "mobilenetv3_small_050"])
def test_timms_features_from_the_model_hubs_cache(tmp_path, images, name):
    model = timm_model(name)
    known = timm.models.get_pretrained_cfg(name)
    folder = tmp_path / "hub" / "hub" / f"models--{known.hf_hub_id.replace('/', '--')}" / "snapshots" / "0"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    network = network_named(f"timm:{name}")
    assert network.name == f"timm:{name} ({weights.sha256(folder / 'model.safetensors')[:8]})"
    assert network.side == known.input_size[-1]
    pictures = images(network.side)
    expected = timm_features(model, pictures, known.mean, known.std)
    torch.testing.assert_close(network.extract(pictures), expected, rtol=1e-4, atol=1e-5)
    assert network_named(f"timm:{name}.{known.tag}").fingerprint == network.fingerprint


@torch.no_grad()
def test_timms_lite0_takes_the_weights_that_are_fetched_for_the_encoder(tmp_path, images):
    model = timm_model("tf_efficientnet_lite0")
    state = model.state_dict()
    torch.save({("_conv_stem.weight" if i == 0 else f"_{i}"): t for i, t in enumerate(state.values())}, "lite0.pth")
    weights.add("efficientnet-lite0-imagenet", tmp_path / "lite0.pth")
    network = network_named("timm:tf_efficientnet_lite0")
    pictures = images(224)
    expected = timm_features(model, pictures, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(network.extract(pictures), expected, rtol=1e-4, atol=1e-5)
    named = network_named("timm:tf_efficientnet_lite0@lite0.pth")
    assert named.fingerprint == network.fingerprint
    assert named.name != network.name


def test_timms_missing_weights_and_other_networks(tmp_path):
    with pytest.raises(WeightsError, match=r"models--timm--test_resnet\.r160_in1k; run `harness weights add .*@FILE"):
        network_named("timm:test_resnet")
    state = timm_model("test_resnet").state_dict()
    save_file({**state, "layer9.weight": torch.zeros(1)}, tmp_path / "larger.safetensors")
    with pytest.raises(WeightsError, match=r"has no layer9\.weight"):
        network_named("timm:test_resnet@larger.safetensors")
    save_file({**state, "fc.weight": torch.zeros(3, 256)}, tmp_path / "polyps.safetensors")
    network_named("timm:test_resnet@polyps.safetensors")


@torch.no_grad()
def test_an_encoder_with_weights_of_the_users(tmp_path, images):
    model = torchvision_model("resnet18")
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"weights fetch resnet18-imagenet.*or name a file of yours: resnet18@FILE"):
        network_named("resnet18")
    network = network_named("resnet18@mine.pth")
    assert network.name == f"resnet18@mine.pth ({weights.sha256(tmp_path / 'mine.pth')[:8]})"
    pictures = images(224)
    scaled = functional.normalize(pictures / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    # a ResNet's classifier reads its deepest map, averaged over positions
    expected = what_the_classifier_reads(model, "fc", scaled)
    torch.testing.assert_close(network.extract(pictures), expected, rtol=1e-4, atol=1e-5)
    weights.add("resnet18-imagenet", tmp_path / "mine.pth")
    default = network_named("resnet18")
    assert default.name == f"resnet18 ({weights.sha256(tmp_path / 'mine.pth')[:8]})"
    torch.testing.assert_close(default.extract(pictures), expected, rtol=1e-4, atol=1e-5)


def test_the_scaling_of_images_is_part_of_the_fingerprint(tmp_path):
    torch.save({}, tmp_path / "file.pth")

    def fingerprint(side, mean):
        module = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(module.weight)
        torch.nn.init.ones_(module.bias)
        network = feature_network.normalised_network("n", module, module, tmp_path / "file.pth", side, mean, (1, 1, 1))
        return network.fingerprint

    assert fingerprint(8, (0, 0, 0)) == fingerprint(8, (0, 0, 0))
    assert len({fingerprint(8, (0, 0, 0)), fingerprint(9, (0, 0, 0)), fingerprint(8, (0, 0, 1))}) == 3


OWN = """
import torch

class Base(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))

class Means(Base):
    side = 16
    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.weight

class Maps(Base):
    def forward(self, images):
        return images * self.weight[:, None, None]

class Tokens(Base):
    def forward(self, images):
        return images.flatten(2)

class Listed(Base):
    def forward(self, images):
        return [images]

class Wrong(Base):
    def forward(self, images):
        return torch.zeros(3, 5) @ torch.zeros(3, 5)

class Whole(Base):
    def forward(self, images):
        return images.mean(dim=(0, 2, 3))[None]

class Halfway(Means):
    side = 1.5

class Demanding(Base):
    def __init__(self, depth):
        super().__init__()

class Random(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 3)

class FidInception(Means):
    pass

def factory():
    return Means()
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "mine.py").write_text(OWN)
    return tmp_path / "nets" / "mine.py"


def test_a_module_of_the_users_from_a_file(own, images):
    network = network_named("nets/mine.py:Means")
    assert network.side == 16
    assert network.name == f"mine.py:Means ({network.fingerprint[:8]})"
    expected = images(16).mean(dim=(2, 3)) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(network.extract(images(16)), expected)
    maps = network_named(f"{own}:Maps")
    assert maps.side == 299
    torch.testing.assert_close(maps.extract(images(16)), expected)


def test_a_module_of_the_users_from_a_package(own, monkeypatch, images):
    monkeypatch.syspath_prepend(own.parent.parent)
    network = network_named("nets.mine:Means")
    assert network.name.startswith("nets.mine:Means (")
    torch.testing.assert_close(network.extract(images(16)), images(16).mean(dim=(2, 3)) * torch.tensor([1.0, 2.0, 3.0]))


def test_other_code_and_other_weights_are_other_networks(tmp_path):
    sources = {"a": OWN, "b": OWN.replace("* self.weight\n", "+ self.weight\n"), "c": OWN.replace("3.0]", "4.0]")}
    found = {}
    for folder, source in sources.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(source)
        found[folder] = network_named(f"{folder}/net.py:Means")
    assert len({network.fingerprint for network in found.values()}) == 3
    assert len({network.name.partition(":")[2] for network in found.values()}) == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nets/mine.py:Demanding", "cannot be built without arguments: TypeError.*depth"),
        ("nets/mine.py:Random", "has random weights"),
        ("nets/mine.py:Halfway", "side = 1.5"),
        ("nets/mine.py:factory", "no torch.nn.Module class 'factory'.*Means"),
        ("nets/mine.py:Meens", "did you mean 'Means'"),
        ("nets/other.py:Means", "no file nets/other.py"),
        ("nets/broken.py:Means", "cannot be imported: ZeroDivisionError"),
        ("no_such_package.nets:Means", "cannot be imported: ModuleNotFoundError.*torchvision:NAME"),
        ("torchvison:resnet18", "did you mean 'torchvision'"),
    ],
)
def test_modules_that_cannot_be_used_are_told_in_one_sentence(own, name, told):
    own.with_name("broken.py").write_text("1 / 0")
    with pytest.raises(DeclarationError, match=told) as raised:
        network_named(name)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("Tokens", r"gave of shape \(2, 3, 256\)"),
        ("Listed", "gave a list"),
        ("Whole", r"gave of shape \(1, 3\)"),
        ("Wrong", r"fails on images \(2, 3, 16, 16\): RuntimeError"),
    ],
)
def test_features_must_be_one_vector_or_map_an_image(own, images, kind, told):
    with pytest.raises(DeclarationError, match=told):
        network_named(f"nets/mine.py:{kind}").extract(images(16))


@pytest.mark.parametrize(
    "name",
    [
        "nets/mine.py:FidInception",
        "fidelity.py:Net",
        "FID_nets/x.py:Net",
        "nets/fid_inception.py:Net",
        "fid:Net",
        "nets/x.py:FID",
    ],
)
def test_no_module_of_the_users_reads_like_the_standard_network(own, name):
    with pytest.raises(DeclarationError, match="cannot be called"):
        network_named(name)


@pytest.mark.parametrize("name", ["fid-inception", "fid_inception v3", "FID", " fid-inception", "my-FID-Inception"])
def test_nor_under_a_name_given_in_code(name):
    with pytest.raises(DeclarationError, match="cannot be called"):
        networks.module_network(name, torch.nn.Identity())
    assert networks.module_network("confident", torch.nn.Identity()).name == "confident"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resent34", "'resnet34'"),
        ("fid-incepton", "'fid-inception'"),
        ("fid-inception-2048", "'fid-inception-64'"),
        ("swin_t", "'torchvision:swin_t'"),
        ("convnext_atto", "'timm:convnext_atto'"),
        ("torchvision:resnt50", "'resnet50'"),
        ("timm:convnxt_atto", "'convnext_atto'"),
        ("timm:resnet50.a1_in", "'resnet50.a1_in1k'"),
        ("tu-nonsense", ""),
    ],
)
def test_an_unknown_name_says_the_nearest(name, nearest):
    with pytest.raises(DeclarationError, match=f"did you mean {nearest}" if nearest else "there are: fid-inception"):
        network_named(name)


def test_an_unknown_name_says_what_kinds_there_are():
    with pytest.raises(DeclarationError) as raised:
        network_named("nonsense")
    for kind in ("fid-inception-64|192|768", "resnet34@FILE", "torchvision:NAME", "timm:NAME", "path/to/file.py:Class"):
        assert kind in str(raised.value)
