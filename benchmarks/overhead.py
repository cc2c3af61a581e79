"""What a cell costs beside its training, and how long a thousand cells take to plan.

    python -m benchmarks.overhead        a minute; no GPU

Tiny cells on a small drawn data set, one after the other through the local runner, a process each:

start      from handing over the cell to the attempt's record: the process, the lock
records    building, training and scoring aside: what the cell writes, saves and removes
end        from `result.json` to the runner's outcome
tracking   the cell's run in MLflow's database, curves, scores and files

The first cell of a `bench run` waits for the imports of them all, which stand apart.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from bench import track
from bench.data.demo.draw import Counts, draw
from bench.forecast import forecast
from bench.grids import Request, cells
from bench.launch import IMPORTS
from bench.plan import Place, PlannedCell, plan, write_orders
from bench.provenance import begin
from bench.store import Store, append_line, failure_kept, locked, read_json, write_json
from bench.work import work
from runners.local import Local

FRAMES = Counts(train_100k=8, train_10k=4, shared=2, val_100k=3, val_10k=2)
HELP_S, MOST_S, SKIP_S, PLAN_S = 0.15, 3, 0.020, 2
CELLS, THOUSAND_SEEDS = 5, 56  # 56 seeds x 9 checkpoints x 2 protocols: 1008 cells, 3 teachers


def rows() -> tuple[list[str], bool]:
    """Return the rows of a Markdown table, and whether all bars are met."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        store = Store(Path(folder) / "runs")
        draw(Path(folder) / "data", 0, FRAMES)
        place = Place(store=store, data=f"{folder}/data", stand_ins=True)
        store.prepare()
        request = Request(zoo=("moco_v2",), protocols=("pf",), preset="tiny", schemes=("zeroing",))
        request = replace(request, seeds=tuple(range(CELLS)))
        planned = plan(cells(request), place)
        write_orders(planned, place)
        uri = track.default_uri(store.root)
        opened_s = timed(lambda: track.prepare(uri, store.root))
        first, *others = [measured(*one, place, uri) for one in run(planned, place)]
        names = ("start", "records", "end", "tracking")
        means = {name: fmean(row[name] for row in others) for name in names}
        finished: list[PlannedCell] = []
        skipping_s = timed(lambda: finished.extend(plan(cells(request), place))) / CELLS
        assert not any(one.to_run for one in finished)
        grid = Request(zoo=("all",), preset="tiny", seeds=tuple(range(THOUSAND_SEEDS)))
        listed: list[PlannedCell] = []
        planning_s = timed(lambda: listed.extend(plan(cells(grid), place)))
        costing_s = timed(lambda: forecast(listed, place, jobs=None))
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in means.items())
    whole, planned_s = sum(means.values()), planning_s + costing_s
    command = [sys.executable, "-m", "bench", "--help"]
    help_s = median(
        timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
        for _ in range(9)
    )
    written = [
        f"| `bench --help`, s | {help_s:.3f} | {HELP_S} |",
        f"| what a cell costs beside its training, s: {parts} | {whole:.2f} | {MOST_S} |",
        f"| a finished cell is skipped, ms | {1000 * skipping_s:.1f} | {1000 * SKIP_S:.0f} |",
        f"| {len(listed):,} cells planned, and their cost, s | {planned_s:.2f} | {PLAN_S} |",
        f"| once a `bench run`: what workers import, s | {first['start'] - means['start']:.2f} | |",
        f"| once a `bench run`: MLflow imported, its database made, s | {opened_s:.2f} | |",
    ]
    met = help_s <= HELP_S and whole <= MOST_S and skipping_s <= SKIP_S and planned_s <= PLAN_S
    return written, met


def run(planned: list[PlannedCell], place: Place) -> Iterator[tuple[PlannedCell, float, float]]:
    """Run cells one after the other; yield each with the times it was handed over and over."""
    cells, handed = {str(one.folder): one for one in planned}, dict[str, float]()

    def items() -> Iterator[str]:
        for item in cells:
            handed[item] = time.time()
            yield item

    local = Local(place.store.root / "logs", slots=1, threads=1, imports=IMPORTS)
    for outcome in local.run(work, items()):
        assert outcome.error is None, outcome.traceback
        yield cells[outcome.item], handed[outcome.item], time.time()


def measured(
    one: PlannedCell, began: float, ended: float, place: Place, uri: str
) -> dict[str, float]:
    """Return the seconds of each part of a cell's overhead."""
    home = one.folder
    return {
        "start": (home / "attempts.jsonl").stat().st_mtime - began,
        "records": timed(lambda: records(one, place.store.root / "beside" / "records")),
        "end": ended - (home / "result.json").stat().st_mtime,
        "tracking": timed(lambda: track.mirror([home], uri, place.store.root)),
    }


def records(one: PlannedCell, home: Path) -> None:
    """Write what a cell writes about itself, in a folder of its own, with the lock held."""
    home.mkdir(parents=True, exist_ok=True)
    with locked(home), failure_kept(home):
        begin(home, one.order)
        for line in (one.folder / "progress.jsonl").read_text().splitlines():
            append_line(home / "progress.jsonl", {"line": line})
        for name in ("load_report.json", "result.json"):
            write_json(home / name, read_json(one.folder / name))


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    found, met = rows()
    print("| | measured | at most |", "| --- | ---: | ---: |", *found, sep="\n")
    sys.exit(not met)
