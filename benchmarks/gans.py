"""Training speed of the four-channel GANs beside a plain loop over the same networks, in one run.

    python -m benchmarks.gans [--size 64] [--seconds 20] [--rounds 3] [--threads N] [--only fastgan] [--json]

The plain loop is what one writes from a GAN's paper: a DataLoader of PIL files with a transform a picture, float32, the
usual memory layout, enlarging and then convolving, Adam as it comes. Files have the study's size already, which is kind
to it: the published loaders decode the full frames at every step. Both sides have the same networks, the same losses,
the same augmentation and the same batch; each measurement is a process of its own, they take turns, and medians are
compared. ``--profile`` says where the time of our side goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GANS = ("dcgan", "progan", "fastgan")
WAYS = ("plain loop", "harness in float32", "harness")
_WARM_UP = 5


def _declared(gan: str, precision: str) -> dict[str, Any]:
    """Return parameters: the defaults, fully grown from the start where a GAN grows."""
    values: dict[str, Any] = {"steps": 10**6, "precision": precision}
    if gan == "progan":
        values |= {"steps": 10, "full_size_share": 0.999}
    if gan == "fastgan":
        values |= {"reconstruction": "l1"}  # a perceptual network is the same work for both
    return values


def write_files(folder: Path, size: int, count: int) -> None:
    """Write procedural pairs as PNG files of image and mask."""
    from PIL import Image

    from harness.data.datasets import open_dataset

    pairs = open_dataset("phantom", count=count).decode(size, "squash")
    for number, (image, mask) in enumerate(zip(pairs.images, pairs.masks, strict=True)):
        Image.fromarray(image).save(folder / f"{number:05d}.png")
        Image.fromarray(mask * 255).save(folder / f"{number:05d}-mask.png")


def read_pairs(folder: Path) -> Any:
    """Return the pairs of a folder that :func:`write_files` wrote."""
    import numpy as np
    from PIL import Image

    from harness.data.pairs import PairSet

    masks = sorted(folder.glob("*-mask.png"))
    images = [path.with_name(path.name.replace("-mask", "")) for path in masks]
    return PairSet.real(
        np.stack([np.asarray(Image.open(path)) for path in images]),
        np.stack([np.asarray(Image.open(path)) // 255 for path in masks]),
        [path.stem for path in images],
    )


def training(gan: str, folder: Path, precision: str) -> Any:
    """Return a training of the harness."""
    import torch

    from generators.four_channel_gan.pictures import RealPictures
    from harness.plugins.registry import load_plugin

    class Context:
        device = torch.device("cpu")
        seed = 0

        def note(self, sentence: str) -> None:
            """Say nothing."""

    pairs = read_pairs(folder)
    plugin = load_plugin("generators", gan).create(**_declared(gan, precision))
    return plugin.training(RealPictures(pairs, pairs.size[0], Context.device), Context())


def plain_batches(folder: Path, batch_size: int, workers: int) -> Iterator[Any]:
    """Yield batches (N, 4, H, W) in [-1, 1] for ever, from a DataLoader of PIL files."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.masks = sorted(folder.glob("*-mask.png"))

        def __len__(self) -> int:
            return len(self.masks)

        def __getitem__(self, index: int) -> torch.Tensor:
            path = self.masks[index]
            image = Image.open(path.with_name(path.name.replace("-mask", ""))).convert("RGB")
            mask = Image.open(path).convert("L")
            for transform in (ImageOps.mirror, ImageOps.flip):
                if torch.rand(1) < 0.5:
                    image, mask = transform(image), transform(mask)
            both = [torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(mask))[None]]
            return torch.cat(both).float() / 127.5 - 1

    loader = DataLoader(Files(), batch_size, shuffle=True, drop_last=True, num_workers=workers)
    while True:
        yield from loader


