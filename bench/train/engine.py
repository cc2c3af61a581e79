"""The stages of a cell, read top to bottom.

which frames       protocols.schemes: a pure function of (seed, stage, step)
on several ranks   each takes its part of every batch; rank 0 alone writes (bench.dist)
which dropout      likewise, and which anchors and regions; nothing else is random
when it is saved   every few minutes, after each epoch, and when it is asked to stop
where it resumes   at the step that the newest state names
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from bench import BenchError, dist
from bench.data.bdd100k import Frame
from bench.data.loader import training_batches
from bench.data.sample import Batch
from bench.eval.evaluate import evaluate
from bench.model.build import seed_of
from bench.model.multitask import MultiTask, MultiTaskLoss
from bench.store import append_line, flush, read_lines, write_text
from bench.train import state, stop
from bench.train.optim import adamw, set_rate
from bench.train.speed import PARTS, Arithmetic, Stopwatch
from protocols.schemes import Order, order_of
from protocols.stages import Optim, Protocol, Stage

_CURE = "The last good state is kept. A lower rate, for the whole comparison: --set stages.….lr=…"
LOG_EVERY = 10  # steps between two readings of the losses, each of which waits for the device
LOG = "progress.jsonl"
SAID = logging.getLogger("bench")  # what a worker's log shows of it


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What happened since the last report: mean loss by task, images per second, seconds.

    A step in which no label of a task counts counts as a loss of 0. `parts_s` says how the seconds
    were spent; `mfu`, where it is known, which share of the GPU's arithmetic was used.
    """

    stage: str
    step: int
    steps: int
    epoch: int
    losses: dict[str, float]
    images_per_s: float
    lr: float
    seconds: float
    parts_s: dict[str, float]
    mfu: float | None

    def __str__(self) -> str:
        """Return it as a line of a log."""
        losses = " ".join(f"{task} {value:.3f}" for task, value in self.losses.items())
        where = f"{self.stage} {self.step}/{self.steps}, epoch {self.epoch}"
        whole = sum(self.parts_s.values()) or 1.0
        spent = ", ".join(f"{part} {value / whole:.0%}" for part, value in self.parts_s.items())
        speed = f"{self.images_per_s:.1f} images/s ({spent})"
        speed += "" if self.mfu is None else f", MFU {self.mfu:.0%}"
        return f"{where}: loss {losses}, {speed}, rate {self.lr:.3g}"


def train(
    model: MultiTask,
    losses: MultiTaskLoss,
    protocol: Protocol,
    frames: Mapping[str, Frame],
    val: Iterable[Frame],
    seed: int,
    home: Path,
) -> list[dict[str, Any]]:
    """Take the model through the protocol's stages; return what each of them did and cost.

    Trained on are `frames`, by name, with the labels that they carry; `val` is scored every
    `val_every` epochs. It is the same model throughout, and every stage has an optimiser of its
    own. States and progress go into `home`; the newest state there is where training starts. A loss
    that is not finite raises `BenchError` before the state is saved; a run that is asked to stop
    saves and raises `Stopped`.
    """
    with dist.first_alone():
        saved = state.restore(home)
    seconds = dict(saved.seconds) if saved else {}
    orders = [
        stage_order(stage, protocol, frames, list(losses.losses), seed) for stage in protocol.stages
    ]
    writes, first = dist.rank() == 0, saved.stage if saved else 0
    if writes:
        _rewind(home / LOG, [stage.name for stage in protocol.stages], saved)
    if saved:
        model.load_state_dict(saved.model)
    clock, tasks = stop.Clock(), list(losses.losses)
    compiles = _compiles(model, protocol.optim)
    for number, (stage, order) in enumerate(zip(protocol.stages, orders, strict=True)):
        if number < first:
            continue
        if compiles:
            torch.compiler.reset()  # what the stage before compiled counts against a limit
        parameters = model.learn(stage.learns)
        network = DistributedDataParallel(model) if dist.size() > 1 else model
        optimiser, device = adamw(parameters, stage, protocol.optim), parameters[0].device
        start, window = 0, Window(tasks, device)
        arithmetic = Arithmetic(device, protocol.optim.precision)
        if saved:
            optimiser.load_state_dict(saved.optimiser)
            start = saved.step
            window, saved = Window(tasks, device, saved.rows, saved.rows_s, saved.parts_s), None
            if writes:  # the last one may have been cut off
                _validate(model, val, protocol, stage, order, start, home)
        parts = training_batches(
            order,
            frames,
            protocol.input,
            start=start,
            parts=protocol.optim.accumulate,
            device=device,
        )
        for done, batches in enumerate(parts, start + 1):
            set_rate(optimiser, stage.rate(done - 1, order.steps))
            torch.manual_seed(_dropout(order, done - 1))
            window.watch.mark("data")
            with arithmetic.of_step(batches):
                row = take_step(
                    network, losses, optimiser, protocol.optim, batches, window.watch.mark
                )
            window.add(row)
            where, ended = f"stage {stage.name}, step {done}", order.ends_epoch(done)
            if ended or len(window) == LOG_EVERY:
                report = _report(stage, order, done, window, where, arithmetic)
                if writes:
                    append_line(home / LOG, {"kind": "train", **asdict(report)})
                    SAID.info("%s", report)
                seconds[stage.name] = seconds.get(stage.name, 0.0) + report.seconds
                window = Window(tasks, device)
            if writes and (ended or clock.due()):
                window.read(where)
                if not all(bool(weight.isfinite().all()) for weight in parameters):
                    raise BenchError(f"Weights are not finite after {where}. " + _CURE)
                flush(home / LOG)  # no state knows of a line that is not there
                state.save(_point(number, done, model, optimiser, seconds, window), home)
                clock.saved()
                if stop.asked():
                    SAID.info("asked to stop: saved after %s", where)
                stop.check()
                _validate(model, val, protocol, stage, order, done, home)
                window.go_on()
        if compiles:
            SAID.info("stage %s: %d graphs compiled in all", stage.name, compilations())
    return [_account(*pair, seconds) for pair in zip(protocol.stages, orders, strict=True)]


