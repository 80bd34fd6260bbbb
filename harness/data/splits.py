"""Splits: which images fit, which select and which report.

Every image of a split has one of three roles: ``fit`` (train generators and segmenters, FID reference), ``select``
(choose checkpoints, tune) and ``report`` (final scores, touched once). Groups (patient, video, near-duplicate frames)
never straddle roles in the splits made here; a named split that was published with straddling groups is repaired
under the clean protocol.

Order comes from SHA-256 of the seed and the id, not from a random generator: it does not depend on the order of
files, on library versions or on which other images there are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from harness.data.datasets import Dataset
from harness.errors import DataError, nearest

Role = Literal["fit", "select", "report"]
Protocol = Literal["clean", "published"]
ROLES: tuple[Role, ...] = get_args(Role)
FORMAT = "harness-split-1"

#: Share of the images outside ``report`` that k-fold declarations select on when they do not say.
DEFAULT_SELECT = 0.15
_NAMED = Path(__file__).parent / "named_splits"
_WEIGHT: dict[str, int] = {"fit": 0, "select": 1, "report": 2}


def _sha256(document: Any) -> str:
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Roles of the images of one dataset.

    Attributes:
        dataset: its name.
        dataset_fingerprint: of the dataset that the split was made for.
        name: readable, such as ``cpd`` or ``kfold=3 select=0.15 seed=0 fold=1``.
        roles: bare id to ``fit``, ``select`` or ``report``.
        dropped: bare id to a sentence that says why it has no role.
        notes: sentences that every report on this split must show.
    """

    dataset: str
    dataset_fingerprint: str
    name: str
    roles: Mapping[str, Role]
    dropped: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def ids(self, role: Role) -> tuple[str, ...]:
        """Return the bare ids of one role, sorted."""
        return tuple(sorted(name for name, has in self.roles.items() if has == role))

    @property
    def digest(self) -> str:
        """SHA-256 over dataset, fingerprint, roles and what was dropped; names and wording do not matter."""
        return _sha256([self.dataset, self.dataset_fingerprint, sorted(self.roles.items()), sorted(self.dropped)])

    def to_json(self) -> str:
        """Return the manifest: JSON with the ids of each role, what was dropped and why, and a checksum."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "dataset": self.dataset,
            "dataset_fingerprint": self.dataset_fingerprint,
            "name": self.name,
            "roles": {role: list(self.ids(role)) for role in ROLES},
            "dropped": dict(sorted(self.dropped.items())),
            "notes": list(self.notes),
        }
        return json.dumps(document | {"checksum": _sha256(document)}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Split:
        """Read a manifest.

        Raises:
            DataError: it is not a manifest, its checksum does not match, or an id has two roles.
        """
        try:
            document = json.loads(text)
            checksum = document.pop("checksum")
            form = document["format"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                "This is not a split manifest; make one with: harness data split NAME ... --out FILE."
            ) from None
        if form != FORMAT:
            raise DataError(f"This split manifest has format {form!r}; this version of the harness reads {FORMAT!r}.")
        if _sha256(document) != checksum:
            raise DataError(
                "This split manifest was changed after it was written (its checksum differs); export it again."
            )
        listed = [name for role in ROLES for name in document["roles"][role]]
        twice = [name for name, count in Counter([*listed, *document["dropped"]]).items() if count > 1]
        if twice:
            raise DataError(f"This split manifest gives {twice[0]!r} more than one role.")
        return cls(
            dataset=document["dataset"],
            dataset_fingerprint=document["dataset_fingerprint"],
            name=document["name"],
            roles={name: role for role in ROLES for name in document["roles"][role]},
            dropped=document["dropped"],
            notes=tuple(document["notes"]),
        )


def write_manifest(splits: Sequence[Split], path: Path) -> None:
    """Write one split as its manifest, several (folds) as a JSON list of manifests."""
    documents = [split.to_json() for split in splits]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        (documents[0] if len(documents) == 1 else "[" + ",\n".join(documents) + "]") + "\n", encoding="utf-8"
    )


def read_manifest(path: Path) -> list[Split]:
    """Read what :func:`write_manifest` wrote.

    Raises:
        DataError: the file cannot be read, or one of its manifests is wrong.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The split manifest {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise DataError(f"The split manifest {path} is not JSON: {error}.") from None
    parts = document if isinstance(document, list) else [document]
    if not parts:
        raise DataError(f"The split manifest {path} is an empty list.")
    try:
        return [Split.from_json(json.dumps(part)) for part in parts]
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def subset_order(ids: Iterable[str], seed: int) -> list[str]:
    """Return ids in one seeded shuffle. Small subsets are its first n, so that they nest.

    The order of two ids depends on the seed and on them only, whatever else is in the set.
    """
    return _order(ids, seed, "subset")


def _order(ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    return sorted(ids, key=lambda name: hashlib.sha256(f"{purpose} {seed} {name}".encode()).digest())


def make_splits(
    dataset: Dataset, declaration: Mapping[str, Any], seed: int, protocol: Protocol = "clean"
) -> list[Split]:
    """Make the splits that a study declares: one a fold, else a list of one.

    Args:
        dataset: what to split.
        declaration: one of ``{"named": "cpd"}``, ``{"kfold": 3, "select": 0.15}`` (select: share of what a fold does
            not report), ``{"holdout": {"report": 0.3, "select": 0.1}}`` (shares of all images) and ``{"manifest":
            "path.json"}``.
        seed: of the shuffles; named splits and manifests ignore it.
        protocol: ``clean`` drops what would put a group in two roles, ``published`` keeps it.

    Raises:
        DataError: the declaration is not one of these, or the dataset cannot be split that way.
    """
    kinds: dict[str, Callable[[], list[Split]]] = {
        "named": lambda: [_named(dataset, declaration["named"])],
        "kfold": lambda: _kfold(dataset, declaration["kfold"], declaration.get("select", DEFAULT_SELECT), seed),
        "holdout": lambda: [_holdout(dataset, declaration["holdout"], seed)],
        "manifest": lambda: _from_manifest(dataset, Path(declaration["manifest"])),
    }
    given = [key for key in declaration if key in kinds]
    unknown = [key for key in declaration if key not in kinds and not (key == "select" and given == ["kfold"])]
    if unknown or len(given) != 1:
        wrong = f"{unknown[0]!r}{nearest(unknown[0], list(kinds))}" if unknown else " and ".join(given) or "nothing"
        raise DataError(f"A split is declared by exactly one of {', '.join(kinds)}, but this one has {wrong}.")
    if protocol not in get_args(Protocol):
        raise DataError(f"The protocol must be 'clean' or 'published', not {protocol!r}.")
    splits = kinds[given[0]]()
    return [_without_straddling(dataset, split) for split in splits] if protocol == "clean" else splits


def named_splits() -> list[str]:
    """Return the names that ``{"named": ...}`` accepts."""
    return ["cpd", "cpd-300"]


def _groups(dataset: Dataset) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for entry in dataset.entries:
        groups[entry.group].append(entry.id)
    return groups


def _make(dataset: Dataset, name: str, roles: Mapping[str, Role], notes: tuple[str, ...] = ()) -> Split:
    for role in ROLES:
        if role not in roles.values():
            raise DataError(
                f"The split {name!r} of {dataset.name} ({len(dataset)} images in {len(_groups(dataset))} groups) "
                f"leaves the role "
                f"{role!r} empty; change its share, or use more images."
            )
    return Split(dataset.name, dataset.fingerprint, name, dict(sorted(roles.items())), {}, notes)


def _fraction(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise DataError(f"{what} must be a fraction between 0 and 1 (both excluded), not {value!r}.")
    return float(value)


def _carve(groups: Mapping[str, list[str]], count: int, seed: int, purpose: str) -> list[str]:
    """Take whole groups in seeded order, passing over those that would exceed ``count``; return their ids."""
    taken: list[str] = []
    for group in _order(groups, seed, purpose):
        if len(taken) + len(groups[group]) <= count:
            taken += groups[group]
    return taken


def _holdout(dataset: Dataset, shares: Any, seed: int) -> Split:
    if not isinstance(shares, Mapping) or not {"report"} <= set(shares) <= {"report", "select"}:
        raise DataError(f"A holdout is declared as {{report: 0.3, select: 0.1}}, not as {shares!r}.")
    report = _fraction(shares["report"], "The holdout's report")
    select = _fraction(shares.get("select", 0.1), "The holdout's select")
    name = f"holdout report={report:g} select={select:g} seed={seed}"
    if report + select >= 1:
        raise DataError(
            f"The split {name!r} leaves the role 'fit' empty: report and select add up to {report + select:g}."
        )
    groups = _groups(dataset)
    roles: dict[str, Role] = dict.fromkeys(dataset.ids, "fit")
    reported = _carve(groups, round(report * len(dataset)), seed, "holdout report")
    roles.update(dict.fromkeys(reported, "report"))
    rest = {group: ids for group, ids in groups.items() if roles[ids[0]] == "fit"}
    roles.update(dict.fromkeys(_carve(rest, round(select * len(dataset)), seed, "holdout select"), "select"))
    return _make(dataset, name, roles)


def _kfold(dataset: Dataset, folds: Any, select: Any, seed: int) -> list[Split]:
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise DataError(f"The number of folds must be a whole number of at least 2, not {folds!r}.")
    share, groups = _fraction(select, "The select share of a k-fold split"), _groups(dataset)
    if folds > len(groups):
        raise DataError(
            f"{dataset.name} has {len(groups)} groups, fewer than the {folds} folds asked for; groups never "
            f"straddle folds, so ask "
            f"for at most {len(groups)}."
        )
    parts: list[list[str]] = [[] for _ in range(folds)]
    # Largest groups first, each to the smallest part: parts differ by no more than the last group that was placed.
    for group in sorted(_order(groups, seed, "fold"), key=lambda name: -len(groups[name])):
        min(parts, key=len).extend(groups[group])
    return [_fold(dataset, groups, parts, number, share, seed) for number in range(folds)]


def _fold(
    dataset: Dataset,
    groups: Mapping[str, list[str]],
    parts: Sequence[Sequence[str]],
    number: int,
    share: float,
    seed: int,
) -> Split:
    roles: dict[str, Role] = dict.fromkeys(dataset.ids, "fit")
    roles.update(dict.fromkeys(parts[number], "report"))
    rest = {group: ids for group, ids in groups.items() if roles[ids[0]] == "fit"}
    count = round(share * (len(dataset) - len(parts[number])))
    roles.update(dict.fromkeys(_carve(rest, count, seed, f"fold {number} select"), "select"))
    return _make(dataset, f"kfold={len(parts)} select={share:g} seed={seed} fold={number}", roles)


def _read_ids(name: str) -> list[str]:
    return (_NAMED / "cpd" / f"{name}.txt").read_text(encoding="utf-8").split()


def _named(dataset: Dataset, name: Any) -> Split:
    """Make a published split of Kvasir-SEG (or of HyperKvasir's segmented images, the same files).

    ``cpd`` is the train/val/test split in the code of the mask-conditioned latent diffusion paper; ``cpd-300``
    reports on its 300 held-out images together, as the paper does, and selects on 100 of its 700 training images.
    """
    if name not in named_splits():
        raise DataError(
            f"There is no named split {name!r}{nearest(str(name), named_splits())}; there are: "
            f"{', '.join(named_splits())}."
        )
    train, val, test = _read_ids("train"), _read_ids("val"), _read_ids("test")
    known = set(dataset.ids)
    missing = [wanted for wanted in (*train, *val, *test) if wanted not in known]
    if missing:
        raise DataError(
            f"The split {name!r} needs {len(missing)} images that {dataset.name} does not have, such as "
            f"{missing[0]!r}; it is a "
            "split of kvasir-seg (or hyperkvasir's segmented images)."
        )
    roles: dict[str, Role] = dict.fromkeys(train, "fit")
    roles.update(dict.fromkeys(test, "report"))
    roles.update(dict.fromkeys(val, "select" if name == "cpd" else "report"))
    if name == "cpd-300":
        groups = {g: [i for i in ids if roles.get(i) == "fit"] for g, ids in _groups(dataset).items()}
        carved = _carve({g: ids for g, ids in groups.items() if ids}, 100, 0, "cpd-300 select")
        roles.update(dict.fromkeys(carved, "select"))
    return _make(dataset, name, roles, _unused(dataset, roles))


def _unused(dataset: Dataset, roles: Mapping[str, Role]) -> tuple[str, ...]:
    count = len(set(dataset.ids) - set(roles))
    return (f"{count} images of {dataset.name} are in no role of this split.",) if count else ()


def _from_manifest(dataset: Dataset, path: Path) -> list[Split]:
    splits = []
    for split in read_manifest(path):
        missing = sorted(set(split.roles) - set(dataset.ids))
        if missing:
            raise DataError(
                f"{path} names {len(missing)} images that {dataset.name} does not have, such as {missing[0]!r}; it "
                f"was made for "
                f"{split.dataset}."
            )
        notes = split.notes + tuple(note for note in _unused(dataset, split.roles) if note not in split.notes)
        if split.dataset_fingerprint != dataset.fingerprint:
            note = (
                f"The manifest {path.name} was made for {split.dataset} with fingerprint "
                f"{split.dataset_fingerprint[:12]}, but "
                f"{dataset.name} has {dataset.fingerprint[:12]}: its images or groups differ."
            )
            notes = (*notes, note)
        made = _make(dataset, split.name, split.roles, notes)
        splits.append(Split(made.dataset, made.dataset_fingerprint, made.name, made.roles, split.dropped, made.notes))
    return splits


def _without_straddling(dataset: Dataset, split: Split) -> Split:
    """Drop what a group has in a lesser role than its highest: fit gives way to select, and both to report."""
    roles, dropped = dict(split.roles), dict(split.dropped)
    added: Counter[tuple[str, str]] = Counter()
    for ids in _groups(dataset).values():
        present = [name for name in ids if name in roles]
        kept = max((roles[name] for name in present), key=_WEIGHT.__getitem__, default="fit")
        witnesses = [name for name in present if roles[name] == kept]
        for name in present:
            role = roles[name]
            if role != kept:
                del roles[name]
                added[role, kept] += 1
                dropped[name] = f"It was {role}, but shares a group with {witnesses[0]}, which is {kept}."
    if not added:
        return split
    notes = tuple(
        f"Dropped {count} {role} image{'s' if count > 1 else ''} of split {split.name} that "
        f"share{'' if count > 1 else 's'} a group "
        f"(near-duplicate frames, patient or video) with {kept} images."
        for (role, kept), count in sorted(added.items())
    )
    made = _make(dataset, split.name, roles, (*split.notes, *notes))
    return Split(
        made.dataset, made.dataset_fingerprint, made.name, made.roles, dict(sorted(dropped.items())), made.notes
    )
