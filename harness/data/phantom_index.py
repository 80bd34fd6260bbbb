"""The index of the phantom dataset: what other datasets learn from their files at import."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from harness.data import decoding, duplicates, phantom
from harness.data.entry import Entry

#: Frames are looked at this small for the index: polyp fraction and perceptual hash hardly change with size.
_INDEX_SIZE = 64


def phantom_entries(count: int, seed: int, contrast: float, folder: Path) -> tuple[Entry, ...]:
    """Return the entries of the first ``count`` frames of a seed and a contrast, sorted by id.

    Made at the first call (a few milliseconds a frame) and kept under ``folder``; a kept index that cannot be read is
    made again.
    """
    eased = "" if contrast == 1 else f"-contrast-{contrast:g}"
    kept = folder / "index" / f"{seed}-{count}{eased}-v{phantom.VERSION}.json"
    with suppress(OSError, ValueError, TypeError):
        return tuple(Entry(**row) for row in json.loads(kept.read_text()))
    entries = tuple(decoding.in_threads(lambda index: _entry(seed, index, contrast), range(count)))
    # In a read-only home the index is made again next time.
    with suppress(OSError), decoding.staging_folder(kept.parent) as staging:
        (staging / kept.name).write_text(json.dumps([asdict(entry) for entry in entries]))
        (staging / kept.name).replace(kept)
    return entries


def _entry(seed: int, index: int, contrast: float) -> Entry:
    name = f"{seed}-{index:06d}"
    image, mask = phantom.render(seed, index, _INDEX_SIZE, contrast)
    recipe = f"phantom {phantom.VERSION} {seed} {index}" + ("" if contrast == 1 else f" {contrast:g}")
    return Entry(
        id=name,
        image=f"images/{name}.png",
        mask=f"masks/{name}.png",
        width=phantom.NATIVE_SIZE,
        height=phantom.NATIVE_SIZE,
        polyp_fraction=round(float(mask.mean()), 6),
        group=f"{seed}-patient-{phantom.patient_of(index):06d}",
        fingerprint=duplicates.perceptual_hash(duplicates.thumbnail(Image.fromarray(image))),
        sha256=hashlib.sha256(recipe.encode()).hexdigest(),
    )
