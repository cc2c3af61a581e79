"""A few timed steps of what a plan is to run, for `bench plan --probe`; nothing of it is kept but
the speeds.

Each kind of work that is still unknown on this device (bench/measured.py) is timed once, on the
first cell that has it: a step to warm up, then a few that count. Students of self-training have no
pseudo labels yet, so the frames with the most labels of their own stand in. Start-up is not timed.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from bench import BenchError, memory
from bench.cell import hashed
from bench.data import bdd100k
from bench.data.bdd100k import Dataset, Frame
from bench.data.loader import training_batches
from bench.eval.evaluate import evaluate
from bench.measured import SCORING, Measured, kinds, measured
from bench.model.build import build, losses
from bench.model.multitask import MultiTask
from bench.plan import Place, PlannedCell
from bench.provenance import device, now
from bench.store import write_json
from bench.train.engine import stage_order, take_step
from bench.train.optim import adamw
from bench.weights import parts_files, weights_file
from protocols.stages import Stage

STEPS = 3  # that are timed, after one that is not


def probe(cells: Sequence[PlannedCell], place: Place, threads: int) -> Iterator[str]:
    """Time what these cells do and nobody knows of this device yet; yield a line for each probe.

    `threads` are those that a cell will have. `BenchError` for cells of several ranks: this is one
    process.
    """
    if place.ranks > 1:
        raise BenchError("--probe times one process; leave out --gpus-per-cell, or --probe.")
    data = bdd100k.read(place.root)
    memory.keep()  # as a worker does
    with _threads(threads):
        here = _device()
        known = {kind for one in measured(place.store) if one.device == here for kind in one.speeds}
        for cell in cells:
            missing = {n: k for n, k in kinds(cell.cell, cell.order).items() if k not in known}
            if missing:
                found, words = _timed(cell, missing, data, here)
                folder = place.store.root / "probes"
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / f"{cell.folder.name}-{hashed(here)[:6]}.json", asdict(found))
                known |= found.speeds.keys()
                yield f"{cell.title}: {words} on {here}"


def _timed(
    one: PlannedCell, missing: dict[str, str], data: Dataset, here: str
) -> tuple[Measured, str]:
    """Return the speeds of the stages, and of scoring, that are missing; and a line about them."""
    protocol, order, began = one.cell.protocol, one.order, time.perf_counter()
    model, _ = build(
        protocol, one.cell.tasks, weights_file(order), one.cell.seed, parts_files(order)
    )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if protocol.optim.compile:
        model.compile_maps()
    built_s = time.perf_counter() - began
    frames, speeds = _frames(one, data), dict[str, list[float]]()
    for stage in protocol.stages:
        if stage.name in missing and missing[stage.name] not in speeds:
            speeds[missing[stage.name]] = [_speed(one, model, stage, frames)]
    sizes: dict[str, dict[str, float]] = {"model": {}, "image": {}}
    if SCORING in missing:
        kind, (seconds, kept) = missing[SCORING], _scoring(one, model, data)
        total = sum(bool({*one.cell.tasks} & {*own}) for own in one.split.val.values())
        speeds[kind] = [total / (built_s + total * seconds)]
        state = model.state_dict().values()
        sizes["model"][kind] = sum(tensor.numel() * tensor.element_size() for tensor in state)
        sizes["image"][kind] = kept
    words = ", ".join(f"{name} {speeds[k][0]:.3g}" for name, k in missing.items() if k in speeds)
    found = Measured(
        finished=False,
        device=here,
        time=now(),
        speeds=speeds,
        model_bytes={kind: int(size) for kind, size in sizes["model"].items()},
        image_bytes=sizes["image"],
    )
    return found, f"{words} images/s"


def _speed(one: PlannedCell, model: MultiTask, stage: Stage, frames: dict[str, Frame]) -> float:
    """Return the images per second of a few steps of a stage, with the wait for their batches."""
    protocol = one.cell.protocol
    enough = replace(stage, epochs=(STEPS + 1) * protocol.optim.batch)  # however few frames
    order = stage_order(enough, protocol, frames, list(one.cell.tasks), one.cell.seed)
    optimiser = adamw(model.learn(stage.learns), stage, protocol.optim)
    wanted, rates = losses(protocol, one.cell.tasks), list[float]()
    parts = training_batches(
        order,
        frames,
        protocol.input,
        start=0,
        parts=protocol.optim.accumulate,
        device=next(model.parameters()).device,
    )
    before = time.perf_counter()
    for batches in islice(parts, STEPS + 1):
        take_step(model, wanted, optimiser, protocol.optim, batches).tolist()
        after = time.perf_counter()
        rates.append(protocol.optim.batch / (after - before))
        before = after
    return median(rates[1:])


def _scoring(one: PlannedCell, model: MultiTask, data: Dataset) -> tuple[float, float]:
    """Return the seconds that a validation frame takes, and the bytes that are kept of it."""
    protocol, tasks = one.cell.protocol, {*one.cell.tasks}
    val = [frame for frame in data.val.values() if tasks & {*frame.tasks()}]
    batch = protocol.optim.batch
    evaluate(model, val[:batch], protocol.input, batch)
    began = time.perf_counter()
    found = evaluate(model, val[: 2 * batch], protocol.input, batch)
    seconds = (time.perf_counter() - began) / len(val[: 2 * batch])
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder))
        kept = sum(file.stat().st_size for file in Path(folder).iterdir())
    return seconds, kept / len(val[: 2 * batch])


def _frames(one: PlannedCell, data: Dataset) -> dict[str, Frame]:
    """Return frames to learn from: those of the split, or those with the most labels."""
    tasks = {*one.cell.tasks}
    if one.labels is None:
        carried = {n: tuple(t for t in own if t in tasks) for n, own in one.split.frames.items()}
        return bdd100k.withhold(data.train, carried)
    names = sorted(one.split.frames, key=lambda name: -len(tasks & {*data.train[name].tasks()}))
    most = names[: (STEPS + 1) * one.cell.protocol.optim.batch]
    return {name: data.train[name] for name in most}


def _device() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return device({"device": name, "threads": torch.get_num_threads()})


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
