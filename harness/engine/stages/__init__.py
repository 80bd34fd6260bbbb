"""Stage kinds, one file each: a ``VERSION`` that changes when its results do, and ``run``."""

#: Version of the engine's part of each stage kind. Raise one when the numbers that the kind computes change.
VERSIONS: dict[str, int] = {
    "dataset": 1,
    "fit": 1,
    "select": 2,
    "sample": 1,
    "refine": 2,
    "train": 1,
    "evaluate": 2,
    "fidelity": 3,
}

#: Kinds that hold a network and its batches on the device; the others are small beside them and may share it.
LARGE = frozenset({"fit", "select", "sample", "refine", "train"})
