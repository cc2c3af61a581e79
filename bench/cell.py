"""A cell: checkpoint x protocol x setting x tasks x seed, the unit that is run once.

Its **address** is known without weights, data or torch, and is what people select by. Its **key**
is a hash of everything that can change its numbers, and is what decides whether a finished result
can be used again. Paths, threads and runners are in neither.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from bench.data.classes import TASKS
from protocols import VERSION
from protocols.presets import protocol as preset_protocol
from protocols.stages import Protocol


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint (by its name in the catalogue) under one protocol."""

    zoo: str
    protocol: Protocol
    setting: str
    tasks: tuple[str, ...]
    seed: int

    @property
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
        parts += [hashed(changes)[:6]] if (changes := self._changes()) else []
        return "-".join(parts)

    @property
    def protocol_label(self) -> str:
        """Return the protocol's name, with its epochs where they are not the preset's."""
        epochs = [stage.epochs for stage in self.protocol.stages]
        if epochs == [stage.epochs for stage in self._preset().stages]:
            return self.protocol.name
        return self.protocol.name + "+".join(map(str, epochs))

    def resolved(self) -> dict[str, Any]:
        """Return every value of the cell as plain JSON values; `from_resolved` reads it back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_resolved(cls, values: dict[str, Any]) -> Self:
        """Return the cell of `resolved`."""
        protocol = Protocol.from_dict(values["protocol"])
        return cls(**{**values, "protocol": protocol, "tasks": tuple(values["tasks"])})

    def key(
        self, *, weights: str | None, data: str, split: str, needs: tuple[str, ...] = ()
    ) -> str:
        """Return the hash of all that can change this cell's numbers.

        `weights` is the hash of the canonical tensors and their declared semantics, `data` that of
        the frames and their labels, `split` that of the split manifest, `needs` the keys of the
        cells whose results this one uses.
        """
        return hashed(
            {
                "address": self.address,
                "version": VERSION,
                "resolved": {**self.resolved(), "protocol": self._affecting(self.protocol)},
                "batchnorm_batch": self.protocol.optim.batch,
                "weights": weights,
                "data": data,
                "split": split,
                "needs": sorted(needs),
            }
        )

    def _preset(self) -> Protocol:
        return preset_protocol(self.protocol.name, self.protocol.preset)

    @staticmethod
    def _affecting(protocol: Protocol) -> dict[str, Any]:
        """Return the values that can change a number: validations on the way do not."""
        values = asdict(protocol)
        del values["val_every"]
        if protocol.scheme != "self-training":
            del values["pseudo"]
        return values

    def _changes(self) -> dict[str, Any]:
        """Return the groups of values that differ from the preset's, epochs aside."""
        preset = self._preset()
        stages = zip(self.protocol.stages, preset.stages, strict=True)
        same_epochs = tuple(replace(mine, epochs=its.epochs) for mine, its in stages)
        mine = self._affecting(replace(self.protocol, stages=same_epochs))
        its = self._affecting(preset)
        own = {"scheme", "heads"}  # parts of the address already
        return {k: v for k, v in mine.items() if v != its.get(k, v) and k not in own}


def hashed(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
