"""The stages of a cell, read top to bottom.

which frames       protocols.schemes: a pure function of (seed, stage, step)
which dropout      likewise; nothing else is random
when it is saved   after each epoch
where it resumes   at the step that the newest state names
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from bench import BenchError
from bench.data.bdd100k import Frame
from bench.data.loader import training_batches
from bench.data.sample import Batch
from bench.eval.evaluate import evaluate
from bench.model.build import seed_of
from bench.model.multitask import MultiTask, MultiTaskLoss
from bench.store import append_line, read_lines, write_text
from bench.train import state
from bench.train.optim import adamw, set_rate
from protocols.schemes import Zeroing
from protocols.stages import Protocol, Stage

_CURE = "The last good state is kept. A lower rate, for the whole comparison: --set stages.….lr=…"
LOG_EVERY = 10  # steps between two readings of the losses, each of which waits for the device


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What happened since the last report: mean loss by task, images per second, seconds."""

    stage: str
    step: int
    steps: int
    epoch: int
    losses: dict[str, float]
    images_per_s: float
    lr: float
    seconds: float


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
    own. States and progress go into `home`; the newest
    state there is where training starts. A loss that is not finite raises `BenchError` before the
    state is saved.
    """
    saved = state.restore(home)
    seconds = dict(saved.seconds) if saved else {}
    orders = [_order(stage, protocol, tuple(frames), seed) for stage in protocol.stages]
    _rewind(home / "progress.jsonl", [stage.name for stage in protocol.stages], saved)
    first = saved.stage if saved else 0
    if saved:
        model.load_state_dict(saved.model)
    for number, (stage, order) in enumerate(zip(protocol.stages, orders, strict=True)):
        if number < first:
            continue
        parameters = model.learn(stage.learns)
        optimiser, start = adamw(parameters, stage, protocol.optim), 0
        if saved:
            optimiser.load_state_dict(saved.optimiser)
            start, saved = saved.step, None
        batches = training_batches(order, frames, protocol.input, start=start)
        clip = protocol.optim.clip_norm
        for done in _steps(stage, order, model, losses, optimiser, clip, batches, start):
            append_line(home / "progress.jsonl", {"kind": "train", **asdict(done)})
            seconds[stage.name] = seconds.get(stage.name, 0.0) + done.seconds
            if done.step != order.epoch_end(done.epoch):
                continue
            if not all(bool(weight.isfinite().all()) for weight in parameters):
                where = f"stage {stage.name}, step {done.step}"
                raise BenchError(f"Weights are not finite after {where}. " + _CURE)
            point = state.State(
                stage=number,
                step=done.step,
                model=model.state_dict(),
                optimiser=optimiser.state_dict(),
                seconds=seconds,
            )
            state.save(point, home)
            if protocol.val_every and done.epoch % protocol.val_every == 0:
                scores = evaluate(model, val, protocol.input, protocol.optim.batch)
                line = {"stage": stage.name, "epoch": done.epoch, "step": done.step}
                append_line(
                    home / "progress.jsonl", {"kind": "val", **line, "metrics": scores.metrics()}
                )
                model.train()
    return [
        {
            "name": stage.name,
            "epochs": stage.epochs,
            "steps": order.steps,
            "images": order.steps * order.batch,
            "seconds": round(seconds.get(stage.name, 0.0), 2),
        }
        for stage, order in zip(protocol.stages, orders, strict=True)
    ]


def _order(stage: Stage, protocol: Protocol, frames: tuple[str, ...], seed: int) -> Zeroing:
    return Zeroing(
        frames=frames,
        epochs=stage.epochs,
        batch=protocol.optim.batch,
        seed=f"{seed}/{stage.name}",
    )


def _steps(
    stage: Stage,
    order: Zeroing,
    model: MultiTask,
    losses: MultiTaskLoss,
    optimiser: Optimizer,
    clip_norm: float,
    batches: Iterable[Batch],
    start: int,
) -> Iterator[Progress]:
    """Take the steps from `start` on; report at the end of each epoch, and every few steps."""
    ends = {order.epoch_end(epoch) for epoch in range(1, stage.epochs + 1)}
    unread: list[Tensor] = []
    began = time.perf_counter()
    for step, batch in enumerate(batches, start):
        set_rate(optimiser, stage.rate(step, order.steps))
        torch.manual_seed(seed_of(f"{order.seed}/{step}"))  # dropout
        unread.append(_step(model, losses, optimiser, clip_norm, batch))
        done = step + 1
        if done in ends or len(unread) == LOG_EVERY:
            means = _read(unread, list(losses.losses), f"stage {stage.name}, step {done}")
            seconds = time.perf_counter() - began
            yield Progress(
                stage=stage.name,
                step=done,
                steps=order.steps,
                epoch=min(done * order.batch // len(order.frames), stage.epochs),
                losses=means,
                images_per_s=round(len(unread) * order.batch / seconds, 2),
                lr=stage.rate(step, order.steps),
                seconds=round(seconds, 3),
            )
            unread, began = [], time.perf_counter()


def _step(
    model: MultiTask, losses: MultiTaskLoss, optimiser: Optimizer, clip_norm: float, batch: Batch
) -> Tensor:
    """Take one optimiser step; return the tasks' losses and the gradient's norm, on the device."""
    learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    batch = batch.to(learning[0].device)
    by_task = losses(model(batch.images, batch.sizes_hw), batch)
    terms = torch.stack([by_task[task] for task in losses.losses])
    terms.sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(learning, clip_norm)
    optimiser.step()
    optimiser.zero_grad()
    return torch.cat([terms.detach(), norm.detach()[None]])


def _read(unread: list[Tensor], tasks: list[str], where: str) -> dict[str, float]:
    """Return the mean losses of some steps: the one wait for the device."""
    rows = torch.stack(unread).tolist()
    for row in rows:
        if not all(math.isfinite(value) for value in row):
            named = zip([*tasks, "gradient"], row, strict=True)
            values = ", ".join(f"{name} {value:.3g}" for name, value in named)
            raise BenchError(
                f"Loss is not finite in the {len(rows)} steps up to {where} ({values}). " + _CURE
            )
    return {task: sum(row[i] for row in rows) / len(rows) for i, task in enumerate(tasks)}


def _rewind(file: Path, stages: list[str], saved: state.State | None) -> None:
    """Drop the lines about steps after the saved state: they will be taken again."""
    reached = (saved.stage, saved.step) if saved else (-1, 0)
    lines = read_lines(file)
    kept = [line for line in lines if (stages.index(line["stage"]), line["step"]) <= reached]
    write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
