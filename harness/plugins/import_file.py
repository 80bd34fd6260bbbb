"""Importing a Python file of the user's, once, under a name made from its path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from harness.errors import PluginError


def import_file(path: Path) -> ModuleType:
    """Import a plugin's file under a name made from its path, once."""
    if not path.is_file():
        raise PluginError(
            f"There is no plugin file {path}; give the path of a Python file, as in my/generator.py:MyGenerator."
        )
    name = f"harness_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path.resolve())
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
