"""Settings: which training frames carry which labels (paper section 3.1; split lists are ours).

The paper publishes no split lists, so they are dealt deterministically: frames stand in the order
of sha256(seed:name), the segmentation frames are all of 10k/train, detection takes the first N of
the others, drivable area the next N.
"""

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from functools import cached_property

from protocols import ProtocolError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How many training frames carry each task's label; no counts mean every label there is."""

    name: str
    det: int | None = None
    driv: int | None = None


SETTINGS = {
    "disjoint-normal": Setting(name="disjoint-normal", det=10_000, driv=20_000),
    "disjoint-balance": Setting(name="disjoint-balance", det=7_000, driv=7_000),
    "full": Setting(name="full"),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """The manifest of a setting: for every frame the tasks whose labels it carries.

    `frames` are those to train on, `val` those to score.
    """

    setting: str
    seed: int
    proportional: bool
    frames: dict[str, tuple[str, ...]]
    val: dict[str, tuple[str, ...]]
    leaks: int  # frames left out because a validation set has them too

    def counts(self) -> dict[str, int]:
        """Return the number of labelled frames per task."""
        tasks = [task for tasks in self.frames.values() for task in tasks]
        return {task: tasks.count(task) for task in ("sem", "driv", "det")}

    def to_json(self) -> str:
        """Return the manifest as canonical JSON (sorted keys)."""
        return json.dumps({**asdict(self), "counts": self.counts()}, sort_keys=True, indent=1)

    @cached_property
    def sha256(self) -> str:
        """The hash of the manifest, which enters a cell's key."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def split(
    setting: Setting,
    labelled: Mapping[str, Set[str]],
    validation: Mapping[str, Set[str]],
    *,
    seed: int = 0,
    proportional: bool = False,
) -> Split:
    """Deal the training frames to the tasks.

    `labelled` holds for each of sem, driv and det the names of the training frames with that
    label, `validation` those of the validation frames, none of which ever trains. A data set too
    small for the setting raises `ProtocolError`, unless `proportional`: then every sem frame is
    used, and det and driv share all others in the setting's proportion.
    """
    scored: set[str] = set().union(*validation.values())
    clean = {task: set(names) - scored for task, names in labelled.items()}
    holders = clean if setting.det is None else _disjoint(setting, clean, seed, proportional)
    return Split(
        setting=setting.name,
        seed=seed,
        proportional=proportional,
        frames=_by_name(holders),
        val=_by_name(validation),
        leaks=len(set().union(*labelled.values()) & scored),
    )


def _by_name(holders: Mapping[str, Set[str]]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(task for task in ("sem", "driv", "det") if name in holders[task])
        for name in sorted(set().union(*holders.values()))
    }


def _disjoint(
    setting: Setting, clean: Mapping[str, set[str]], seed: int, proportional: bool
) -> dict[str, set[str]]:
    assert setting.det is not None
    assert setting.driv is not None
    sem, driv = clean["sem"], clean["driv"] - clean["sem"]
    det = clean["det"] - sem
    want_det, want_driv = setting.det, setting.driv
    if proportional:
        want_det = round(len(det | driv) * want_det / (want_det + want_driv))
    # A frame without a drivable mask can only serve detection, so those come first.
    order = sorted(det, key=lambda name: (name in driv, _rank(seed, name)))
    det = set(order[:want_det])
    rest = sorted(driv - det, key=lambda name: _rank(seed, name))
    driv = set(rest if proportional else rest[:want_driv])
    if not proportional:
        for task, got, want in (("boxes", det, want_det), ("drivable labels", driv, want_driv)):
            if len(got) < want:
                raise ProtocolError(
                    f"{setting.name} needs {want:,} images with {task}, this folder has "
                    f"{len(got):,} to give. Is the data set complete? (--preset demo or "
                    "--set proportional_split=true keep the proportions of a smaller one)"
                )
    return {"sem": sem, "driv": driv, "det": det}


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
