"""``harness metrics`` through the real command line: what each prints, from folders, datasets and stored results."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import harness.weights.locate
from harness.engine.places import read_both_masks, read_images
from harness.metrics.features.extract import features
from harness.metrics.features.networks import network_named
from harness.metrics.fidelity.frechet import beside_fid, frechet_distance
from harness.metrics.fidelity.sifid import single_image_distances

CPU = torch.device("cpu")


@pytest.fixture
def folders(harness_home):
    for kind, seed, count in (("real", 0, 18), ("made", 1, 17)):
        draw = np.random.default_rng(seed)
        for part in ("images", "masks"):
            (harness_home / kind / part).mkdir(parents=True)
        for i in range(count):
            coarse = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC)
            picture.save(harness_home / kind / "images" / f"{i:02}.png")
            mask = np.zeros((40, 40), np.uint8)
            size = int(draw.integers(4, 30))
            mask[:size, :size] = 255
            Image.fromarray(mask).save(harness_home / kind / "masks" / f"{i:02}.png")
    return str(harness_home / "real"), str(harness_home / "made")


def test_fid_of_few_images_brings_kid_and_a_corrected_value(folders, command, inception):
    answer = command("metrics", "fid", *folders, "--json", "--seed", "2")
    assert answer.code == 0, answer.err
    network = network_named("fid-inception")
    a, b = (features(read_images(folder).images, network, device=CPU) for folder in folders)
    said = answer.json
    assert said["fid"] == pytest.approx(frechet_distance(a, b))
    beside = beside_fid(a, b, 2)
    assert {name: said[name] for name in beside} == pytest.approx(beside)
    assert (said["n_real"], said["n_synthetic"], said["network"], said["mode"]) == (18, 17, "fid-inception", "clean")


@pytest.fixture
def few_features(monkeypatch, random_network):
    """The first eight features: that program takes the root of a matrix of 2048 x 2048 in 20 s."""

    class Few(torch.nn.Module):
        def forward(self, images, tap=2048):
            return 1000 * random_network(images, tap)[:, :8]

    monkeypatch.setattr(harness.weights.locate, "fid_inception", Few)


@pytest.mark.parametrize("mode", ["clean", "legacy"])
def test_the_published_program_says_the_same_fid_and_how_far_ours_is_from_it(folders, command, few_features, mode):
    answer = command("metrics", "fid", *folders, "--check", "--mode", mode, "--json")
    assert answer.code == 0, answer.err
    said = answer.json
    assert said["fid"] == pytest.approx(said["clean-fid"], rel=1e-4)
    assert said["clean-fid"] > 1
    assert said["clean-fid-difference"] == said["fid"] - said["clean-fid"]
    alone = command("metrics", "fid", *folders, "--mode", mode, "--json").json
    assert {name for name in said if "clean-fid" in name} == {"clean-fid", "clean-fid-difference"}
    assert alone == {name: value for name, value in said.items() if "clean-fid" not in name}


def test_only_the_fid_is_checked(folders, command, inception):
    answer = command("metrics", "fid", *folders, "--check", "--network", "resnet34")
    assert answer.code == 2
    assert "--check is for fid, with its own network; leave out --network, or --check." in answer.err
    assert command("metrics", "kid", *folders, "--check").code == 2


def test_stored_features_need_no_network(folders, command, monkeypatch, inception):
    first = command("metrics", "fid", *folders, "--json").json

    def gone():
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(harness.weights.locate, "fid_inception", gone)
    assert command("metrics", "fid", *folders, "--json").json == first


def test_another_network_is_never_called_fid(folders, command, harness_home):
    (harness_home / "corner.py").write_text(
        "import torch\n\n\nclass Corner(torch.nn.Module):\n    side = 16\n\n"
        "    def forward(self, images):\n        return images[:, :, :4, :4].flatten(1) / 255\n"
    )
    said = command("metrics", "frechet-distance", *folders, "--network", "corner.py:Corner", "--json").json
    assert "fid" not in said
    assert said["network"].startswith("corner.py:Corner (")
    assert said == command("metrics", "fid", *folders, "--network", "corner.py:Corner", "--json").json


def test_mask_area_draws_its_histograms(folders, command, tmp_path):
    said = command("metrics", "mask-area", *folders, "--figures", str(tmp_path / "drawn"), "--json").json
    _, made = read_both_masks(*folders)
    assert sum(said["histogram-real"]) == 18
    assert said["mean-area-synthetic"] == pytest.approx(made.masks.mean())
    assert said["empty-masks"] == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"mask-areas.png", "mask-areas.pdf"}


def test_memorisation_draws_its_closest_pairs(folders, command, tmp_path):
    real = folders[0]
    said = command("metrics", "memorisation", real, real, "--figures", str(tmp_path / "drawn"), "--json").json
    assert said["copies"] is True
    assert said["exact-copies"] == 18
    assert all(pair["synthetic"] == pair["real"] for pair in said["closest"])
    assert (tmp_path / "drawn" / "closest.png").stat().st_size > 1000


def pools(study):
    """Folders of the pools that were sampled, by label."""
    results = (study.project / ".harness/store/results/sample").glob("*/result.json")
    return {json.loads(path.read_text())["label"]: path.parent / "pairs" for path in results}


def test_sifid_goes_by_lineage_where_it_is_known_and_is_zero_with_itself(finished_study, command, inception):
    pool = pools(finished_study)["sample control:resample on 4 real"]
    document = json.loads((pool / "pairs.json").read_text())
    said = command("metrics", "sifid", "twelve", pool.parent.name, "--json").json
    sources = [next(iter(document["lineages"][i])) for i in document["lineage"]]
    originals, made = read_images("twelve"), read_images(str(pool))
    pairs = [(originals.ids.index(source), j) for j, source in enumerate(sources)]
    expected = single_image_distances(originals.images, made.images, device=CPU, pairs=pairs)
    assert said["sifid"] == pytest.approx(expected.mean(), rel=1e-6)
    same = command("metrics", "sifid", "twelve", "twelve", "--json").json
    assert same["sifid"] == pytest.approx(0, abs=1e-5)


def test_masks_of_a_dataset_come_at_the_size_of_the_others(finished_study, command):
    key = pools(finished_study)["sample paint"].parent.name
    for places in (("twelve", key), (key, "twelve")):
        answer = command("metrics", "sim", *places, "--json")
        assert answer.code == 0, answer.err
        assert 0 < answer.json["sim"] <= 1
    real, made = read_both_masks("twelve:fit", key)
    assert real.masks.shape[1:] == made.masks.shape[1:] == (32, 32)


@pytest.mark.parametrize("metric", ["fid", "kid", "prdc"])
def test_one_image_is_told_in_one_sentence(folders, command, tmp_path, metric, inception):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), (200, 90, 80)).save(tmp_path / "one" / "a.png")
    answer = command("metrics", metric, folders[0], str(tmp_path / "one"))
    assert answer.code == 1
    assert "holds one picture" in answer.err
    assert "Traceback" not in answer.err
