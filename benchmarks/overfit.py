"""Can the networks learn? Eight real frames, learned by heart from a random backbone.

    python benchmarks/overfit.py --data ../shared/data/bdd_mini          two cores, half an hour
    … --full           a GPU: the paper's sizes
    … --heads conv     Faster R-CNN and Semantic FPN
    … --protocol lv    with the LV-Adapter

The frames are those with all three labels that have the most boxes of a size that the network can
see. They go through `run_cell` like any cell of a comparison, to train on and to score: what is
asked is whether a model that is scored as all others are gives back what it was shown. The backbone
is the random stand-in of the supervised checkpoint; with `lv` it is CLIP's, and an epoch of *adapt*
comes first. `bench status --store …` shows progress; the same command continues a run that was cut
off. Exit code 1: a bar was missed.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.cell import Cell
from bench.data import bdd100k
from bench.data.bdd100k import Frame
from bench.data.boxes import Boxes
from bench.data.classes import DET, TASKS
from bench.data.transforms import fit
from bench.plan import Place, plan, write_orders
from bench.run import run_cell
from bench.store import Store, read_json, read_lines, write_text
from protocols.presets import HEADS, protocol
from protocols.stages import Input, Optim, Protocol
from zoo.catalog import find

FRAMES = 8
COPIES = 16  # of each frame in an epoch, since a state of 300 MB and more is saved after each
SMALLEST_BOX = 24  # pixels of the network's input, both sides: smaller boxes are taken away


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained, and the scores that it has to reach."""

    protocol: Protocol
    bars: dict[str, float]


def small(name: str = "pf", heads: str = "transformer") -> Trial:
    """Return the demo's widths at 284x160 with at least 100 proposals, for two cores."""
    demo = protocol(name, "demo", heads)
    *adapt, finetune = demo.stages
    model = demo.model
    if heads == "transformer":
        model = replace(model, det=replace(model.det, proposals=100))
    values = replace(
        demo,
        stages=(
            *adapt,
            replace(finetune, epochs=14, lr=5e-4, warmup_steps=50, decay_at=(0.7, 0.9)),
        ),
        scheme="zeroing",
        input=replace(demo.input, train_short=(160,), test_short=160, max_long=288),
        model=model,
        optim=Optim(batch=4),
        val_every=1,
    )
    return Trial(protocol=values, bars={"sem/mIoU": 60, "driv/mIoU": 80, "det/AP50": 30})


def full(name: str = "pf", heads: str = "transformer") -> Trial:
    """Return the paper's sizes at 1280x720, without dropout, for a GPU."""
    paper = protocol(name, "paper", heads)
    *adapt, finetune = paper.stages
    model, adapter = paper.model, paper.adapter
    if heads == "transformer":
        model = replace(model, seg=replace(model.seg, dropout=0.0))
    values = replace(
        paper,
        stages=(
            *adapt,
            replace(finetune, epochs=60, lr=1e-4, warmup_steps=100),
        ),
        scheme="zeroing",
        input=replace(paper.input, train_short=(720,)),
        model=model,
        adapter=replace(adapter, dropout=0.0) if adapter else None,
        optim=Optim(batch=4),
        val_every=2,
    )
    return Trial(protocol=values, bars={"sem/mIoU": 80, "driv/mIoU": 90, "det/AP50": 70})


def chosen(root: Path, sizes: Input) -> list[Frame]:
    """Return the frames to learn, without the boxes that are too small at the size tested."""
    data = bdd100k.read(root)
    frames = (*data.train.values(), *data.val.values())
    labelled = [frame for frame in frames if frame.tasks() == TASKS]
    if len(labelled) < FRAMES:
        sys.exit(f"{root} has {len(labelled)} frames with all three labels; {FRAMES} are needed.")
    kept = [(_large(frame, sizes), frame) for frame in labelled]
    kept.sort(key=lambda pair: (-len(pair[0].classes), pair[1].name))
    return [replace(frame, det=boxes) for boxes, frame in kept[:FRAMES]]


def _large(frame: Frame, sizes: Input) -> Boxes:
    assert frame.det is not None
    all_boxes = frame.det
    scale = fit(frame.size_hw, sizes.test_short, sizes.max_long)[0] / frame.size_hw[0]
    sides = (all_boxes.boxes_xyxy[:, 2:] - all_boxes.boxes_xyxy[:, :2]) * scale
    large = (sides >= SMALLEST_BOX).all(axis=1) & ~all_boxes.crowd
    return Boxes(all_boxes.boxes_xyxy[large], all_boxes.classes[large], all_boxes.crowd[large])