def _compiles(model: MultiTask, optim: Optim) -> bool:
    """Return whether the model is compiled from now on."""
    if optim.compile and dist.size() > 1:
        SAID.info("optim.compile is ignored: it is for cells on one GPU, this one has several")
    elif optim.compile:
        model.compile_maps()
        return True
    return False


def compilations() -> int:
    """Return how many graphs torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters  # a second or more; torch has no public name for it

    return counters["stats"]["unique_graphs"]


class Window:
    """The steps since the last report: their losses, left on the device as long as possible.

    `rows` are those that were read, `seconds` is the time up to then, `parts_s` where it went; they
    outlive a resumption, so that a report after it is the one that it would have been.
    """

    def __init__(
        self,
        tasks: list[str],
        device: torch.device,
        rows: Sequence[list[float]] = (),
        seconds: float = 0.0,
        parts_s: Mapping[str, float] | None = None,
    ) -> None:
        self.tasks = tasks
        self.rows = list(rows)
        self.seconds = seconds
        self.parts_s = dict(parts_s or dict.fromkeys(PARTS, 0.0))
        self.unread: list[Tensor] = []
        self.watch = Stopwatch(device)
        self.began = time.perf_counter()

    def __len__(self) -> int:
        return len(self.rows) + len(self.unread)

    def add(self, row: Tensor) -> None:
        """Take in the losses and the gradient's norm of one step."""
        self.unread.append(row)

    def read(self, where: str) -> None:
        """Wait for the device, the one wait there is; `BenchError` where a value is not finite."""
        rows = torch.stack(self.unread).tolist() if self.unread else []
        for row in rows:
            if not all(math.isfinite(value) for value in row):
                named = zip([*self.tasks, "gradient"], row, strict=True)
                values = ", ".join(f"{name} {value:.3g}" for name, value in named)
                raise BenchError(
                    f"Loss is not finite in the {len(rows)} steps up to {where} ({values}). "
                    + _CURE
                )
        self.rows, self.unread = [*self.rows, *rows], []
        self.seconds += time.perf_counter() - self.began
        self.parts_s = {part: self.parts_s[part] + s for part, s in self.watch.read().items()}
        self.go_on()

    def go_on(self) -> None:
        """Count the time from now: what was done since `read` is not training."""
        self.began = time.perf_counter()
        self.watch.skip()


def stage_order(
    stage: Stage, protocol: Protocol, frames: Mapping[str, Frame], tasks: list[str], seed: int
) -> Order:
    """Return the order in which a stage goes through the frames."""
    return order_of(
        protocol.scheme,
        {name: frame.tasks() for name, frame in frames.items()},
        tasks,
        epochs=stage.epochs,
        batch=protocol.optim.batch,
        seed=f"{seed}/{stage.name}",
    )


