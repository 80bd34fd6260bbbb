"""The datasets that the harness knows by name: origin, citation and how their folders are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A dataset that can be imported under its own name.

    Attributes:
        name: on the command line, such as ``kvasir-seg``.
        title: for people.
        licence: what its authors ask for.
        citation: the paper to cite.
        layouts: pairs of an image folder and a mask folder, as the official archive calls them, in order of preference;
            matched without regard to case against the ends of folder paths.
        published: how many pairs the official archive has.
        origin: where its authors offer it.
    """

    name: str
    title: str
    licence: str
    citation: str
    layouts: tuple[tuple[str, str], ...]
    published: int | None
    origin: str


PHANTOM = "phantom"
FOLDER = "folder"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "kvasir-seg",
            "Kvasir-SEG",
            "for research and educational use; cite the authors",
            "Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MultiMedia Modeling 2020",
            (("images", "masks"),),
            1000,
            "https://datasets.simula.no/kvasir-seg/",
        ),
        Source(
            "hyperkvasir",
            "HyperKvasir, segmented images",
            "CC BY 4.0",
            "Borgli et al., HyperKvasir, a comprehensive multi-class image and video dataset for gastrointestinal "
            "endoscopy, Scientific Data 7:283, 2020",
            (("segmented-images/images", "segmented-images/masks"), ("images", "masks")),
            1000,
            "https://datasets.simula.no/hyper-kvasir/",
        ),
        Source(
            "cvc-clinicdb",
            "CVC-ClinicDB",
            "for research and educational use; cite the authors",
            "Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy, Computerized Medical Imaging "
            "and Graphics 43, 2015",
            (("PNG/Original", "PNG/Ground Truth"), ("TIF/Original", "TIF/Ground Truth"), ("Original", "Ground Truth")),
            612,
            "https://polyp.grand-challenge.org/CVCClinicDB/",
        ),
        Source(
            "etis-larib",
            "ETIS-Larib Polyp DB",
            "for research and educational use; cite the authors",
            "Silva et al., Toward embedded detection of polyps in WCE images for early diagnosis of colorectal cancer, "
            "International Journal of Computer Assisted Radiology and Surgery 9, 2014",
            (("images", "masks"), ("ETIS-LaribPolypDB", "Ground Truth")),
            196,
            "https://polyp.grand-challenge.org/ETISLarib/",
        ),
    )
}

#: Names of image and mask folders that are tried for a folder of one's own when none are given.
COMMON_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("images", "masks"),
    ("image", "mask"),
    ("imgs", "masks"),
    ("images", "labels"),
    ("images", "annotations"),
    ("images", "segmentations"),
    ("images", "ground truth"),
    ("original", "ground truth"),
    ("inputs", "targets"),
)
