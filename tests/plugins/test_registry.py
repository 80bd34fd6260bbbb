"""The documentation's plugins conform, and ``harness plugin`` finds, describes and checks them."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from generators.four_channel_gan.training import recalibrate
from harness.conformance import check_plugin
from harness.errors import PluginError
from harness.plugins.contract import KINDS
from harness.plugins.registry import load_plugin, registry

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-plugin.md"
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTED = {
    "gaussian": ("generators", "Gaussian"),
    "mirror": ("generators", "Mirror"),
    "brightness": ("refiners", "Brightness"),
    "tiny": ("segmenters", "Tiny"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The package that docs/how-to/write-a-plugin.md describes, as files, with an installer's metadata."""
    root = tmp_path_factory.mktemp("package")
    for name, text in BLOCK.findall(DOCUMENTATION.read_text()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "my_plugins" / "__init__.py").touch()
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    metadata = root / "my_plugins-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return root


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a new process that has the package on its path."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", "from harness.cli import main; main()", "plugin", *arguments]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def test_documentation_has_every_example(package):
    files = {path.stem for path in (package / "my_plugins").glob("*.py")} - {"__init__"}
    assert files == set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_plugin_conforms(package, tmp_path, name):
    kind, class_name = DOCUMENTED[name]
    plugin = load_plugin(kind, f"{package}/my_plugins/{name}.py:{class_name}")
    failed = [check for check in check_plugin(kind, plugin, tmp_path / "run") if not check.passed]
    assert not failed


@pytest.mark.parametrize(
    ("kind", "name"),
    [key for key, entry in registry().items() if entry.origin == "built-in" and key[0] != "segmenters"],
)
def test_built_in_plugin_conforms(tmp_path, kind, name, monkeypatch):
    # What fits show and keep may be as poor as their few steps.
    monkeypatch.setattr("generators.diffusion.generator._GRID_STEPS", 2)
    monkeypatch.setattr("generators.four_channel_gan.training.recalibrate", partial(recalibrate, batches=2))
    checks = check_plugin(kind, load_plugin(kind, name), tmp_path / "run", fresh_process=False)
    assert [check for check in checks if not check.passed] == []


def test_installed_package_is_listed_with_its_origin_and_not_imported(package):
    (package / "my_plugins" / "__init__.py").write_text("raise ImportError('an extra is missing')\n")
    try:
        listed = run(package, "list", "--json")
        used = run(package, "show", "gaussian")
    finally:
        (package / "my_plugins" / "__init__.py").write_text("")
    assert listed.returncode == 0, listed.stderr
    entries = {(entry["kind"], entry["name"]): entry for entry in json.loads(listed.stdout)}
    for name, (kind, class_name) in DOCUMENTED.items():
        entry = entries[kind, name]
        assert (entry["origin"], entry["target"]) == ("my-plugins", f"my_plugins.{name}:{class_name}")
    assert entries["generators", "dcgan"]["origin"] == "built-in"
    assert used.returncode == 2
    assert "an extra is missing" in used.stderr
    assert "Traceback" not in used.stderr


def test_check_of_an_installed_plugin_prints_each_check(package):
    result = run(package, "check", "mirror", "--json", "--no-fresh-process")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["kind"] == "generators"
    assert document["passed"]
    assert {"fit", "sample", "sources", "independent"} <= {check["name"] for check in document["checks"]}


def app():
    from harness.cli.plugin import app as application

    return application


def test_list_imports_no_plugin():
    code = (
        "import sys; from harness.cli.plugin import app; app(['list'], standalone_mode=False); "
        "print([m for m in sys.modules if m.startswith(('generators.', 'segmenters.', 'torch'))], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "copy-paste" in result.stdout


def test_show_describes_every_parameter():
    result = CliRunner().invoke(app(), ["show", "dcgan", "--json"])
    document = json.loads(result.stdout)
    parameters = {parameter["name"]: parameter for parameter in document["parameters"]}
    assert document["card"]["makes"] == "pairs"
    assert parameters["loss"]["allowed"] == "bce, hinge"
    assert parameters["ema"]["allowed"] == ">= 0, < 1"
    assert parameters["augment"]["default"] == ["translation"]
    assert all(parameter["description"] and parameter["type"] for parameter in parameters.values())


def test_show_for_people_names_the_plugin_and_its_parameters():
    text = CliRunner().invoke(app(), ["show", "colour-transfer"]).stdout
    assert "Reinhard" in text
    assert "strength" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "copy-pase"], "did you mean 'copy-paste'?"),
        (["show", "dcgan", "--kind", "generater"], "did you mean 'generators'?"),
        (["show", "dcgan", "--kind", "refiners"], "There is no refiner 'dcgan'"),
        (["check", "no_such_module:Thing"], "No module named 'no_such_module'"),
        (["check", "generators.dcgan:DCGN"], "did you mean 'DCGAN'?"),
        (["check", "missing/file.py:Thing"], "no plugin file missing/file.py"),
        (["check", "harness.plugins.contract:Plugin"], "must derive from Generator, Refiner or Segmenter"),
    ],
)
def test_a_wrong_name_gets_one_sentence(arguments, said):
    result = CliRunner().invoke(app(), arguments)
    assert isinstance(result.exception, PluginError)
    assert said in str(result.exception)


def test_check_exits_1_when_a_check_fails(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(
        "from harness.plugins.contract import Refiner, Sample\n"
        "class Broken(Refiner):\n"
        "    '''Returns nothing of use.'''\n"
        "    name = 'broken'\n"
        "    def refine(self, synthetic, sources, seeds, context):\n"
        "        return Sample(synthetic.masks, synthetic.images[:, :4])\n"
    )
    result = CliRunner().invoke(app(), ["check", f"{path}:Broken", "--no-fresh-process"])
    assert result.exit_code == 1
    assert "FAIL  refine" in result.stdout
    assert "(7, 4, 32, 3)" in result.stdout


def test_every_built_in_is_named_as_its_class_says():
    for (kind, name), entry in registry().items():
        assert kind in KINDS
        if entry.origin == "built-in":
            assert load_plugin(kind, name).name == name
            assert entry.summary
