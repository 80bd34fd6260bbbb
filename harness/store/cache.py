"""Arrays that are computed once: what was measured of a set of pictures is kept in the store and read the next time.

A key names everything an array depends on (the pictures' content, the network, how they were resized, the version of
the arithmetic), so an array that is there is the array that would be computed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.home import store_folder

_FOLDER = "features"


def cached_files() -> list[Path]:
    """Return the files of all arrays that are kept, each last changed when it was last used."""
    return sorted((store_folder() / _FOLDER).rglob("*.npy"))


def cached_path(kind: str, key: str) -> Path:
    """Return the file in which an array is kept, whether or not it is there yet."""
    return store_folder() / _FOLDER / re.sub(r"[^\w.-]", "_", kind) / f"{key}.npy"


def cached(kind: str, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return an array from the store, or compute it and keep it.

    Args:
        kind: what is kept, such as a network's name with the way of resizing; the folder's name.
        key: digest of what it is computed from.
        compute: called when nothing is kept, or when what is kept cannot be read.
    """
    path = cached_path(kind, key)
    try:
        array = np.load(path, allow_pickle=False)
        os.utime(path)  # the time of last use, by which ``harness store gc`` goes
        return array
    except FileNotFoundError:
        pass
    except (ValueError, EOFError, OSError):
        path.unlink(missing_ok=True)  # torn by a power loss: it is computed again
    computed = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        np.save(file, computed)
    Path(temporary).replace(path)  # one atomic rename, so that no reader sees half a file
    return computed
