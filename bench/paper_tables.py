"""The tables of the paper, row by row: what stands before the numbers, and what is asked for.

The rows of Table 1 start from ImageNet supervision, as the paper says of self-training, and the
LV-Adapter's from CLIP, with whose numbers in Table 4 they agree. D2 is Table 2 with convolutional
heads (appendix D.2).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.data.classes import TASKS
from protocols.presets import protocol
from zoo.catalog import select

FIVE = ("sem/mIoU", "driv/mIoU", "det/mAP", "det/AP50", "det/AP75")
SUPERVISED = {"zoo": ("supervised",), "protocols": ("pf",)}
SCHEMES = {
    "zeroing": "Zeroing loss",
    "uniform": "Uniform sampler",
    "weighted": "Weighted sampler",
    "round-robin": "Round-robin",
    "self-training": "Self-training",
}
SINGLE = {
    "sem": ("MaskFormer", "semantic segmentation"),
    "driv": ("MaskFormer", "drivable area"),
    "det": ("Sparse R-CNN", "object detection"),
}
LV = "LV-Adapter"
LV_IS_CLIP = (
    f"{LV} starts from CLIP, all others from ImageNet supervision; row 2 of Table 4 is CLIP alone"
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its group, what stands before its numbers, and fields of the request for its cells.

    Without a header it goes by the epochs of its stages. `ours` marks the paper's own method.
    """

    group: str
    header: tuple[str, ...]
    asks: Mapping[str, Any] = field(hash=False)
    ours: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that it has numbers for."""
        return self.asks.get("tasks", TASKS)


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table: its title, the headings before the numbers, its metrics, its rows, its notes.

    `lines` yields the rows as they are in a preset. Table 2 has a layout of its own.
    """

    title: str
    header: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: Callable[[str], Iterator[Line]]
    notes: tuple[str, ...] = ()


def _schemes(preset: str) -> Iterator[Line]:
    group = "Disjoint-normal"
    for scheme, name in SCHEMES.items():
        asks = {**SUPERVISED, "schemes": (scheme,)}
        yield Line(group=group, header=(name, "Supervised"), asks=asks)
    yield Line(group=group, header=(LV, "CLIP"), asks=_clip("lv"), ours=True)


def _checkpoints(preset: str, heads: str = "transformer") -> Iterator[Line]:
    for checkpoint in select(("all",)):
        for name in ("pf", "paf"):
            asks = {"zoo": (checkpoint.name,), "protocols": (name,), "heads": heads}
            yield Line(group=checkpoint.family, header=(checkpoint.label, name), asks=asks)


def _settings(preset: str) -> Iterator[Line]:
    for setting in ("full", "disjoint-balance", "disjoint-normal"):
        group, here = setting.capitalize(), {"settings": (setting,)}
        for task, header in SINGLE.items():
            yield Line(group=group, header=header, asks={**SUPERVISED, **here, "tasks": (task,)})
        yield Line(group=group, header=("Self-training", "all"), asks={**SUPERVISED, **here})
        yield Line(group=group, header=(LV, "all"), asks=_clip("lv") | here, ours=True)


def _parts(preset: str) -> Iterator[Line]:
    """Yield the rows of Table 4; its second adapts for one epoch, as those with prompts do."""
    rows = {
        ("pf",): (),
        ("paf", *_epochs(1, _whole(preset) - 1)): (),
        ("prompt",): ("Prompt",),
        ("v2l",): ("Prompt", "V2L"),
        ("lv",): ("Prompt", "L2V"),
    }
    for number, ((name, *overrides), parts) in enumerate(rows.items(), start=1):
        has = ["yes" if part in parts else "" for part in ("Prompt", "V2L", "L2V")]
        asks = _clip(name, *overrides)
        yield Line(group="CLIP", header=(str(number), *has, name), asks=asks, ours=name == "lv")


def _lengths(preset: str) -> Iterator[Line]:
    """Yield the rows of Table 5: with the paper's values 12+24, 6+30, 1+35, 6+35, 12+35 epochs.

    Those of another preset are made of its own lengths as these are of 6 and 36.
    """
    whole, adapt = _whole(preset), protocol("paf", preset).stages[0].epochs
    for first, then in (
        (2 * adapt, whole - 2 * adapt),
        (adapt, whole - adapt),
        (1, whole - 1),
        (adapt, whole - 1),
        (2 * adapt, whole - 1),
    ):
        yield Line(group="CLIP", header=(), asks=_clip("paf", *_epochs(first, then)))


def _clip(name: str, *overrides: str) -> dict[str, Any]:
    return {"zoo": ("clip",), "protocols": (name,), "overrides": overrides}


def _epochs(adapt: int, finetune: int) -> tuple[str, str]:
    return (f"stages.adapt.epochs={adapt}", f"stages.finetune.epochs={finetune}")


def _whole(preset: str) -> int:
    return sum(stage.epochs for stage in protocol("paf", preset).stages)


def _conv(preset: str) -> Iterator[Line]:
    return _checkpoints(preset, "conv")


PAPER_TABLES = {
    "1": PaperTable(
        title="Ways to train on partly labelled frames",
        header=("Method", "Checkpoint"),
        metrics=FIVE,
        lines=_schemes,
        notes=(LV_IS_CLIP,),
    ),
    "2": PaperTable(
        title="Every checkpoint under both protocols",
        header=("Model", "Protocol"),
        metrics=(),
        lines=_checkpoints,
    ),
    "3": PaperTable(
        title="The settings: one task alone, and all together",
        header=("Method", "Task"),
        metrics=FIVE,
        lines=_settings,
        notes=(LV_IS_CLIP,),
    ),
    "4": PaperTable(
        title="The parts of the LV-Adapter (disjoint-normal, self-training)",
        header=("Row", "Prompt", "V2L", "L2V", "Protocol"),
        metrics=("sem/mIoU", "driv/mIoU"),
        lines=_parts,
        notes=("Row 2 adapts for one epoch, as rows 3 to 5 do",),
    ),
    "5": PaperTable(
        title="Epochs of adapt and finetune (disjoint-normal, self-training)",
        header=("Adapt", "Finetune"),
        metrics=("sem/mIoU", "driv/mIoU", "det/mAP"),
        lines=_lengths,
        notes=(
            "The paper's epochs are 12+24, 6+30, 1+35, 6+35 and 12+35; rows of equal epochs are "
            "one cell",
        ),
    ),
    "d2": PaperTable(
        title="Every checkpoint under both protocols, with convolutional heads",
        header=("Model", "Protocol"),
        metrics=(),
        lines=_conv,
        notes=(
            "The paper's values are in its appendix D.2, which is not available: there are none "
            "to compare with",
        ),
    ),
}