def lay_out(frames: Iterable[Frame], root: Path) -> None:
    """Write a BDD100K folder of links: each frame `COPIES` times to train on, once to score.

    Every copy has a name of its own, for a name that is in both splits would not be trained on.
    """
    for split, copies in (("train", COPIES), ("val", 1)):
        named = {f"{split}{i}-{frame.name}": frame for i in range(copies) for frame in frames}
        for name, frame in named.items():
            _link(frame.image, root / "images" / "100k" / split / f"{name}.jpg")
            _link(frame.sem, root / "labels" / "sem_seg" / "masks" / split / f"{name}.png")
            assert isinstance(frame.driv, Path), "of today's ids"
            _link(frame.driv, root / "labels" / "drivable" / "masks" / split / f"{name}.png")
        boxes = [{"name": f"{name}.jpg", "labels": _scalabel(f)} for name, f in named.items()]
        file = root / "labels" / "det_20" / f"det_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(boxes))


def _link(source: Path | None, target: Path) -> None:
    assert source is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve())


def _scalabel(frame: Frame) -> list[dict[str, Any]]:
    """Return boxes as the file has them: x2 and y2 are the last pixel that is inside."""
    assert frame.det is not None
    rows = zip(frame.det.boxes_xyxy.tolist(), frame.det.classes.tolist(), strict=True)
    return [
        {"category": DET[number], "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}}
        for (x1, y1, x2, y2), number in rows
    ]


def prepared(values: Protocol, data: Path, store: Path) -> Path:
    """Write the order of the one cell and return its folder."""
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    zoo = find("clip" if values.adapter else "supervised").name
    planned = plan([Cell(zoo=zoo, protocol=values, setting="full", tasks=TASKS, seed=0)], place)
    write_orders(planned, place)
    return planned[0].folder


def curve(home: Path, scores: Iterable[str]) -> str:
    """Return the mean losses up to each validation, and its scores, as a Markdown table."""
    titles = ["stage", "epoch", "step", *(f"{task} loss" for task in TASKS), *scores]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    sums, stage, before, validated = dict.fromkeys(TASKS, 0.0), "", 0, 0
    for line in read_lines(home / "progress.jsonl"):
        step = line["step"]
        if line["stage"] != stage:
            stage, before, validated = line["stage"], 0, 0
        if line["kind"] == "train":  # the mean of the steps since the last such line
            sums = {task: sums[task] + line["losses"][task] * (step - before) for task in TASKS}
            before = step
            continue
        shown = [f"{sums[task] / (step - validated):.3f}" for task in TASKS]
        shown += [f"{line['metrics'][score]:.1f}" for score in scores]
        rows.append([stage, str(line["epoch"]), str(step), *shown])
        sums, validated = dict.fromkeys(TASKS, 0.0), step
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rising(home: Path, score: str) -> bool:
    """Return whether a score's mean over the last third of the validations beats the third before.

    One validation is too noisy for it while the rate is high.
    """
    lines = read_lines(home / "progress.jsonl")
    values = [line["metrics"][score] for line in lines if line["kind"] == "val"]
    third = max(1, len(values) // 3)
    return len(values) >= 2 and fmean(values[-third:]) > fmean(values[-2 * third : -third])


def main() -> int:
    """Train, print the curve and what became of each bar; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a BDD100K folder")
    parser.add_argument("--store", type=Path, default=Path("runs"), help="the folder of results")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, for a GPU")
    parser.add_argument("--heads", choices=HEADS, default="transformer")
    parser.add_argument("--protocol", choices=("pf", "lv"), default="pf")
    parser.add_argument("--epochs", type=int, help=f"each of {FRAMES * COPIES} images")
    asked = parser.parse_args()
    trial = (full if asked.full else small)(asked.protocol, asked.heads)
    values = trial.protocol
    if asked.epochs:
        *adapt, finetune = values.stages
        values = replace(values, stages=(*adapt, replace(finetune, epochs=asked.epochs)))

    frames = chosen(asked.data, values.input)
    data = asked.store / f"overfit-{values.input.test_short}"
    lay_out(frames, data)
    for frame in frames:
        print(frame.name, f"{len(frame.det.classes) if frame.det else 0} boxes")
    home = prepared(values, data, asked.store)
    print(home, flush=True)
    run_cell(str(home))

    done = read_json(home / "result.json")
    print(curve(home, trial.bars))
    print(f"{sum(stage['seconds'] for stage in done['stages']):.0f} s of training")
    print("det/AP50 is", "still rising" if rising(home, "det/AP50") else "not rising any more")
    met = {score: done["metrics"][score] >= bar for score, bar in trial.bars.items()}
    for score, bar in trial.bars.items():
        print(f"{score} {done['metrics'][score]:.1f} of {bar}: {'met' if met[score] else 'MISSED'}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
