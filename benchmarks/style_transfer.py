"""Images a minute of the refiner style-transfer beside a plain loop, one image at a time, in one run.

    python -m benchmarks.style_transfer [--size 64] [--steps 12] [--rounds 3] [--threads N] [--device cuda] [--json]

The plain loop is what one writes from paper B: VGG19 of torchvision's layers, frozen and cut off behind the last layer
that is looked at, float32, the usual memory layout, the style's Gram matrices once an image, Adam as it comes. Both
sides have the same losses and the same weights, drawn at random, which are as fast as any. Each measurement is a
process of its own, they take turns, and the best of each is compared, since other work on the machine can only slow
them down. An image takes 1000 steps; what is measured is shorter, without loading the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

WAYS = ("plain loop", "harness in float32", "harness")
STEPS = 1000
_STYLE_LAYERS = {0: 0.75, 5: 0.5, 10: 0.25, 19: 0.25, 28: 0.25}  # torchvision's places of VGG19's convB_1
_CONTENT_LAYER = 28


def pictures(size: int, count: int) -> tuple[Any, Any]:
    """Return images to refine and as many sources, uint8 (N, H, W, 3)."""
    from harness.data.datasets import open_dataset

    images = open_dataset("phantom", count=2 * count).decode(size, "squash").images
    return images[:count], images[count:]


def plain_network() -> Any:
    """Return torchvision's layers of VGG19 up to conv5_1 and its ReLU, frozen, with the harness's random weights."""
    import torch
    from torchvision.models.vgg import cfgs, make_layers

    from generators.style_transfer.network import random_vgg

    layers = make_layers(cfgs["E"], batch_norm=False)[: _CONTENT_LAYER + 2].eval().requires_grad_(False)
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for layer, drawn in zip(convolutions, random_vgg(5).convolutions.values(), strict=False):
        layer.load_state_dict(drawn.state_dict())
    return layers.to(memory_format=torch.contiguous_format)


def plain_features(network: Any, image: Any) -> dict[int, Any]:
    """Return the features at the style layers' places, which the ReLU behind each changes in place."""
    found = {}
    for place, layer in enumerate(network):
        image = layer(image)
        if place in _STYLE_LAYERS:
            found[place] = image
    return found


def plain_gram(features: Any) -> Any:
    """Return the Gram matrix of one image's features, not normalised."""
    _, channels, height, width = features.shape
    flat = features.view(channels, height * width)
    return flat @ flat.t()


def plain_transfer(
    network: Any, image: Any, source: Any, steps: int, device: Any = "cpu", content: float = 1, style: float = 1000
) -> Any:
    """Return one image uint8 (H, W, 3) with the style of its source."""
    import torch
    from torch.nn import functional

    from harness.weights.catalogue import IMAGENET_MEAN, IMAGENET_STD

    mean, std = (torch.tensor(colour, device=device).view(1, 3, 1, 1) for colour in (IMAGENET_MEAN, IMAGENET_STD))

    def read(pixels: Any) -> Any:
        tensor = torch.from_numpy(pixels.copy()).to(device)
        return (tensor.permute(2, 0, 1)[None].float().contiguous() / 255 - mean) / std

    kept = plain_features(network, read(image))[_CONTENT_LAYER]
    grams = {place: plain_gram(features) for place, features in plain_features(network, read(source)).items()}
    made = read(image).requires_grad_(True)
    optimiser = torch.optim.Adam([made], lr=0.01)
    for _ in range(steps):
        features = plain_features(network, made)
        content_loss = functional.mse_loss(features[_CONTENT_LAYER], kept)
        style_loss = 0
        for place, weight in _STYLE_LAYERS.items():
            count = features[place].numel()
            style_loss = style_loss + weight * functional.mse_loss(plain_gram(features[place]), grams[place]) / count
        optimiser.zero_grad()
        (content * content_loss + style * style_loss).backward()
        optimiser.step()
    return ((made.detach() * std + mean).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).byte().cpu().numpy()


def one(way: str, size: int, steps: int, device_name: str = "cpu") -> dict[str, float]:
    """Measure once in this process."""
    import torch

    from generators.style_transfer import ON_CPU, ON_GPU, StyleTransfer

    device = torch.device(device_name)
    images, sources = pictures(size, ON_CPU if device.type == "cpu" else ON_GPU)
    if way == "plain loop":
        network = plain_network().to(device)
        images, sources = images[:2], sources[:2]

        def work(steps: int) -> None:
            for image, source in zip(images, sources, strict=True):
                plain_transfer(network, image, source, steps, device)

    else:
        precision = "float32" if way == "harness in float32" else "auto"
        plugin = StyleTransfer.create(network="random", precision=precision)
        optimisation = plugin.optimisation((size, size), device)
        optimisation.objective = replace(optimisation.objective, relative=False)  # as for published weights

        def work(steps: int) -> None:
            style = optimisation.style(optimisation.normalised(sources))
            made = optimisation.run(optimisation.normalised(images), style, steps, plugin.parameters.learning_rate)
            optimisation.to_bytes(made)

    work(1)
    started, used = time.perf_counter(), time.process_time()
    work(steps)
    share = len(images) * steps / STEPS  # of images done
    return {
        "images_a_minute": 60 * share / (time.perf_counter() - started),
        "images_a_core_minute": 60 * share / (time.process_time() - used),
        "threads": float(torch.get_num_threads()),
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="of each measurement")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each way, in turn; the best are compared"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that a transfer computes with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.size, arguments.steps, arguments.device)))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            print(f"{way} ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.style_transfer", "--one", way]
            command += ["--size", str(arguments.size), "--steps", str(arguments.steps), "--device", arguments.device]
            environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    where = f"{arguments.threads} threads" if arguments.device == "cpu" else arguments.device
    report({"size": arguments.size, "where": where, "runs": runs}, arguments.json)


def report(document: dict[str, Any], as_json: bool) -> None:
    """Print the best of each way and ratios to the plain loop, by the clock and by the time that cores worked."""
    kinds = ("images_a_minute", "images_a_core_minute")
    best = {way: {kind: max(run[kind] for run in runs) for kind in kinds} for way, runs in document["runs"].items()}
    document["best"] = best
    document["times as fast"] = {
        way: {kind: best[way][kind] / best["plain loop"][kind] for kind in kinds} for way in WAYS
    }
    if as_json:
        print(json.dumps(document, indent=1))
        return
    print(f"Style transfer at {document['size']} px on {document['where']}, {STEPS} steps an image")
    print(f"  {'':20} {'images a minute':>24} {'images a core minute':>24}")
    for way in WAYS:
        shown = [f"{best[way][kind]:14.2f} ({document['times as fast'][way][kind]:5.2f}x)" for kind in kinds]
        print(f"  {way:20} {shown[0]:>24} {shown[1]:>24}")


if __name__ == "__main__":
    main()
