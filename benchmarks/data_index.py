"""How long a data set of BDD100K's size takes to read, the first time and afterwards.

    python benchmarks/data_index.py --data ../shared/data/bdd_mini      two minutes; 2 GB of disk

In a temporary folder one real frame of `--data` with all three labels gets the names of 70,000
training and 10,000 validation frames with boxes and drivable areas, and of 7,000 and 1,000 with
semantic masks, of which 3,000 are among the former: hard links, and the frame's own boxes in two
lists. Every reading is a process of its own. Exit code 1: over 60 s at first, or 2 s afterwards.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from bench.data.bdd100k import Frame, read
from bench.data.classes import DET, TASKS

FRAMES = {"100k": {"train": 70_000, "val": 10_000}, "10k": {"train": 7_000, "val": 1_000}}
SHARED = 3_000  # of 10k/train that are in 100k/train as well
LINKS = 60_000  # of one file; ext4 allows 65,000
OPENINGS = 7
MOST_S = (60, 2)  # building, opening

READ = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from bench.data.bdd100k import read
imported = time.perf_counter()
found = read(Path(sys.argv[1]))
counts = [len(names) for split in ("train", "val") for names in found.labelled(split).values()]
done = time.perf_counter()
said = {
    "wall_s": done - imported,
    "with_imports_s": done - start,
    "processor_s": time.process_time(),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    "found": [found.sha256, counts],
}
print(json.dumps(said))
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--data", type=Path, required=True)
    frame = whole_frame(arguments.parse_args().data)
    with tempfile.TemporaryDirectory(prefix="data-index-") as folder:
        root, kept = Path(folder) / "bdd100k", Path(folder) / "index"
        files = lay_out(frame, root)
        lists = sum(file.stat().st_size for file in root.rglob("*.json"))
        built = reading(root, kept)
        opened = [reading(root, kept) for _ in range(OPENINGS)]
        assert all(one["found"] == built["found"] for one in opened)
        size = sum(file.stat().st_size for file in kept.iterdir())
        changed = next((root / "images/100k/val").iterdir())
        changed.unlink()
        changed.write_bytes(frame.image.read_bytes())
        again = reading(root, kept)
    counts = built["found"][1]
    rows = {
        "images and masks; lists of boxes": f"{files:,}; {lists / 1e6:,.0f} MB",
        "frames with sem, driv, det: to train; to validate": f"{counts[:3]}; {counts[3:]}",
        "the index is made, s": f"{built['wall_s']:.1f}",
        "… peak memory of the process, MB": f"{built['peak_mb']:,}",
        "its size, MB": f"{size / 1e6:.0f}",
        f"it is opened, s: median of {OPENINGS} (range)": spread(opened, "wall_s"),
        "… with all imports, s": spread(opened, "with_imports_s"),
        "… processor time of the process, s": spread(opened, "processor_s"),
        "one file is another: it is made again, s": f"{again['wall_s']:.1f}",
    }
    print("| | |", "| --- | ---: |", *(f"| {k} | {v} |" for k, v in rows.items()), sep="\n")
    print(f"\nLoad {os.getloadavg()[0]:.1f}.")
    noticed = again["wall_s"] > 2 * median(one["wall_s"] for one in opened)
    quick = built["wall_s"] < MOST_S[0] and median(one["wall_s"] for one in opened) < MOST_S[1]
    return int(not (quick and noticed))


def whole_frame(data: Path) -> Frame:
    """Return a frame of a folder that has all three labels."""
    frames = read(data).train.values()
    return next(frame for frame in frames if frame.tasks() == TASKS and len(frame.det.classes) > 15)


def lay_out(frame: Frame, root: Path) -> int:
    """Write the folder; return how many images and masks are in it."""
    files = 0
    names = {split: list(named(split, count)) for split, count in FRAMES["100k"].items()}
    of_10k = {split: list(named(f"10k/{split}", n)) for split, n in FRAMES["10k"].items()}
    of_10k["train"][:SHARED] = names["train"][:SHARED]
    for split in FRAMES["100k"]:
        for source, place, those in (
            (frame.image, "images/100k", names),
            (frame.driv, "labels/drivable/masks", names),
            (frame.image, "images/10k", of_10k),
            (frame.sem, "labels/sem_seg/masks", of_10k),
        ):
            link(source, root / place / split, those[split])
            files += len(those[split])
        boxes(frame, root / "labels" / "det_20" / f"det_{split}.json", names[split])
    return files


def named(what: str, count: int) -> Iterator[str]:
    """Yield names of the form that BDD100K's have."""
    for number in range(count):
        digits = sha256(f"{what} {number}".encode()).hexdigest()
        yield f"{digits[:8]}-{digits[8:16]}"


def link(source: Path, folder: Path, names: list[str]) -> None:
    """Give a file all these names in a folder."""
    folder.mkdir(parents=True)
    for start in range(0, len(names), LINKS):
        first, *others = (
            folder / f"{name}{source.suffix}" for name in names[start : start + LINKS]
        )
        first.write_bytes(source.read_bytes())
        for other in others:
            other.hardlink_to(first)


def boxes(frame: Frame, file: Path, names: list[str]) -> None:
    """Write a Scalabel list in which every frame has the boxes of this one."""
    rows = zip(frame.det.boxes_xyxy.tolist(), frame.det.classes.tolist(), strict=True)
    attributes = {"occluded": False, "truncated": False, "trafficLightColor": "NA"}
    labels = [
        {
            "id": str(number),
            "attributes": attributes,
            "category": DET[label],
            "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1},
        }
        for number, ((x1, y1, x2, y2), label) in enumerate(rows)
    ]
    attributes = {"weather": "clear", "timeofday": "daytime", "scene": "city street"}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        for number, name in enumerate(names):
            entry = {"name": f"{name}.jpg", "attributes": attributes, "timestamp": 10000}
            stream.write(",["[number == 0] + json.dumps({**entry, "labels": labels}))
        stream.write("]")


def reading(root: Path, kept: Path) -> dict[str, Any]:
    """Read a folder in a new process; return what it took and what was found."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(root)],
        env={**os.environ, "BENCH_INDEX": str(kept)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def spread(readings: list[dict[str, Any]], name: str) -> str:
    """Return median and range of a value of several readings."""
    values = [one[name] for one in readings]
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
