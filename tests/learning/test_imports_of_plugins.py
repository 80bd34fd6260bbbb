"""What plugins may import from the harness is one package, and it has no circle with them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import harness.learning

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for folder in ("generators", "segmenters") for path in (ROOT / folder).rglob("*.py"))


def imports_of(path):
    """Modules that a file names in imports, anywhere in it; ``from a import b`` is a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_plugins_that_ship_import_harness_learning_and_nothing_else_of_the_harness(path):
    modules = {name for name in imports_of(path) if name.partition(".")[0] == "harness"}
    assert {name for name in modules if name.split(".")[:2] != ["harness", "learning"]} == set()


def test_no_file_of_a_plugin_imports_one_that_imports_it():
    files = {name_of(path): path for path in SHIPPED}
    waiting = {name: {other for other in imports_of(path) if other in files} for name, path in files.items()}
    while free := [name for name, needed in waiting.items() if not needed & waiting.keys() - {name}]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def test_the_face_has_what_it_says_and_is_cheap():
    assert all(hasattr(harness.learning, name) for name in harness.learning.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        harness.learning.Trainer  # noqa: B018
    heavy = "[m for m in ('torch', 'numpy', 'scipy', 'PIL') if m in sys.modules]"
    code = f"import sys; import harness.learning; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
