"""A cell: checkpoint x protocol x setting x tasks x seed, the unit that is run once.

Its **address** is known without weights, data or torch, and is what people select by. Its **key**
is a hash of everything that can change its numbers, and is what decides whether a finished result
can be used again. Paths, threads and runners are in neither.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, Self

from bench.data.classes import TASKS
from protocols import VERSION
from protocols.own import base_of
from protocols.presets import PROTOCOLS
from protocols.presets import protocol as preset_protocol
from protocols.stages import Protocol
from zoo.clip_parts import Part


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint (by its name in the catalogue) under one protocol."""

    zoo: str
    protocol: Protocol
    setting: str
    tasks: tuple[str, ...]
    seed: int

    @cached_property
    def address(self) -> str:
        """Return `<zoo>-<protocol>-<setting>-<scheme>[-<heads>][-<tasks>]-s<seed>[-<preset>]`.

        Values that differ from the preset's, other than the stages' epochs which the protocol's
        name shows, add a short hash.
        """
        parts = [self.zoo, self.protocol_label, self.setting, self.protocol.scheme]
        parts += [self.protocol.heads] if self.protocol.heads != "transformer" else []
        parts += ["+".join(self.tasks)] if self.tasks != TASKS else []
        parts += [f"s{self.seed}"]
        parts += [self.protocol.preset] if self.protocol.preset != "paper" else []
        parts += [hashed(changes)[:6]] if (changes := _changes(self.protocol)) else []
        return "-".join(parts)

    @property
    def protocol_label(self) -> str:
        """Return the protocol's name, with its epochs where they are not the preset's.

        A user's own protocol has no other than those in its file.
        """
        name, epochs = self.protocol.name, [stage.epochs for stage in self.protocol.stages]
        preset = [stage.epochs for stage in _preset(self.protocol).stages]
        return (
            name if name not in PROTOCOLS or epochs == preset else name + "+".join(map(str, epochs))
        )

    def resolved(self) -> dict[str, Any]:
        """Return every value of the cell as plain JSON values; `from_resolved` reads it back."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**mine, "tasks": list(self.tasks), "protocol": _values(self.protocol)}

    def affecting(self) -> dict[str, Any]:
        """Return those values of `resolved` that can change a number."""
        return {**self.resolved(), "protocol": _affecting(self.protocol)}

    @classmethod
    def from_resolved(cls, values: dict[str, Any]) -> Self:
        """Return the cell of `resolved`."""
        protocol = Protocol.from_dict(values["protocol"])
        return cls(**{**values, "protocol": protocol, "tasks": tuple(values["tasks"])})

    @property
    def parts(self) -> dict[Part, str]:
        """Return which parts of CLIP files the cell uses beside its trunk, and whose."""
        adapter = self.protocol.adapter
        if adapter is None:
            return {}
        parts: dict[Part, str] = {"text": self.zoo if adapter.text == "own" else adapter.text}
        if adapter.name == "v2l":
            parts["pool"] = self.zoo
        return parts

    def key(
        self,
        *,
        weights: str | None,
        data: str,
        split: str,
        needs: tuple[str, ...] = (),
        parts: Mapping[Part, str] | None = None,
    ) -> str:
        """Return the hash of all that can change this cell's numbers.

        `weights` is the hash of the canonical tensors and their declared semantics, `data` that of
        the frames and their labels, `split` that of the split manifest, `needs` the keys of the
        cells whose results this one uses, `parts` the hashes of `self.parts`.
        """
        return hashed(
            {
                "address": self.address,
                "version": VERSION,
                "resolved": self.affecting(),
                "batchnorm_batch": self.protocol.optim.batch // self.protocol.optim.accumulate,
                "weights": weights,
                "data": data,
                "split": split,
                "needs": sorted(needs),
                **({"parts": dict(parts)} if parts else {}),
            }
        )


def _preset(protocol: Protocol) -> Protocol:
    return preset_protocol(base_of(protocol), protocol.preset, protocol.heads)


def _values(protocol: Protocol) -> dict[str, Any]:
    """Return every value of a protocol as plain JSON values."""
    return json.loads(_written(protocol))


@cache  # a grid has many cells of few protocols, and taking one apart takes its time
def _written(protocol: Protocol) -> str:
    return json.dumps(asdict(protocol))


def _affecting(protocol: Protocol) -> dict[str, Any]:
    """Return the values that can change a number: validations on the way do not."""
    values = _values(protocol)
    del values["val_every"]
    if protocol.scheme != "self-training":
        del values["pseudo"]
    if protocol.adapter is None:
        del values["adapter"]
    if protocol.cross_split_policy != "keep":  # the others have the same split, or none
        del values["cross_split_policy"]
    if protocol.model.mask_loss == "full":  # as it was before there was a choice
        del values["model"]["mask_loss"]
    if not protocol.optim.compile:
        del values["optim"]["compile"]
    return values


@cache
def _changes(protocol: Protocol) -> dict[str, Any]:
    """Return the groups of values that differ from the preset's, epochs aside.

    All stages of a user's own protocol do.
    """
    preset, same = _preset(protocol), protocol
    if protocol.name in PROTOCOLS:
        stages = zip(protocol.stages, preset.stages, strict=True)
        epochs = tuple(replace(mine, epochs=its.epochs) for mine, its in stages)
        same = replace(protocol, stages=epochs)
    mine, its = _affecting(same), _affecting(preset)
    own = {"name", "scheme", "heads"}  # parts of the address already
    return {k: v for k, v in mine.items() if v != its.get(k) and k not in own}


def hashed(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
