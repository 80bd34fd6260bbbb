"""``harness generator``: list, fit one on its own, sample from what was fitted."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from harness.cli import main
from harness.plugins.registry import registry

PLUGINS = '''
import json
import numpy as np
from harness.learning import Card, Checkpoint, Generator, Parameters, Sample


class MeanParameters(Parameters):
    steps: int = 4


class Mean(Generator):
    """The mean image with noise."""

    name = "mean"
    Parameters = MeanParameters

    def fit(self, pairs, context):
        for step in range(2, self.parameters.steps + 1, 2):
            folder = context.checkpoint_folder(step)
            (folder / "mean.json").write_text(json.dumps(float(pairs.images.mean()) * step))
            yield Checkpoint(step, folder)

    def sample(self, checkpoint, seeds, context, masks=None):
        mean = json.loads((checkpoint.folder / "mean.json").read_text()) / checkpoint.step
        size = context.pairs.size
        images = [
            np.clip(np.random.default_rng(int(s)).normal(mean, 9, (*size, 3)) + checkpoint.step, 0, 255) for s in seeds
        ]
        masks = [(np.random.default_rng(int(s)).random(size) < 0.2).astype(np.uint8) for s in seeds]
        return Sample(np.stack(masks), np.stack(images).astype(np.uint8))


class Outlines(Generator):
    """Masks with a square."""

    name = "outlines"
    card = Card(needs="masks", makes="masks")

    def fit(self, pairs, context):
        yield Checkpoint(0, context.checkpoint_folder(0))

    def sample(self, checkpoint, seeds, context, masks=None):
        made = np.zeros((len(seeds), *context.pairs.size), np.uint8)
        for i, seed in enumerate(seeds):
            made[i, : 2 + int(seed) % 8, :5] = 1
        return Sample(made)


class Painter(Generator):
    """Paints a mask."""

    name = "painter"
    card = Card(makes="images")

    def fit(self, pairs, context):
        yield Checkpoint(1, context.checkpoint_folder(1))

    def sample(self, checkpoint, seeds, context, masks=None):
        return Sample(masks, np.repeat(masks[..., None] * np.uint8(200), 3, axis=3))


class Broken(Generator):
    """Cannot be fitted."""

    name = "broken"

    def fit(self, pairs, context):
        raise RuntimeError("the device is on fire")
        yield

    def sample(self, checkpoint, seeds, context, masks=None):
        raise NotImplementedError
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_database):
    """One home for the whole file, so that the dataset is decoded once."""
    root = tmp_path_factory.mktemp("home")
    (root / "plugins.py").write_text(PLUGINS)
    (root / "mlruns").mkdir()
    shutil.copy(empty_database, root / "mlruns")
    return root


@pytest.fixture
def harness(home, tmp_path, monkeypatch, capsys):
    """Run a command line; return its exit code, standard output and standard error."""
    monkeypatch.setenv("HARNESS_HOME", str(home / "home"))
    monkeypatch.setenv("HARNESS_MLRUNS", str(home / "mlruns"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["generator", *words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def fit(harness, home):
    def run(name: str, *words: str, track: bool = False) -> dict:
        plugin = name if name.islower() else f"{home / 'plugins.py'}:{name}"
        common = ["--data", "phantom", "--size", "16", "--executor", "in-process", "--json"]
        code, out, err = harness("fit", plugin, *common, *([] if track else ["--no-track"]), *words)
        assert code == 0, err
        return json.loads(out)

    return run


def pixels(path):
    return np.asarray(Image.open(path))


def test_list_shows_every_generator_with_its_card(harness):
    code, out, _ = harness("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert set(rows) == {name for kind, name in registry() if kind == "generators"}
    assert rows["resample"]["learns"] is False
    assert rows["dcgan"]["sizes"]
    code, out, _ = harness("list")
    assert all(name in out for name in rows)


def test_a_fit_is_kept_and_not_done_twice(fit):
    first = fit("Mean", "--set", "steps=6", "--real", "5")
    assert first["checkpoints"] == [2, 4, 6]
    assert (first["real"], first["stored"]) == (5, False)
    again = fit("Mean", "--set", "steps=6", "--real", "5")
    assert (again["key"], again["stored"]) == (first["key"], True)
    assert fit("Mean", "--set", "steps=6", "--real", "5", "--seed", "1")["key"] != first["key"]


def test_the_key_of_a_fit_is_the_one_it_has_in_a_study(fit, home):
    from harness.engine.plan import build_plan
    from harness.study.loaded import LoadedStudy
    from harness.study.schema import Study
    from harness.study.yaml_document import Document

    key = fit("resample", "--real", "6", "--seed", "2")["key"]
    value = {
        "dataset": {"name": "phantom", "size": 16},
        "generators": {"again": {"pairs": {"plugin": "resample"}, "sees": 6, "seed": 2}},
        "segmenters": [{"plugin": "smp", "arch": "FPN", "encoder": "resnet18"}],
        "train": [{"synthetic": {"again": 4}}],
        "controls": [],
    }
    plan = build_plan(LoadedStudy("any", "", Study.model_validate(value), Document(value)))
    assert [stage.key for stage in plan.stages.values() if stage.kind == "fit"] == [key]


def test_samples_nest_and_carry_their_lineage(harness, fit, tmp_path):
    fitted = fit("Mean", "--real", "5")
    for count in (3, 5):
        code, out, err = harness(
            "sample", "--from", fitted["key"][:10], "-n", str(count), "--out", f"s{count}", "--json"
        )
        assert code == 0, err
        assert json.loads(out)["count"] == count
    for i in range(3):
        for kind in ("images", "masks"):
            name = f"{kind}/{i:06d}.png"
            np.testing.assert_array_equal(pixels(tmp_path / "s3" / name), pixels(tmp_path / "s5" / name))
    assert set(np.unique(pixels(tmp_path / "s5/masks/000000.png"))) == {0, 255}
    manifest = json.loads((tmp_path / "s5" / "manifest.json").read_text())
    assert (manifest["fit"], manifest["checkpoint"]) == (fitted["key"], 4)
    assert len(manifest["pairs"]) == 5
    assert len({pair["seed"] for pair in manifest["pairs"]}) == 5
    (lineage,) = manifest["lineages"]
    assert len(lineage) == 5
    code, _, _ = harness("sample", "--from", fitted["key"], "-n", "3", "--out", "other", "--seed", "1")
    assert code == 0
    assert not np.array_equal(pixels(tmp_path / "other/images/000000.png"), pixels(tmp_path / "s3/images/000000.png"))


def test_an_earlier_checkpoint_can_be_named(harness, fit, tmp_path):
    key = fit("Mean", "--real", "5")["key"]
    for step in ("2", "4"):
        assert harness("sample", "--from", key, "-n", "1", "--out", step, "--checkpoint", step)[0] == 0
    early, late = (pixels(tmp_path / step / "images/000000.png").astype(float).mean() for step in ("2", "4"))
    assert late - early == pytest.approx(2, abs=0.5)
    code, _, err = harness("sample", "--from", key, "-n", "1", "--out", "none", "--checkpoint", "3")
    assert code == 1
    assert "no checkpoint at step 3; it has 2, 4" in err


def test_each_resampled_pair_names_the_one_real_pair_it_is(harness, fit, tmp_path):
    fit("resample", "--real", "4")
    code, _, err = harness("sample", "--from", "fit resample on 4 real", "-n", "12", "--out", "out")
    assert code == 0, err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert 1 < len(manifest["lineages"]) <= 4
    assert {len(lineage) for lineage in manifest["lineages"]} == {1}


def test_masks_are_sampled_and_then_painted(harness, fit, tmp_path):
    masks, painter = fit("Outlines")["key"], fit("Painter")["key"]
    assert harness("sample", "--from", masks, "-n", "4", "--out", "made")[0] == 0
    assert not (tmp_path / "made" / "images").exists()
    code, _, err = harness("sample", "--from", painter, "-n", "6", "--out", "painted", "--masks", "made/masks")
    assert code == 0, err
    for i in range(6):
        mask = pixels(tmp_path / f"made/masks/{i % 4:06d}.png")
        np.testing.assert_array_equal(pixels(tmp_path / f"painted/masks/{i:06d}.png"), mask)
        np.testing.assert_array_equal(pixels(tmp_path / f"painted/images/{i:06d}.png")[..., 0] > 0, mask > 0)
    code, _, err = harness("sample", "--from", painter, "-n", "1", "--out", "bare")
    assert code == 1
    assert "painter makes an image for a given mask" in err
    (tmp_path / "other").mkdir()
    Image.fromarray(np.full((8, 12), 255, np.uint8)).save(tmp_path / "other" / "small.png")
    code, _, err = harness("sample", "--from", painter, "-n", "1", "--out", "no", "--masks", "other")
    assert code == 2
    assert "--masks other: they have 12 x 8 pixels; the generator makes 16 x 16." in err


def test_a_fit_is_found_by_its_mlflow_run_and_by_its_model(harness, fit, home, tmp_path):
    from mlflow import MlflowClient

    key = fit("Mean", "--real", "7", track=True)["key"]
    client = MlflowClient(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("generator-mean")
    runs = client.search_runs([experiment.experiment_id], f"tags.`harness.stage-key` = '{key}'")
    model = f"models:/{runs[0].outputs.model_outputs[0].model_id}"
    for source, out in ((key, "store"), (runs[0].info.run_id, "run"), (model, "model")):
        code, _, err = harness("sample", "--from", source, "-n", "2", "--out", out)
        assert code == 0, err
    manifests = [json.loads((tmp_path / out / "manifest.json").read_text()) for out in ("store", "run", "model")]
    assert manifests[0] == manifests[1] == manifests[2]
    for out in ("run", "model"):
        np.testing.assert_array_equal(
            pixels(tmp_path / out / "images/000001.png"), pixels(tmp_path / "store/images/000001.png")
        )
    code, _, err = harness("sample", "--from", "f" * 32, "-n", "1", "--out", "none")
    assert code == 1
    assert "has no run" in err
    code, _, err = harness("sample", "--from", model, "-n", "1", "--out", "none", "--checkpoint", "2")
    assert code == 2
    assert "holds only step 4" in err


def test_a_name_of_several_fits_is_refused_with_their_keys(harness, fit):
    keys = [fit("Mean", "--real", "9", "--set", f"steps={steps}")["key"] for steps in (2, 4)]
    code, _, err = harness("sample", "--from", "fit mean on 9 real", "-n", "1", "--out", "none")
    assert code == 2
    assert "2 results are called 'fit mean on 9 real'" in err
    assert all(key[:12] in err for key in keys)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["fit", "dgan", "--data", "phantom"], 2, "did you mean 'dcgan'?"),
        (["fit", "dcgan", "--data", "phantom", "--set", "stepz=3"], 2, "unknown key 'stepz'; did you mean 'steps'?"),
        (["fit", "dcgan", "--data", "phantom", "--size", "48"], 2, "dataset.size is 48"),
        (["fit", "resample", "--data", "kvasir-seg"], 2, "harness data import kvasir-seg"),
        (["fit", "resample", "--data", "phantom", "--real", "100000"], 2, "100000"),
        (["fit", "resample", "--data", "phantom", "--split", "{kfold: 1}"], 2, "kfold"),
        (
            ["sample", "--from", "fit nothing", "-n", "1", "--out", "x"],
            2,
            "No fitted generator is called 'fit nothing'",
        ),
    ],
)
def test_a_mistake_is_one_sentence(harness, words, code, told):
    ended, out, err = harness(*words)
    assert ended == code
    assert out == ""
    assert told in err
    assert "Traceback" not in err


def test_a_fit_that_fails_says_why(harness, home):
    plugin = f"{home / 'plugins.py'}:Broken"
    common = ["--data", "phantom", "--size", "16", "--executor", "in-process", "--no-track"]
    code, _, err = harness("fit", plugin, *common)
    assert code == 1
    assert "could not be fitted: RuntimeError: the device is on fire" in err


def test_nothing_is_written_over(harness, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    code, _, err = harness("sample", "--from", "anything", "-n", "1", "--out", "full")
    assert code == 2
    assert "full is not empty" in err


@pytest.mark.parametrize(("plugin", "part"), [("mask-ddpm", "masks"), ("mask-ldm", "images"), ("dcgan", "pairs")])
def test_settings_are_those_of_the_plugin_that_is_fitted(home, plugin, part):
    from harness.cli.generator import declare_fit
    from harness.engine.plan import plan_fit

    plan, key = plan_fit(declare_fit(plugin, "phantom", 32, ["steps=7"], None, None, 0))
    fitted = plan.stages[key]
    assert fitted.parts["plugin"]["name"] == plugin
    assert fitted.parts["plugin-parameters"]["steps"] == 7
    declared = plan.loaded.study.generators[plugin].uses()
    assert [name for name, _ in declared] == (["masks", "images"] if part == "images" else [part])