def plain_layers() -> None:
    """Write the layers that the harness merges the usual way."""
    import torch.nn.functional as functional

    import generators.dcgan.networks
    import generators.fastgan.networks
    import generators.progan.networks

    def doubled(features: Any, weight: Any, bias: Any = None) -> Any:
        enlarged = functional.interpolate(features, scale_factor=2, mode="nearest")
        return functional.conv2d(enlarged, weight, bias, padding=1)

    for module in (generators.dcgan.networks, generators.fastgan.networks, generators.progan.networks):
        module.doubled_convolution = doubled  # type: ignore[attr-defined]
    generators.fastgan.networks.gated = lambda features: functional.glu(features, dim=1)


def plain_augment(pictures: Any, names: Any) -> Any:
    """Augment as DiffAugment is usually written: one change after the other, over the whole batch."""
    import torch
    import torch.nn.functional as functional

    count, _, height, width = pictures.shape
    if "colour" in names:
        colours = pictures[:, :3] + torch.rand(count, 1, 1, 1) - 0.5
        grey = colours.mean(dim=1, keepdim=True)
        colours = grey + (colours - grey) * torch.rand(count, 1, 1, 1) * 2
        mean = colours.mean(dim=(1, 2, 3), keepdim=True)
        pictures = torch.cat([mean + (colours - mean) * (torch.rand(count, 1, 1, 1) + 0.5), pictures[:, 3:]], dim=1)
    item = torch.arange(count)[:, None, None]
    if "translation" in names:
        reach = height // 8
        rows = torch.arange(height)[None, :, None] + torch.randint(-reach, reach + 1, (count, 1, 1)) + reach
        columns = torch.arange(width)[None, None] + torch.randint(-reach, reach + 1, (count, 1, 1)) + reach
        padded = functional.pad(pictures, (reach,) * 4).permute(0, 2, 3, 1)
        pictures = padded[item, rows, columns].permute(0, 3, 1, 2).contiguous()
    if "cutout" in names:
        hole = torch.ones(count, height, width)
        rows = (torch.randint(0, height, (count, 1, 1)) + torch.arange(height // 2)[None, :, None]) - height // 4
        columns = (torch.randint(0, width, (count, 1, 1)) + torch.arange(width // 2)[None, None]) - width // 4
        hole[item, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] = 0
        pictures = pictures * hole[:, None]
    return pictures


class _Bare:
    """A network without the wrapper that sets the precision."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs)


def _plain_update(losses: dict[str, Any], optimiser: Any) -> None:
    optimiser.zero_grad()
    sum(loss for name, loss in losses.items() if not name.endswith("-score")).backward()
    optimiser.step()


def plain_steps(gan: str, folder: Path, workers: int) -> Iterator[None]:
    """Train step by step in the plain loop."""
    import torch

    plain_layers()
    game = training(gan, folder, "float32")
    settings = game.settings
    made, judge = game.generator_module, game.discriminator.module
    averaged = game.averaged
    for network in (made, judge, averaged):
        network.to(memory_format=torch.contiguous_format)
    game.discriminator = _Bare(judge)
    optimisers = [
        torch.optim.Adam(network.parameters(), rate, settings.betas)
        for network, rate in (
            (made, settings.learning_rate),
            (judge, settings.discriminator_learning_rate),
        )
    ]
    randomness = torch.Generator().manual_seed(0)
    for step, batch in enumerate(plain_batches(folder, settings.batch_size, workers)):
        game.begin(step)
        real = plain_augment(game.seen_as(batch), settings.augment)
        fake = tuple(plain_augment(picture, settings.augment) for picture in made(*made.draw(len(real), randomness)))
        drawn = game.draw_for_losses(len(real), step, randomness)
        told = game.discriminator_losses(real, tuple(picture.detach() for picture in fake), drawn)
        _plain_update(told, optimisers[1])
        _plain_update(game.generator_losses(fake), optimisers[0])
        with torch.no_grad():
            for mean, raw in zip(averaged.parameters(), made.parameters(), strict=True):
                mean.mul_(settings.ema).add_(raw, alpha=1 - settings.ema)
        yield


def harness_steps(gan: str, folder: Path, precision: str) -> Iterator[None]:
    """Train step by step as the harness does."""
    game = training(gan, folder, precision)
    step = 0
    while True:
        game.step(step)
        step += 1
        yield


def one(gan: str, way: str, folder: Path, seconds: float, workers: int) -> dict[str, float]:
    """Measure once in this process."""
    import torch

    from harness.plugins.registry import load_plugin

    batch_size = load_plugin("generators", gan).create(**_declared(gan, "auto")).parameters.batch_size
    if way == "plain loop":
        steps = plain_steps(gan, folder, workers)
    else:
        steps = harness_steps(gan, folder, "float32" if way == "harness in float32" else "auto")
    for _ in range(_WARM_UP):
        next(steps)
    # All cores compute, whatever else this machine does beside it; the workers' time is not in it.
    started, used, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        next(steps)
        done += 1
    return {
        "images_a_second": done * batch_size / (time.perf_counter() - started),
        "images_a_core_second": done * batch_size / (time.process_time() - used),
        "threads": float(torch.get_num_threads()),
    }


def shares(gan: str, folder: Path) -> dict[str, float]:
    """Return the shares of our side's time: convolutions, normalisation, what works pixel by pixel, and so on."""
    from torch.profiler import ProfilerActivity, profile

    kinds = {
        "convolutions": ("conv",),
        "batch norm": ("batch_norm",),
        "optimiser and averaging": ("adam", "lerp"),
        "resizing and pooling": ("pool", "upsample"),
        "copies between layouts and types": ("copy_", "cat", "fill_", "zero_", "clone"),
        "indexing (batches, augmentation)": ("index", "pad"),
    }
    steps = harness_steps(gan, folder, "auto")
    for _ in range(_WARM_UP):
        next(steps)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(4):
            next(steps)
    times = {event.key.lower(): event.self_cpu_time_total for event in found.key_averages()}
    whole = sum(times.values())
    told: dict[str, float] = {}
    for kind, words in kinds.items():
        told[kind] = sum(t for name, t in times.items() if any(word in name for word in words)) / whole
        times = {name: t for name, t in times.items() if not any(word in name for word in words)}
    told["pixel by pixel, and the rest"] = sum(times.values()) / whole
    return told


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, in turn; medians are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that a training computes with")
    parser.add_argument("--workers", type=int, default=2, help="that decode for the plain loop")
    parser.add_argument("--only", choices=GANS, action="append")
    parser.add_argument("--profile", action="store_true", help="say where the time of the harness goes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("GAN", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        gan, way, folder = arguments.one
        found = (
            shares(gan, Path(folder))
            if way == "shares"
            else one(gan, way, Path(folder), arguments.seconds, arguments.workers)
        )
        print(json.dumps(found))
        return
    gans = tuple(arguments.only or GANS)
    document: dict[str, Any] = {"size": arguments.size, "threads": arguments.threads, "gans": {}}
    with tempfile.TemporaryDirectory() as temporary:
        write_files(Path(temporary), arguments.size, 200)

        def measured(gan: str, way: str) -> dict[str, float]:
            print(f"{gan}, {way} ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gans", "--one", gan, way, temporary]
            command += ["--seconds", str(arguments.seconds), "--workers", str(arguments.workers)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return told

        for gan in gans:
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    runs[way].append(measured(gan, way))
            document["gans"][gan] = {"runs": runs}
            if arguments.profile:
                document["gans"][gan]["shares"] = measured(gan, "shares")
    report(document, arguments.json)


def report(document: dict[str, Any], as_json: bool) -> None:
    """Print medians and ratios to the plain loop."""
    for told in document["gans"].values():
        told["medians"] = {
            way: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            for way, runs in told["runs"].items()
        }
        base = told["medians"]["plain loop"]["images_a_second"]
        told["times as fast"] = {way: told["medians"][way]["images_a_second"] / base for way in WAYS}
    if as_json:
        print(json.dumps(document, indent=1))
        return
    print(f"Training at {document['size']} px on {document['threads']} threads, images a second")
    for gan, told in document["gans"].items():
        for way in WAYS:
            speed = told["medians"][way]["images_a_second"]
            print(f"  {gan:8} {way:20} {speed:8.1f}  {told['times as fast'][way]:5.2f}x")
        for kind, share in told.get("shares", {}).items():
            print(f"           {kind:34} {share:6.1%}")


if __name__ == "__main__":
    main()
