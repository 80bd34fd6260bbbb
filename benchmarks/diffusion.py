"""Diffusion models: training beside a plain loop over the same network, and what each sampler costs and reaches.

    python -m benchmarks.diffusion training [--size 64] [--batch-size 16] [--seconds 20] [--rounds 3] [--threads N]
        [--only latents] [--profile] [--json]
    python -m benchmarks.diffusion sampling --checkpoint FOLDER --real kvasir-seg:cpd:fit
        [--masks kvasir-seg:cpd:report] [--held-out kvasir-seg:cpd:report] [--samples 96] [--rounds 1]
        [--samplers ancestral:1000 ddim:50 ddim:50:1 dpm-solver++:20] [--json]

The plain loop is what one writes from a tutorial: a DataLoader of PIL files with a transform a picture, float32, the
usual memory layout, noise by the scheduler of diffusers and averaged weights by its ``EMAModel``, AdamW as it comes,
``loss.item()`` at each step; in latents it encodes each batch at each step, as latent diffusion's code does. Files have
the study's size already, which is kind to it. Both sides have the same network, the same objective and the same batch;
ours is a plugin's whole ``fit``, with its logging. Each measurement is a process of its own, they take turns, and
medians are compared. ``--profile`` says where the time of our side goes.

``sampling`` takes a checkpoint of ``mask-ddpm`` or ``mask-ldm``. Every sampler has the same seeds and masks, and every
distance the same number of samples, since few bias it; ``--rounds`` repeats them with other seeds.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.gans import read_pairs, write_files
from harness.errors import HarnessError

CASES = ("masks", "pixels", "latents")
WAYS = ("plain loop", "harness in float32", "harness")
SAMPLERS = ("ancestral:1000", "ddim:50", "ddim:50:1", "dpm-solver++:20", "dpm-solver++:10")
_WARM_UP, _PROFILED, _FILES = 3, 3, 200

#: What the operators of our side's profile are called, in the order in which they are looked for.
_KINDS = {
    "attention": ("scaled_dot_product", "flash", "bmm", "softmax"),
    "convolutions": ("conv",),
    "group norm": ("group_norm",),
    "linear layers": ("addmm", "aten::mm", "linear"),
    "optimiser and averaging": ("adam", "lerp", "foreach"),
    "activations": ("silu",),
    "copies between layouts and types": ("copy_", "cat", "fill_", "zero_", "clone", "shuffle"),
    "batches and noise": ("index", "flip", "randn", "normal_"),
}


# training


@dataclass(frozen=True)
class Task:
    """One thing to train, and where its files lie.

    Attributes:
        case: ``masks``: mask-ddpm; ``pixels``: mask-ldm without a first stage; ``latents``: mask-ldm with one.
        folder: of PNG files of image and mask, and of the first stage's weights.
        size: of the files, in pixels.
        first_stage: name of the first stage's network.
        given: parameters, beside those of the case.
        device: to compute on.
    """

    case: str
    folder: Path
    size: int
    first_stage: str
    given: dict[str, Any]
    device: str

    def plugin(self, precision: str) -> Any:
        """Return the plugin as it is declared: a small network, with attention where it has 64 positions."""
        from harness.plugins.registry import load_plugin

        endless = {"steps": 10**6, "checkpoints": 1, "grids": 0, "precision": precision}
        small = {"network": "small", "patch": 1 if self.case == "latents" else 2, "attention": (8,)}
        stage: dict[str, Any] = {}
        if self.case == "pixels":
            stage = {"first_stage": None}
        elif self.case == "latents":
            stage = {"first_stage": {"network": self.first_stage, "file": str(self.weights)}}
        name = "mask-ddpm" if self.case == "masks" else "mask-ldm"
        return load_plugin("generators", name).create(**(small | stage | self.given | endless))

    @property
    def weights(self) -> Path:
        return self.folder / "first-stage.safetensors"

    def write(self, count: int = _FILES) -> None:
        """Write files of so many pairs, and a first stage that is not trained, which costs as much as one that is."""
        import torch

        from generators.first_stage.autoencoder import build, save

        write_files(self.folder, self.size, count)
        torch.manual_seed(0)
        save(build(self.first_stage), self.weights)


class Clock:
    """Counts steps, from a few after the first on, until a number of seconds is over.

    They are seconds of the processor on a CPU, where others may be at work, and on the clock otherwise.
    """

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device, self.done = seconds, device, 0
        self.opened = time.perf_counter()
        self.now = time.process_time if device == "cpu" else time.perf_counter

    def _wait(self) -> None:
        """Wait for what the device was told to do."""
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()

    def step(self) -> bool:
        """Count a step that was taken, and say whether it was the last."""
        self.done += 1
        if self.done == 1:
            self._wait()
            self.before = time.perf_counter() - self.opened
        if self.done == _WARM_UP:
            self._wait()
            # The workers of a loader are not in the processor's time, which is kind to the plain loop.
            self.started, self.used, self.begun = time.perf_counter(), time.process_time(), self.now()
        return self.done > _WARM_UP and self.now() - self.begun >= self.seconds

    def told(self, batch_size: int) -> dict[str, float]:
        """Return images a second and a core-second, and the seconds before the second step began."""
        self._wait()
        images = (self.done - _WARM_UP) * batch_size
        return {
            "images_a_second": images / (time.perf_counter() - self.started),
            "images_a_core_second": images / (time.process_time() - self.used),
            "seconds_to_first_step": self.before,
        }


def plain_batches(task: Task, batch_size: int, workers: int) -> Iterator[Any]:
    """Yield batches in [-1, 1] for ever from PIL files: masks (N, 1, H, W), or images and masks (N, 4, H, W)."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):
        def __init__(self) -> None:
            self.masks = sorted(task.folder.glob("*-mask.png"))

        def __len__(self) -> int:
            return len(self.masks)

        def __getitem__(self, index: int) -> torch.Tensor:
            path = self.masks[index]
            pictures = [Image.open(path).convert("L")]
            if task.case != "masks":
                pictures.insert(0, Image.open(path.with_name(path.name.replace("-mask", ""))).convert("RGB"))
            for transform in (ImageOps.mirror, ImageOps.flip):
                if torch.rand(1) < 0.5:
                    pictures = [transform(picture) for picture in pictures]
            channels = [torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1) for picture in pictures]
            return torch.cat(channels).float() / 127.5 - 1

    loader = DataLoader(Files(), batch_size, shuffle=True, drop_last=True, num_workers=workers)
    while True:
        yield from loader


