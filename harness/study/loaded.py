"""A study that was read and checked, with the document it came from."""

from __future__ import annotations

from dataclasses import dataclass

from harness.study.schema import Study
from harness.study.yaml_document import Document


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study with its name, profile and the document it was read from."""

    name: str
    profile: str
    study: Study
    document: Document

    @property
    def folder_name(self) -> str:
        """Name of its report folder."""
        return f"{self.name}-{self.profile}" if self.profile else self.name
