"""The benchmark of diffusion models: what it times is the training it says, and its table is of the samples it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import diffusion
from benchmarks.diffusion import CASES, WAYS, Clock, Task
from generators.mask_ddpm import MaskDDPM

TINY = {"network": "tiny", "batch_size": 4, "attention": (4,)}


class MeanColours(torch.nn.Module):
    """A feature network without weights: the mean colours of the four quarters of a picture."""

    side = 16

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("files")
    Task("masks", folder, 16, "tiny", {}, "cpu").write(16)
    return folder


def task(case: str, files: Path, **given: Any) -> Task:
    return Task(case, files, 16, "tiny", TINY | given, "cpu")


@pytest.mark.parametrize("case", CASES)
def test_the_plain_loop_trains_the_same_network_for_the_same_objective(case: str, files: Path) -> None:
    """At the start a network predicts nothing, so that the loss is what there is to predict, as in our own fit."""
    given = {"variance": "fixed"} if case == "masks" else {"prediction": "noise"}
    losses = diffusion.plain_steps(task(case, files, batch_size=16, **given), workers=0)
    # The mean of the square of unit noise.
    assert next(losses) == pytest.approx(1, abs=0.15)
    first = [next(losses) for _ in range(3)]
    assert all(0 < loss < 1.5 for loss in first)


def test_the_plain_loop_has_masks_alone_where_masks_are_learned(files: Path) -> None:
    masks = next(diffusion.plain_batches(task("masks", files), 4, workers=0))
    pairs = next(diffusion.plain_batches(task("pixels", files), 4, workers=0))
    assert (masks.shape, pairs.shape) == ((4, 1, 16, 16), (4, 4, 16, 16))
    assert set(masks.unique().tolist()) == {-1.0, 1.0}
    assert set(pairs[:, 3].unique().tolist()) == {-1.0, 1.0}
    assert len(pairs[:, :3].unique()) > 10


@pytest.mark.parametrize("case", CASES)
def test_our_side_is_the_plugin_s_fit(case: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No FID of reconstructions, which would take most of the time.
    monkeypatch.setattr("generators.first_stage.reconstruction.find", lambda name: None)
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return steps == 3

    diffusion.fit(task(case, files), "float32", step)
    assert steps == 3
    plugin = task(case, files).plugin("float32")
    assert plugin.name == ("mask-ddpm" if case == "masks" else "mask-ldm")
    if case != "masks":
        stage = plugin.parameters.first_stage
        assert (stage and stage.file) == (str(files / "first-stage.safetensors") if case == "latents" else None)


def test_the_clock_leaves_out_the_first_steps_and_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(diffusion.time, "perf_counter", lambda: now)
    monkeypatch.setattr(diffusion.time, "process_time", lambda: now / 2)
    clock = Clock(5, "cpu")
    took = 0
    while True:
        now += 100 if took < diffusion._WARM_UP else 2
        took += 1
        if clock.step():
            break
    # Five seconds of the processor are ten on the clock, and five steps of two.
    assert took == diffusion._WARM_UP + 5
    told = clock.told(batch_size=8)
    assert told == {"images_a_second": 4.0, "images_a_core_second": 8.0, "seconds_to_first_step": 100.0}


def test_medians_are_compared_with_the_plain_loop() -> None:
    def runs(*speeds: float) -> list[dict[str, float]]:
        return [{"images_a_second": s, "images_a_core_second": 2 * s, "seconds_to_first_step": 1.0} for s in speeds]

    found = diffusion.compared(dict(zip(WAYS, [runs(10, 1, 12), runs(20, 30, 15), runs(40, 41, 1)], strict=True)))
    assert [found["times as fast"][way]["images_a_second"] for way in WAYS] == [1, 2, 4]
    assert found["medians"]["harness"]["images_a_core_second"] == 80


def test_a_sampler_s_name_says_its_steps_and_noise() -> None:
    assert diffusion.sampler_settings("ddim:50:1") == {"sampler": "ddim", "sampling_steps": 50, "eta": 1.0}
    assert diffusion.sampler_settings("dpm-solver++:20")["eta"] == 0.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    plugin = MaskDDPM.create(network="tiny", attention=(8,))
    config = {
        "side": 16, "learned_variance": True, "channels": 1, "network": "tiny", "attention": [8], "patch": 1,
        "dropout": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    network = plugin.build(config)
    torch.nn.init.normal_(network.network.conv_out.weight, std=0.3)
    plugin.write(folder, 7, network, config)
    return folder


def write_pairs(folder: Path, count: int) -> Path:
    randomness = np.random.default_rng(count)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            pixels = randomness.integers(0, 2, (16, 16), dtype=np.uint8) * 255
            picture = Image.fromarray(pixels)
            (picture.convert("RGB") if kind == "images" else picture).save(folder / kind / f"{i}.png")
    return folder


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["diffusion", *words])
    diffusion.main()
    return capsys.readouterr().out


def test_samplers_are_compared_by_what_they_make_of_the_same_seeds(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.engine.places import read_pairs
    from harness.metrics.features.networks import network_named
    from harness.metrics.fidelity.frechet import frechet_distance
    from harness.metrics.fidelity.sim import similarity
    from harness.plugins.contract import Checkpoint, SampleContext

    real = write_pairs(tmp_path / "real", 20)
    own = f"{Path(__file__)}:MeanColours"
    words = ["sampling", "--checkpoint", str(checkpoint), "--real", str(real), "--network", own, "--samples", "18"]
    words += ["--held-out", str(real), "--threads", "1", "--samplers", "ddim:2", "dpm-solver++:3", "--rounds", "2"]
    told = json.loads(run_main(monkeypatch, capsys, *words, "--json"))

    pairs = read_pairs(str(real), 16)
    seeds = np.random.default_rng([0, 1]).integers(0, 2**60, 18)
    plugin = MaskDDPM.create(sampler="ddim", sampling_steps=2, eta=0.0)
    masks = plugin.sample(Checkpoint(7, checkpoint), seeds, SampleContext(torch.device("cpu"), pairs)).masks
    second = told["samplers"]["ddim:2"]["runs"][1]
    assert second["sim"] == pytest.approx(similarity(pairs.masks, masks).value)

    def described(masks: Any) -> Any:
        planes = torch.from_numpy(np.array(masks)).float()[:, None].expand(-1, 3, -1, -1) * 255
        return network_named(own).extract(planes).numpy()

    distance = frechet_distance(described(pairs.masks), described(masks))
    assert second["distance"] == pytest.approx(distance, rel=1e-3)
    assert told["samplers"]["ddim:2"]["runs"][0]["distance"] != second["distance"]
    # The first 18 of the real ones among themselves.
    assert told["held out"]["distance"] < second["distance"]
    assert told["held out"]["sim"] == 1
    shown = run_main(monkeypatch, capsys, *words)
    assert "18 samples against 20" in shown
    assert "FID" not in shown


def test_mistakes_are_said(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = write_pairs(tmp_path / "real", 4)
    own = f"{Path(__file__)}:MeanColours"
    words = ["sampling", "--checkpoint", str(checkpoint), "--real", str(real), "--network", own, "--threads", "1"]
    with pytest.raises(SystemExit, match="has 4 pairs, and 18 samples"):
        run_main(monkeypatch, capsys, *words, "--samples", "18", "--held-out", str(real))
    with pytest.raises(SystemExit, match="sampler"):
        run_main(monkeypatch, capsys, *words, "--samples", "18", "--samplers", "euler:3")
