"""Masks out of a folder of pictures: those of another generator, of another dataset, or drawn by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from harness.learning import (
    Card,
    Checkpoint,
    DataError,
    FitContext,
    Generator,
    HarnessError,
    Parameters,
    Sample,
    SampleContext,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

_MASKS = "masks.npy"


class MaskFolderParameters(Parameters):
    """Where the masks are."""

    path: str = Field(
        "masks", min_length=1, description="folder with one picture a mask; relative to where the harness is run"
    )


class MaskFolder(Generator):
    """The masks of a folder, one picture a mask, in the order of their names.

    For masks that were made elsewhere, such as the published samples of a generator of masks. A picture is turned into
    a mask as ``harness data import`` does: made of two values at its native size, the brighter one polyp, then resized
    by area with the study's geometry. The masks take turns: item *i* of a pool is picture *i* by name, and starts again
    when they are used up.

    Nothing is known of where the masks come from. Each is taken to owe something to all real pairs that the generator
    was given; whether images of other roles are behind them, the leak guard cannot see, and every report says so.
    """

    name: ClassVar[str] = "mask-folder"
    card: ClassVar[Card] = Card(needs="masks", makes="masks", learns=False, cost="milliseconds a mask on a CPU")
    Parameters: ClassVar[type[Parameters]] = MaskFolderParameters

    parameters: MaskFolderParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters that name a folder with three masks, which it makes for a run of a second."""
        import tempfile

        import numpy as np
        from PIL import Image

        folder = Path(tempfile.gettempdir()) / "harness-example-of-mask-folder"
        folder.mkdir(exist_ok=True)
        for i in range(3):
            mask = np.zeros((48, 64), np.uint8)
            mask[8 : 20 + 8 * i, 12 : 40 + 8 * i] = 255
            Image.fromarray(mask).save(folder / f"{i}.png")
        return {"path": str(folder)}

    def missing_requirements(self) -> list[str]:
        """Return what is wrong with the folder: it is missing or empty, or pictures in it are no masks."""
        from harness.learning.image_files import in_threads

        try:
            files = self._files()
        except HarnessError as error:
            return [str(error)]
        problems = [problem for problem in in_threads(lambda i: _problem(files[i]), range(len(files))) if problem]
        if not problems:
            return []
        more = f" ({len(problems)} such files)" if len(problems) > 1 else ""
        return [f"{problems[0]}{more}"]

    def turns(self, checkpoint: Checkpoint, pairs: PairSet) -> int:
        """Return the number of masks in the folder: item *i* of a pool is picture *i* by name."""
        return len(_stored(checkpoint))

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Read the masks at the size of the pairs; yield one checkpoint at step 0, which holds them.

        Raises:
            HarnessError: the folder is missing or has no pictures, a picture cannot be read as a mask, or the pairs are
                not square.
        """
        import numpy as np

        from harness.learning.image_files import in_threads

        height, width = pairs.size
        if height != width:
            raise HarnessError(f"mask-folder makes square masks, got pairs of {width} x {height} pixels.")
        files = self._files()
        made = np.empty((len(files), height, width), np.uint8)
        for i, mask in enumerate(in_threads(lambda i: _read(files[i], height, context.geometry), range(len(files)))):
            made[i] = mask
            context.progress(i + 1, len(files), "masks")
        folder = context.checkpoint_folder(0)
        np.save(folder / _MASKS, made)
        context.note(
            f"The masks of mask-folder are {len(files)} pictures of a folder. Nothing says what they were made from: "
            "the leak guard cannot see whether images that are scored on are behind them."
        )
        yield Checkpoint(0, folder)

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Return one mask a seed: of ``n`` pictures, the one at place ``seed % n`` by name."""
        import numpy as np

        stored = _stored(checkpoint)
        return Sample(np.array(stored[np.asarray(seeds) % len(stored)]))

    def _files(self) -> list[Path]:
        """Return the pictures of the folder by name.

        Raises:
            HarnessError: there is no such folder, or no picture in it.
        """
        from harness.learning.image_files import EXTENSIONS

        folder = Path(self.parameters.path).expanduser()
        if not folder.is_dir():
            raise HarnessError(f"mask-folder finds no folder {self.parameters.path}; give path a folder of masks.")
        files = [p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
        if not files:
            raise HarnessError(
                f"mask-folder finds no pictures in {self.parameters.path}; give path the folder that has the masks "
                "directly in it."
            )
        return sorted(files, key=lambda file: file.name)


def _stored(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    import numpy as np

    stored: NDArray[np.uint8] = np.load(checkpoint.folder / _MASKS, mmap_mode="r")
    return stored


def _read(file: Path, size: int, geometry: Literal["squash", "crop"]) -> NDArray[np.uint8]:
    """Read a picture as a mask, uint8 (size, size) in {0, 1}.

    Raises:
        HarnessError: it cannot be.
    """
    from harness.learning import image_files

    try:
        with image_files.open_picture(file) as picture:
            return image_files.resize_mask(image_files.binarise(picture), size, geometry)
    except DataError as error:
        raise HarnessError(f"The mask {file} {str(error).rstrip('.')}.") from None


def _problem(file: Path) -> str:
    """Say why a picture cannot be read as a mask; nothing when it can."""
    try:
        _read(file, 16, "squash")
    except HarnessError as error:
        return str(error)
    return ""
