"""The weight files behind cells: which there are, their hashes, and their canonical files.

Torch is imported only where a weight file's hash is not known yet.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.cell import Cell
from zoo.catalog import Checkpoint, default_folder, find
from zoo.clip_parts import Part, canonical, identity
from zoo.store import Zoo


def weights(
    cells: list[Cell], store: Path, *, stand_ins_too: bool
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, Part], dict[str, Any]]]:
    """Return for each checkpoint whether it is a stand-in, its hash, and where its files are.

    Likewise, by name and part, for the parts of CLIP files that the cells use.
    """
    published, stand_ins = Zoo(default_folder()), Zoo(store / "stand-ins")
    trunks = list(dict.fromkeys(cell.zoo for cell in cells))
    parts: list[tuple[str, Part]] = [
        (name, part) for cell in cells for part, name in cell.parts.items()
    ]
    rows = {name: find(name) for name in [*trunks, *(name for name, _ in parts)]}
    missing = published.missing(rows.values())
    if lost := [one for one in missing if one.family == "own"]:  # no file to stand in for
        raise BenchError(published.how_to_get(lost))
    if missing and not stand_ins_too:
        raise BenchError(
            f"{published.how_to_get(missing)}\n"
            "(--stand-ins runs with random weights of the same layout, and marks every number.)"
        )

    def found(name: str, part: Part | None = None) -> dict[str, Any]:
        row = rows[name]
        stand_in = row in missing
        shelf = stand_ins if stand_in else published
        known = (
            identity(shelf, row, part, stand_in=stand_in)
            if part
            else shelf.identity(row, stand_in=stand_in)
        )
        return {
            "name": row.name,
            "sha256": known,
            "stand_in": stand_in,
            "folder": str(shelf.folder),
            "row": json.loads(json.dumps(asdict(row))),  # as it is read back
        }

    return {name: found(name) for name in trunks}, {
        one: found(*one) for one in dict.fromkeys(parts)
    }


def weights_file(order: dict[str, Any]) -> Path:
    """Return the canonical file of the weights that a cell's order names."""
    weights = order["weights"]
    row, shelf = Checkpoint.from_dict(weights["row"]), Zoo(Path(weights["folder"]))
    return shelf.canonical(row, stand_in=weights["stand_in"])


def parts_files(order: dict[str, Any]) -> dict[Part, Path]:
    """Return the canonical files of the parts of CLIP files that a cell's order names."""
    return {
        part: canonical(
            Zoo(Path(found["folder"])),
            Checkpoint.from_dict(found["row"]),
            part,
            stand_in=found["stand_in"],
        )
        for part, found in order.get("parts", {}).items()
    }
