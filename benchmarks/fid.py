"""FID by the harness and by the clean-fid package, with the same network on the same files, in one run.

    python -m benchmarks.fid [--dataset kvasir-seg] [--images 1000] [--rounds 1] [--json]

The real side are the dataset's own files, the synthetic side the same pictures mirrored and darker, written as JPEG.
Each measurement is a process of its own, which times itself from after its imports to the number, so that peak memory
is its own and nothing is warm for one side only. clean-fid runs as it is meant to, its network as the published
program, once in one process and once with as many decoding workers as there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("clean-fid", "clean-fid with workers", "nothing stored", "one side stored", "both sides stored")


def write_sets(dataset: str, count: int, folder: Path) -> tuple[Path, Path]:
    """Write ``count`` pictures of a dataset as they are, and mirrored and darker; return both folders."""
    import io

    from PIL import Image, ImageOps

    from harness.data.datasets import open_dataset

    source = open_dataset(dataset)
    real, synthetic = folder / "real", folder / "synthetic"
    real.mkdir()
    synthetic.mkdir()
    for entry in source.entries[:count]:
        content = source.native_files(entry)[0]
        (real / f"{entry.id}.jpg").write_bytes(content)
        picture = ImageOps.mirror(Image.open(io.BytesIO(content)).convert("RGB")).point(lambda value: int(value * 0.9))
        picture.save(synthetic / f"{entry.id}.jpg", quality=92)
    return real, synthetic


def by_clean_fid(real: str, synthetic: str, workers: int) -> tuple[float, float]:
    """Return the FID by clean-fid, and the seconds it took."""
    import torch
    from cleanfid import fid

    from harness.weights import locate as weights

    found = weights.find("fid-inception")
    assert found is not None
    started = time.perf_counter()
    # The published program where it is on this machine, else the same network in PyTorch's own layout.
    network = torch.jit.load(found.path).eval() if found.path.suffix == ".pt" else weights.fid_inception()

    def extract(images: torch.Tensor) -> torch.Tensor:
        return network((images - 128) / 128)

    value = fid.compute_fid(
        real, synthetic, mode="clean", custom_feat_extractor=extract, num_workers=workers, device=torch.device("cpu"),
        use_dataparallel=False, verbose=False,
    )  # fmt: skip
    return float(value), time.perf_counter() - started


def by_harness(real: str, synthetic: str) -> tuple[float, float]:
    """Return the FID by the harness, and the seconds it took with what its store holds."""
    import torch

    from harness.engine.places import read_images
    from harness.metrics.features.extract import features
    from harness.metrics.features.networks import network_named
    from harness.metrics.fidelity.frechet import frechet_distance

    started = time.perf_counter()
    network = network_named("fid-inception")
    sides = [features(read_images(side).images, network, device=torch.device("cpu")) for side in (real, synthetic)]
    return frechet_distance(*sides), time.perf_counter() - started


def one(way: str, real: str, synthetic: str) -> dict[str, float]:
    """Measure once in this process."""
    import numpy  # noqa: F401 - imports are not what is compared
    import scipy.linalg  # noqa: F401
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    if way.startswith("clean-fid"):
        workers = 0 if way == "clean-fid" else os.cpu_count() or 1
        value, seconds = by_clean_fid(real, synthetic, workers)
    else:
        value, seconds = by_harness(real, synthetic)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"fid": value, "seconds": seconds, "peak_mib": peak}


def measured(way: str, real: Path, synthetic: Path, home: Path) -> dict[str, float]:
    """Measure once in a fresh process, whose store holds what ``way`` says."""
    store = home / "store" / "features"
    if way == "nothing stored":
        shutil.rmtree(store, ignore_errors=True)
    if way == "one side stored":
        newest = max(store.rglob("*.npy"), key=lambda path: path.stat().st_mtime)
        newest.unlink()
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fid", "--one", way, str(real), str(synthetic)]
    environment = {**os.environ, "HARNESS_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="kvasir-seg")
    parser.add_argument("--images", type=int, default=1000, help="a side")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each way, in turn; medians are compared")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "REAL", "SYNTHETIC"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    from harness.home import home as harness_home

    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        real, synthetic = write_sets(arguments.dataset, arguments.images, Path(temporary))
        home = Path(temporary) / "home"
        home.mkdir()
        (home / "weights").symlink_to((harness_home() / "weights").resolve())
        for number in range(arguments.rounds):
            for way in WAYS:
                print(f"round {number + 1}, {way} ...", file=sys.stderr, flush=True)
                runs[way].append(measured(way, real, synthetic, home))
    report(runs, arguments.images, arguments.json)


def report(runs: dict[str, list[dict[str, float]]], images: int, as_json: bool) -> None:
    """Print medians and ratios to clean-fid, the faster of its two ways."""
    median: dict[str, dict[str, float]] = {
        way: {name: statistics.median(run[name] for run in found) for name in found[0]} for way, found in runs.items()
    }
    base = min(("clean-fid", "clean-fid with workers"), key=lambda way: median[way]["seconds"])
    first = median["nothing stored"]["seconds"]
    document: dict[str, Any] = {
        "images": images,
        "cores": os.cpu_count(),
        "medians": median,
        "runs": runs,
        "baseline": base,
        "first computation, times as fast": median[base]["seconds"] / first,
        "first computation, times as fast as clean-fid in one process": median["clean-fid"]["seconds"] / first,
        "both sides stored, times as fast": median[base]["seconds"] / median["both sides stored"]["seconds"],
        "one side stored, times the work saved": first / median["one side stored"]["seconds"],
        "peak memory, share of clean-fid's": median["nothing stored"]["peak_mib"] / median["clean-fid"]["peak_mib"],
        "relative difference": abs(median["nothing stored"]["fid"] / median["clean-fid"]["fid"] - 1),
    }
    if as_json:
        print(json.dumps(document, indent=1))
        return
    print(f"FID of {images} against {images} images, {document['cores']} cores, seconds from imports to the number")
    for way in WAYS:
        row = median[way]
        print(f"  {way:24} {row['seconds']:8.2f} s  {row['peak_mib']:6.0f} MiB  FID {row['fid']:.6f}")
    for name, value in document.items():
        if isinstance(value, float):
            print(f"  {name}: {value:.3g}")


if __name__ == "__main__":
    main()
