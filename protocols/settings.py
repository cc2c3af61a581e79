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
    leaks: int  # labelled training frames that a validation set has too
    cross_split_policy: str = "drop"  # what became of those

    def counts(self) -> dict[str, int]:
        """Return the number of labelled frames per task."""
        tasks = [task for tasks in self.frames.values() for task in tasks]
        return {task: tasks.count(task) for task in ("sem", "driv", "det")}

    def to_json(self) -> str:
        """Return the manifest as canonical JSON (sorted keys)."""
        values = {**asdict(self), "counts": self.counts()}
        if self.cross_split_policy != "keep" or not self.leaks:  # the same split as if dropped
            del values["cross_split_policy"]
        return json.dumps(values, sort_keys=True, indent=1)

    def summary(self) -> str:
        """Return in a line how many frames carry what, and what became of leaks."""
        counts = ", ".join(f"{task} {count:,}" for task, count in self.counts().items())
        said = [f"{self.setting}: {len(self.frames):,} training frames, {counts}"]
        if self.proportional and SETTINGS[self.setting].det is not None:
            said.append("in the setting's proportions, not its numbers")
        if self.leaks:
            done = "kept" if self.cross_split_policy == "keep" else "dropped"
            said.append(f"{self.leaks:,} that are validation frames too {done}")
        return "; ".join(said) + "."

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
    cross_split_policy: str = "drop",
) -> Split:
    """Deal the training frames to the tasks.

    `labelled` holds for each of sem, driv and det the names of the training frames with that
    label, `validation` those of the validation frames. A name in both is a leak: it never trains,
    unless the policy is "keep"; "error" raises `ProtocolError`. So does a data set too small for
    the setting, unless `proportional`: then every sem frame is used, and det and driv share all
    others in the setting's proportion.
    """
    scored: set[str] = set().union(*validation.values())
    leaks = scored & set().union(*labelled.values())
    if leaks and cross_split_policy == "error":
        raise ProtocolError(
            f"{len(leaks):,} training frames are validation frames too (the first: {min(leaks)}). "
            "cross_split_policy=drop leaves them out, keep trains on them."
        )
    scored = set() if cross_split_policy == "keep" else scored
    clean = {task: set(names) - scored for task, names in labelled.items()}
    holders = clean if setting.det is None else _disjoint(setting, clean, seed, proportional)
    return Split(
        setting=setting.name,
        seed=seed,
        proportional=proportional,
        frames=_by_name(holders),
        val=_by_name(validation),
        leaks=len(leaks),
        cross_split_policy=cross_split_policy,
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
