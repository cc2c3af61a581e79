"""How well a grid fills its slots: its wall time over that of the best list schedule.

    python -m benchmarks.grid [--store runs]        the demo grid, ten minutes; or a finished store

The schedule is made afterwards, of the times that the store's cells took from their first attempt
to their results, with as many slots: the longest first, teachers before pseudo labels before
students. It knows no start of a process and no table. The store is that of one run from nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

MOST = 1.05
ENDS = ("result.json", "statistics.json")  # of a cell; of pseudo labels


class Took(NamedTuple):
    """When something began and ended, in seconds; `turn` says what has to wait for what."""

    name: str
    turn: int  # 0 teachers, 1 their labels, 2 students
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


def took(store: Path) -> list[Took]:
    """Return what a store's cells and pseudo labels took."""
    found = []
    for home in sorted((*store.glob("cells/[!.]*"), *store.glob("pseudo/[!.]*"))):
        attempts = (home / "attempts.jsonl").read_text().splitlines()
        assert len(attempts) == 1, f"{home} took {len(attempts)} attempts"
        began = datetime.fromisoformat(json.loads(attempts[0])["time"]).timestamp()
        ended = next(home / end for end in ENDS if (home / end).exists()).stat().st_mtime
        turn = 1 if home.parent.name == "pseudo" else 2 if "self-training" in home.name else 0
        found.append(Took(home.name, turn, began, ended))
    return found


def best(jobs: Sequence[Took], slots: int) -> float:
    """Return the seconds of the list schedule with the longest first, turn after turn."""
    free = [0.0] * slots
    for turn in range(3):
        for job in sorted((j for j in jobs if j.turn == turn), key=lambda j: -j.seconds):
            free.sort()
            free[0] += job.seconds
        if any(job.turn == turn + 1 for job in jobs):
            free = [max(free)] * slots
    return max(free)


def main() -> int:
    """Run the grid where there is none; print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--slots", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grid-") as folder:
        store = asked.store or Path(folder) / "runs"
        if asked.store is None:
            command = [sys.executable, "-m", "bench", "run", "--jobs", str(asked.slots)]
            command += ["--store", str(store), "--zoo", "all", "--protocol", "paf"]
            subprocess.run(command, check=True)
        jobs = took(store)
    wall = max(job.ended for job in jobs) - min(job.began for job in jobs)
    ideal = best(jobs, asked.slots)
    print(f"{len(jobs)} cells and sets of labels, {asked.slots} slots")
    print(f"wall {wall:.0f} s, list schedule {ideal:.0f} s, ratio {wall / ideal:.3f}, bar {MOST}")
    return int(wall / ideal > MOST)


if __name__ == "__main__":
    sys.exit(main())
