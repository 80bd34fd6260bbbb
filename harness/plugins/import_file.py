"""Importing a Python file of the user's, once, under a name made from its path."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

from harness.errors import PluginError

_PREFIX = "harness_plugin_"
#: Python locks the imports of modules that it finds itself only; here a second thread would see half a module.
_LOCK = threading.RLock()


def import_file(path: Path) -> ModuleType:
    """Import a file under a name made from its path, once.

    Raises:
        PluginError: there is no such file.
        Exception: whatever the file raises.
    """
    if not path.is_file():
        raise PluginError(
            f"There is no plugin file {path}; give the path of a Python file, as in my/generator.py:MyGenerator."
        )
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    with _LOCK:
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


def imported_from_file(module: str) -> bool:
    """Whether a module's name is one that :func:`import_file` gave it."""
    return module.startswith(_PREFIX)


def place_of(module: str) -> str:
    """Return what another process can import a module by: the path of a file that was given by path, else its name."""
    by_path = module == "__main__" or imported_from_file(module)
    return str(sys.modules[module].__file__) if by_path else module
