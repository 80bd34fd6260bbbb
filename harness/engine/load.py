"""Finding, reading and checking studies: every mistake at once, with file, line, value and what is allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import ValidationError

from harness.engine.check import check_plugins, check_study, describe_errors, with_own_names
from harness.errors import DeclarationError
from harness.study.find import find_study
from harness.study.loaded import LoadedStudy
from harness.study.schema import Study
from harness.study.yaml_document import apply_setting, choose_profile, read_extended


def load_study(name: str, profile: str | None = None, settings: tuple[str, ...] = ()) -> LoadedStudy:
    """Read, override and check a study.

    Args:
        name: of a study in ``studies/``, or the path of a YAML file.
        profile: overrides to apply, such as ``smoke``.
        settings: ``path=value`` overrides of the command line.

    Raises:
        DeclarationError: carries every mistake, each with its place.
    """
    path, shown = find_study(name)

    def find(base: str) -> tuple[Path, str]:
        beside = path.parent / f"{base}.yaml"
        return (beside, beside.name) if beside.is_file() and not base.endswith(".yaml") else find_study(base)

    document = choose_profile(read_extended(path, shown, find), profile)
    for setting in settings:
        document = apply_setting(document, setting)
    problems = check_plugins(document)
    try:
        study = Study.model_validate(document.value)
    except ValidationError as error:
        raise DeclarationError(_in_order([*describe_errors(error, document), *problems])) from error
    problems += check_study(study, document)
    if problems:
        raise DeclarationError(_in_order(problems))
    return LoadedStudy(path.stem, profile or "", with_own_names(study), document)


def _in_order(problems: list[str]) -> list[str]:
    """Return problems once each, by file, line and column."""
    return sorted(set(problems), key=lambda text: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)])


def study_schema() -> str:
    """Return the JSON schema of a study, for completion in editors."""
    return json.dumps(Study.model_json_schema(), indent=2)
