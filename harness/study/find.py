"""Where studies are: by name in the project's ``studies/`` and among those that ship, or by path."""

from __future__ import annotations

from pathlib import Path

from harness.errors import DeclarationError, nearest
from harness.home import project_root


def study_folders() -> list[Path]:
    """Return where studies are looked for: the project's ``studies/``, then those that ship with the harness."""
    shipped = Path(__file__).resolve().parents[2] / "studies"
    return [folder for folder in dict.fromkeys([project_root() / "studies", shipped]) if folder.is_dir()]


def list_studies() -> dict[str, Path]:
    """Return every study by name."""
    found: dict[str, Path] = {}
    for folder in study_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_study(name: str) -> tuple[Path, str]:
    """Return the file of a study, given its name or a path, and how errors name it.

    Raises:
        DeclarationError: there is no such study.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise DeclarationError(
                f"There is no file {name}; name a study ({', '.join(list_studies())}) or an existing YAML file."
            )
        return path.resolve(), name
    known = list_studies()
    if name not in known:
        raise DeclarationError(
            f"There is no study {name!r}{nearest(name, list(known))}; there are: {', '.join(known) or 'none'}."
        )
    path = known[name]
    root = project_root()
    return path, str(path.relative_to(root)) if path.is_relative_to(root) else path.name
