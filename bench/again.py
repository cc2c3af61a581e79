"""The command that makes a cell's number again, from what its `cell.json` holds."""

import json
import shlex
from dataclasses import replace
from typing import Any

from bench.cell import Cell
from bench.data.classes import TASKS
from protocols.own import base_of
from protocols.presets import PROTOCOLS
from protocols.presets import protocol as preset_protocol

SAID = ("name", "preset", "scheme", "heads")  # by options of their own


def again(order: dict[str, Any]) -> str:
    """Return the `bench run` that asks for exactly this cell, whatever it was once asked for by.

    A user's own protocol goes by the name of its file, and is to be in it as it was then.
    """
    cell = Cell.from_resolved(order["resolved"])
    protocol, data = cell.protocol, order["data"]
    own = "" if protocol.name in PROTOCOLS else ".toml"
    words = ["--zoo", cell.zoo, "--protocol", protocol.name + own]
    words += ["--setting", cell.setting, "--scheme", protocol.scheme, "--heads", protocol.heads]
    words += ["--tasks", ",".join(cell.tasks)] if cell.tasks != TASKS else []
    words += ["--seeds", str(cell.seed), "--preset", protocol.preset]
    for key, value in changed(cell):
        words += ["--set", f"{key}={value}"]
    words += ["--data", "demo" if data["drawn"] and data["name"] == "demo-data" else data["root"]]
    weights = [order["weights"], *order.get("parts", {}).values()]
    stand_in = any(one["stand_in"] for one in weights)
    return shlex.join(["bench", "run", *words, *(["--stand-ins"] if stand_in else [])])


def changed(cell: Cell) -> list[tuple[str, str]]:
    """Return the values of a cell that are not its preset's, by their names for --set.

    The stages of a user's own protocol are in its file.
    """
    protocol = cell.protocol
    usual = preset_protocol(base_of(protocol), protocol.preset, protocol.heads)
    preset = dict(_flat(replace(cell, protocol=usual).resolved()["protocol"]))
    elsewhere = SAID if protocol.name in PROTOCOLS else (*SAID, "stages")
    return [
        (key, value)
        for key, value in _flat(cell.resolved()["protocol"])
        if preset.get(key) != value and key.partition(".")[0] not in elsewhere
    ]


def _flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Return every value by its key; stages go by their names."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in value}
    if isinstance(value, dict):
        inside = ((f"{key}.{name}" if key else name, one) for name, one in value.items())
        return [found for name, one in inside for found in _flat(one, name)]
    if isinstance(value, list):
        return [(key, ",".join(map(str, value)))]
    return [(key, value if isinstance(value, str) else json.dumps(value))]