def _dropout(order: Order, step: int) -> int:
    """Return the seed of what is random within a step, another one on each rank."""
    return seed_of(f"{order.seed}/{step}" + (f"/{dist.rank()}" if dist.rank() else ""))


def take_step(
    model: nn.Module,
    losses: MultiTaskLoss,
    optimiser: Optimizer,
    optim: Optim,
    batches: Sequence[Batch],
    mark: Callable[[str], None] = lambda part: None,
) -> Tensor:
    """Take one optimiser step; return the tasks' losses and the gradient's norm, on the device.

    `batches` are this rank's parts of the step's whole batch, one after the other. `model` averages
    gradients over the ranks, and a rank's losses are its parts of sums: hence their number. `mark`
    is called when a part of the step has ended (see `speed`).
    """
    learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    whole = torch.zeros(len(losses.losses), device=learning[0].device)
    for number, one in enumerate(batches, 1):
        batch = one.to(learning[0].device)
        with _silent(model, number < len(batches)):
            with torch.autocast(
                batch.images.device.type, torch.bfloat16, optim.precision == "bf16"
            ):
                outputs = model(batch.images, batch.sizes_hw, batch.boxes_xyxy)
            by_task = losses(outputs, batch)  # matching and losses in float32, whatever precision
            terms = torch.stack([by_task[task] for task in losses.losses]) / len(batches)
            mark("forward")
            (dist.size() * terms.sum()).backward()
            mark("backward")
        whole += dist.over_all(terms)
    norm = torch.nn.utils.clip_grad_norm_(learning, optim.clip_norm)
    optimiser.step()
    optimiser.zero_grad()
    mark("optimiser")
    return torch.cat([whole, norm.detach()[None]])


def _silent(model: nn.Module, silent: bool) -> AbstractContextManager[None]:
    """Keep ranks from exchanging gradients that are not complete yet."""
    together = isinstance(model, DistributedDataParallel)
    return model.no_sync() if silent and together else nullcontext()


def _report(
    stage: Stage, order: Order, done: int, window: Window, where: str, arithmetic: Arithmetic
) -> Progress:
    window.read(where)
    rows = window.rows
    means = {t: sum(row[i] for row in rows) / len(rows) for i, t in enumerate(window.tasks)}
    return Progress(
        stage=stage.name,
        step=done,
        steps=order.steps,
        epoch=order.epoch_after(done),
        losses=means,
        images_per_s=round(len(rows) * order.batch / window.seconds, 2),
        lr=stage.rate(done - 1, order.steps),
        seconds=round(window.seconds, 3),
        parts_s={part: round(seconds, 3) for part, seconds in window.parts_s.items()},
        mfu=arithmetic.used(len(rows), window.seconds),
    )


def _point(
    number: int,
    done: int,
    model: MultiTask,
    optimiser: Optimizer,
    seconds: dict[str, float],
    window: Window,
) -> state.State:
    return state.State(
        stage=number,
        step=done,
        model=model.state_dict(),
        optimiser=optimiser.state_dict(),
        seconds=seconds,
        rows=window.rows,
        rows_s=window.seconds,
        parts_s=window.parts_s,
    )


def _account(stage: Stage, order: Order, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "name": stage.name,
        "epochs": stage.epochs,
        "steps": order.steps,
        "images": order.steps * order.batch,
        "seconds": round(seconds.get(stage.name, 0.0), 2),
    }


def _validate(
    model: MultiTask,
    val: Iterable[Frame],
    protocol: Protocol,
    stage: Stage,
    order: Order,
    done: int,
    home: Path,
) -> None:
    """Score the model where a validation is due after `done` steps and the log does not have it."""
    epoch = order.epoch_after(done)
    if not protocol.val_every or epoch % protocol.val_every or not order.ends_epoch(done):
        return
    line = {"kind": "val", "stage": stage.name, "epoch": epoch, "step": done}
    if any(line.items() <= there.items() for there in read_lines(home / LOG)):
        return
    scores = evaluate(model, val, protocol.input, protocol.optim.batch, home / state.SCORED)
    append_line(home / LOG, {**line, "metrics": scores.metrics(judge=False)})
    model.train()


def _rewind(file: Path, stages: list[str], saved: state.State | None) -> None:
    """Drop the lines about steps after the saved state: they will be taken again."""
    reached = (saved.stage, saved.step) if saved else (-1, 0)
    lines = read_lines(file)
    kept = [line for line in lines if (stages.index(line["stage"]), line["step"]) <= reached]
    write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
