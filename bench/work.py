"""What a worker does with a folder of the store: its cell, or the pseudo labels that it is for.

Nothing heavy is imported before there is work: a job first makes sure that it can be told to stop.
"""

import os
import time
from pathlib import Path

from bench import BenchError, memory
from bench.plan import LABELS_DONE
from bench.store import Busy, owner, read_json, state, write_failure

LOOK_S = 2.0  # between two looks at somebody else's work


def work(folder: str) -> None:
    """Run the cell of a folder, or make its labels; `Busy` where somebody else does."""
    _take_threads()
    memory.keep()
    if is_labels(Path(folder)):
        from bench.pseudo import make_labels

        make_labels(folder)
    else:
        from bench.run import run_cell

        run_cell(folder)


def _take_threads() -> None:
    """Use as many threads as the environment says: torch may have been imported before it did."""
    import torch

    if given := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(given))


def work_in_job(folder: str) -> None:
    """Do the work of a SLURM job, which starts when those that it waited for have ended.

    However they ended: where what it needs is missing the work fails at once. While somebody else
    does this work, or what it needs, the job waits, and takes over from one whose heart stops.
    """
    home = Path(folder)
    missing = [need.name for need in needs(home) if _in_the_end(need) != "done"]
    if missing:
        write_failure(home, said := lacking(missing), "")
        raise BenchError(said)
    while True:
        try:
            return work(folder)
        except Busy as busy:
            print(busy, "Waiting.", flush=True)
            _in_the_end(home)


def is_labels(home: Path) -> bool:
    """Return whether a folder is for pseudo labels."""
    return (home / "order.json").exists()


def now(home: Path) -> str:
    """Return the state of a folder of cells or of labels."""
    return state(home, LABELS_DONE if is_labels(home) else "result.json")


def needs(home: Path) -> list[Path]:
    """Return the folders that must be done before the work in this one."""
    store = home.parent.parent
    if is_labels(home):
        teachers = read_json(home / "order.json")["teachers"].values()
        return [store / "cells" / teacher for teacher in teachers]
    labels = read_json(home / "cell.json")["pseudo"]
    return [store / "pseudo" / labels] if labels else []


def lacking(missing: list[str]) -> str:
    """Return the error of what cannot be run because others failed."""
    return f"Needs {', '.join(missing)}: not there."


def _in_the_end(home: Path) -> str:
    """Return the state of a folder when nobody works in it any longer."""
    while owner(home) is not None and now(home) != "done":
        time.sleep(LOOK_S)
    return now(home)