def plain_steps(task: Task, workers: int) -> Iterator[float]:
    """Train step by step in the plain loop, and yield the losses."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    from generators.diffusion.denoiser import coverage_of
    from generators.diffusion.process import Process
    from generators.first_stage.autoencoder import load

    device = torch.device(task.device)
    plugin = task.plugin("float32")
    settings = plugin.parameters
    learned = task.case == "masks" and settings.variance == "learned"
    autoencoder = load(task.weights).to(device) if task.case == "latents" else None
    factor = 1 if autoencoder is None else autoencoder.factor
    config = {"side": task.size, "factor": factor, "learned_variance": learned, **settings.model_dump()}
    torch.manual_seed(0)
    network = plugin.build(config).to(device).train()
    process = Process(settings, device, learned_variance=learned)  # for the objective
    scheduler: Any = DDPMScheduler(settings.timesteps, trained_betas=process.betas)
    averaged = EMAModel(network.parameters(), decay=settings.ema)
    optimiser = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
    )
    for batch in plain_batches(task, settings.batch_size, workers):
        pictures = batch.to(device)
        condition: tuple[Any, ...] = ()
        if task.case != "masks":
            pictures, masks = pictures[:, :3], pictures[:, 3:] > 0
            given = (torch.rand(len(pictures), device=device) >= settings.mask_dropout).float()
            condition = (coverage_of(masks, factor), given)
        if autoencoder is not None:
            with torch.no_grad():
                pictures = autoencoder.encode(pictures)
        noise = torch.randn_like(pictures)
        timesteps = torch.randint(0, settings.timesteps, (len(pictures),), device=device)
        noisy = scheduler.add_noise(pictures, noise, timesteps)
        output = network(noisy, timesteps, *condition)
        loss = process.losses(output, pictures, noise, noisy, timesteps).total().mean()
        loss.backward()
        if settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimiser.step()
        optimiser.zero_grad()
        averaged.step(network.parameters())
        yield loss.item()


class _EnoughError(Exception):
    """Ends a fit."""


def fit(task: Task, precision: str, step: Any) -> None:
    """Fit as a study does, until ``step``, which is called after each, says that it was the last."""
    import torch

    from harness.learning.work_folder import WorkFolder

    def progress(done: int, total: int, unit: str) -> None:
        if step():
            raise _EnoughError

    with tempfile.TemporaryDirectory() as temporary:
        context = WorkFolder(
            Path(temporary), torch.device(task.device), 0, save_every_s=1e9, on_progress=progress, progress_every_s=0
        )
        try:
            for _ in task.plugin(precision).fit(read_pairs(task.folder), context):
                pass
        except _EnoughError:
            pass


def speed(task: Task, way: str, seconds: float, workers: int) -> dict[str, float]:
    """Measure once in this process."""
    precision = "auto" if way == "harness" else "float32"
    clock = Clock(seconds, task.device)
    if way == "plain loop":
        for _ in plain_steps(task, workers):
            if clock.step():
                break
    else:
        fit(task, precision, clock.step)
    return clock.told(task.plugin(precision).parameters.batch_size)


def shares(task: Task) -> dict[str, float]:
    """Return the shares of our side's time by kind of work."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = task.device.startswith("cuda")
    found = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
    done = 0

    def step() -> bool:
        nonlocal done
        done += 1
        if done == _WARM_UP:
            found.start()
        if done == _WARM_UP + _PROFILED:
            found.stop()
        return done == _WARM_UP + _PROFILED

    fit(task, "auto", step)
    times = {
        event.key.lower(): event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in found.key_averages()
    }
    whole = sum(times.values())
    told: dict[str, float] = {}
    for kind, words in _KINDS.items():
        told[kind] = sum(t for name, t in times.items() if any(word in name for word in words)) / whole
        times = {name: t for name, t in times.items() if not any(word in name for word in words)}
    told["pixel by pixel, and the rest"] = sum(times.values()) / whole
    return told


def training(arguments: argparse.Namespace) -> None:
    """Measure every case in every way, each in a process of its own, and print the table."""
    cases = tuple(arguments.only or CASES)
    document: dict[str, Any] = {
        "size": arguments.size,
        "batch size": arguments.batch_size,
        "threads": arguments.threads,
        "device": arguments.device,
        "first stage": arguments.first_stage,
        "parameters": arguments.parameters,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        _task(arguments, cases[0], Path(temporary)).write()

        def measured(case: str, way: str) -> dict[str, float]:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.diffusion", *sys.argv[1:]]
            command += ["--one", case, way, temporary]
            environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            _tell(f"{case}, {way}", told)
            return told

        for case in cases:
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    runs[way].append(measured(case, way))
            document["cases"][case] = {"runs": runs, **compared(runs)}
            if arguments.profile:
                document["cases"][case]["shares"] = measured(case, "shares")
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_training(document)


def _task(arguments: argparse.Namespace, case: str, folder: Path) -> Task:
    given = {"batch_size": arguments.batch_size, **arguments.parameters}
    return Task(case, folder, arguments.size, arguments.first_stage, given, arguments.device)


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of each way, and how many times as fast as the plain loop it is by each of the two clocks."""
    medians = {
        way: {name: statistics.median(run[name] for run in found) for name in found[0]} for way, found in runs.items()
    }
    ratios = {
        way: {
            name: medians[way][name] / medians["plain loop"][name]
            for name in ("images_a_second", "images_a_core_second")
        }
        for way in runs
    }
    return {"medians": medians, "times as fast": ratios}


def print_training(document: dict[str, Any]) -> None:
    """Print medians, ratios to the plain loop, and shares."""
    print(
        f"Training at {document['size']} px, batches of {document['batch size']}, {document['threads']} thread(s) of "
        f"{document['device']}\n{'':29}images a second      a core-second     before the first step"
    )
    for case, told in document["cases"].items():
        for way in WAYS:
            cells = ""
            for name in ("images_a_second", "images_a_core_second"):
                cells += f"{told['medians'][way][name]:10.1f} {told['times as fast'][way][name]:6.2f}x "
            print(f"  {case:8} {way:18}{cells} {told['medians'][way]['seconds_to_first_step']:10.1f} s")
        for kind, share in told.get("shares", {}).items():
            print(f"           {kind:34} {share:6.1%}")


def _tell(what: str, found: dict[str, float]) -> None:
    """Say at once what was found, since the whole takes long."""
    print(f"{what}: " + ", ".join(f"{name} {value:.5g}" for name, value in found.items()), file=sys.stderr, flush=True)


# sampling


def sampler_settings(name: str) -> dict[str, Any]:
    """Return the parameters of ``SAMPLER:STEPS`` or ``SAMPLER:STEPS:ETA``."""
    sampler, steps, *eta = name.split(":")
    return {"sampler": sampler, "sampling_steps": int(steps), "eta": float(eta[0]) if eta else 0.0}


class Reference:
    """Real pairs, whose features are computed once and kept in the harness's store."""

    def __init__(self, real: Any, masks_alone: bool, network: str, device: Any) -> None:
        """Compute the features.

        Args:
            real: pairs that stand for the truth.
            masks_alone: compare masks as grey pictures, and by SIM too.
            network: for ``harness.metrics.features.networks.network_named``.
            device: to compute on.
        """
        from harness.metrics.features.networks import network_named

        self.real, self.masks_alone, self.device = real, masks_alone, device
        self.network = network_named(network)
        self.features = self._features(real, keep=True)

    def _features(self, pairs: Any, keep: bool) -> Any:
        from harness.metrics.features.extract import features
        from harness.metrics.fidelity.measure import of_masks

        pictures = of_masks(pairs) if self.masks_alone else pairs
        return features(pictures.images, self.network, device=self.device, cache=keep)

    def compare(self, pairs: Any, keep: bool = False) -> dict[str, float]:
        """Return the Fréchet distance (FID with the Inception network), KID, and of masks SIM; features may be kept."""
        from harness.metrics.fidelity.frechet import frechet_distance
        from harness.metrics.fidelity.kid import kernel_distance
        from harness.metrics.fidelity.sim import similarity

        found = self._features(pairs, keep)
        told = {
            "distance": frechet_distance(self.features, found),
            "kid": kernel_distance(self.features, found).value,
        }
        if self.masks_alone:
            told["sim"] = similarity(self.real.masks, pairs.masks).value
        return told


def sampled(plugin: Any, folder: Path, seeds: Any, masks: Any, real: Any, device: Any) -> tuple[Any, dict[str, float]]:
    """Sample as a study does, and return the pairs, and the seconds on the clock and of the processor."""
    import numpy as np

    from harness.data.pairs import PairSet
    from harness.plugins.contract import Checkpoint, SampleContext

    started, used = time.perf_counter(), time.process_time()
    made = plugin.sample(Checkpoint(0, folder), seeds, SampleContext(device, real), masks)
    took = {"seconds": time.perf_counter() - started, "core_seconds": time.process_time() - used}
    images = np.repeat(made.masks[..., None] * np.uint8(255), 3, axis=-1) if made.images is None else made.images
    names = tuple(map(str, range(len(seeds))))
    return PairSet(images, made.masks, names, names, (frozenset(),) * len(seeds)), took


def sampling(arguments: argparse.Namespace) -> None:
    """Measure every sampler and print the table."""
    import numpy as np
    import torch

    from harness.engine.places import read_pairs as read_place
    from harness.plugins.registry import load_plugin

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    config = json.loads((arguments.checkpoint / "config.json").read_text())
    plugin_class = load_plugin("generators", config["plugin"])
    masks_alone = plugin_class.card.makes == "masks"
    real = read_place(arguments.real, config["side"])
    given = None
    if not masks_alone:
        conditions = read_place(arguments.masks or arguments.real, config["side"]).masks
        given = np.asarray(conditions)[np.arange(arguments.samples) % len(conditions)]
    reference = Reference(real, masks_alone, arguments.network, device)
    document: dict[str, Any] = {
        "checkpoint": {name: config[name] for name in ("plugin", "step", "side", "network")},
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "device": arguments.device,
        "network": reference.network.name,
        "real": {"from": arguments.real, "count": len(real)},
        "samplers": {},
    }
    if arguments.held_out:
        unseen = read_place(arguments.held_out, config["side"])
        if len(unseen) < arguments.samples:
            sys.exit(
                f"{arguments.held_out} has {len(unseen)} pairs, and {arguments.samples} samples are to be compared "
                "with as many; lower --samples."
            )
        document["held out"] = reference.compare(unseen.take(range(arguments.samples)), keep=True)
    for name in arguments.samplers:
        plugin = plugin_class.create(**(arguments.parameters | sampler_settings(name)))
        warm = plugin_class.create(**(arguments.parameters | sampler_settings(name) | {"sampling_steps": 2}))
        sampled(warm, arguments.checkpoint, np.arange(1), None if given is None else given[:1], real, device)
        runs = []
        for number in range(arguments.rounds):
            seeds = np.random.default_rng([arguments.seed, number]).integers(0, 2**60, arguments.samples)
            pairs, took = sampled(plugin, arguments.checkpoint, seeds, given, real, device)
            runs.append(took | reference.compare(pairs))
            _tell(f"{name}, round {number + 1}", runs[-1])
        document["samplers"][name] = {"runs": runs, "medians": _medians(runs)}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_sampling(document)


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def print_sampling(document: dict[str, Any]) -> None:
    """Print the table of samplers: medians over rounds, and the range of the distance."""
    checkpoint, count = document["checkpoint"], document["samples"]
    label = "FID" if document["network"].startswith("fid-inception") else document["network"]
    print(
        f"{checkpoint['plugin']} ({checkpoint['network']}, {checkpoint['side']} px, step {checkpoint['step']}): "
        f"{count} samples against {document['real']['count']} of {document['real']['from']}, "
        f"{document['threads']} thread(s) of {document['device']}"
    )
    print(f"  {'':18}samples a minute  core-seconds a sample {label:>8} {'range':>15} {'KID':>8} {'SIM':>8}")

    def row(name: str, speeds: str, runs: list[dict[str, float]]) -> None:
        middle, distances = _medians(runs), [run["distance"] for run in runs]
        between = f"{min(distances):.1f} to {max(distances):.1f}" if len(runs) > 1 else ""
        sim = f"{middle['sim']:8.4f}" if "sim" in middle else ""
        print(f"  {name:18}{speeds:39}{middle['distance']:8.1f} {between:>15} {middle['kid']:8.4f} {sim}")

    for name, told in document["samplers"].items():
        middle = told["medians"]
        speeds = f"{60 * count / middle['seconds']:12.1f} {middle['core_seconds'] / count:18.3f}"
        row(name, speeds, told["runs"])
    if "held out" in document:
        row("unseen real ones", "", [document["held out"]])


def main() -> None:
    """Run one of the two benchmarks and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parts = parser.add_subparsers(required=True, metavar="training|sampling")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--threads", type=int, default=os.cpu_count(), help="to compute with")
    common.add_argument("--device", default="cpu")
    common.add_argument("--parameters", type=json.loads, default={}, help="JSON of what differs from the defaults")
    common.add_argument("--json", action="store_true")

    train = parts.add_parser("training", parents=[common], help="images a second beside a plain loop")
    train.add_argument("--size", type=int, default=64)
    train.add_argument("--batch-size", type=int, default=16)
    train.add_argument("--seconds", type=float, default=20, help="of each measurement, of the processor on a CPU")
    train.add_argument("--rounds", type=int, default=3, help="measurements of each way, in turn; medians are compared")
    train.add_argument("--workers", type=int, default=2, help="that decode for the plain loop")
    train.add_argument("--first-stage", default="small", help="network of the first stage")
    train.add_argument("--only", choices=CASES, action="append")
    train.add_argument("--profile", action="store_true", help="say where the time of the harness goes")
    train.add_argument("--one", nargs=3, metavar=("CASE", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    train.set_defaults(run=training)

    sample = parts.add_parser("sampling", parents=[common], help="samples a minute and the FID of each sampler")
    sample.add_argument("--checkpoint", type=Path, required=True, help="folder of one of a fit's checkpoints")
    sample.add_argument("--real", required=True, help="pairs to compare with: a folder, a zip, or DATASET:SPLIT:ROLE")
    sample.add_argument("--masks", help="pairs whose masks images are made for; those of --real when left out")
    sample.add_argument("--held-out", help="real pairs that the model has not seen, as many of which are compared too")
    sample.add_argument("--samples", type=int, default=96, help="of each sampler and round")
    sample.add_argument("--rounds", type=int, default=1, help="with seeds of their own")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--samplers", nargs="+", default=SAMPLERS, metavar="SAMPLER:STEPS[:ETA]")
    sample.add_argument("--network", default="fid-inception", help="whose features are compared")
    sample.set_defaults(run=sampling)

    arguments = parser.parse_args()
    if getattr(arguments, "one", None):
        case, way, folder = arguments.one
        task = _task(arguments, case, Path(folder))
        found = shares(task) if way == "shares" else speed(task, way, arguments.seconds, arguments.workers)
        print(json.dumps(found))
        return
    try:
        arguments.run(arguments)
    except (HarnessError, ValidationError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
