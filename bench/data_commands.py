"""`bench data`: what a folder of data holds, how it is dealt out, and a drawn data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bench.data.bdd100k import Dataset
    from protocols.stages import Protocol

FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def data() -> None:
    """The data: a check of a folder, its splits, and a drawn data set in the same layout.

    Example: bench data check /data/bdd100k
    """


@data.command()
@FOLDER
def check(folder: Path) -> None:
    """Read a BDD100K folder, decode every file, and print what is there and what is left out.

    Example: bench data check /data/bdd100k
    """
    from concurrent.futures import ThreadPoolExecutor

    from bench.data.bdd100k import Frame, read
    from bench.data.classes import TASKS
    from bench.data.sample import decode

    def whole(frame: Frame) -> None:
        decode(frame, TASKS)

    found = read(folder)
    _say(found)
    with ThreadPoolExecutor() as pool:
        for frames in (found.train, found.val):
            for _ in pool.map(whole, frames.values()):
                pass
    click.echo(f"{folder} is whole.")


@data.command()
@FOLDER
@click.option("--out", type=click.Path(path_type=Path), help="A folder to write manifests into.")
@click.option("--preset", default="paper", show_default=True, help="paper, demo or tiny.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="proportional_split=true, split_seed=1, cross_split_policy=keep.",
)
def splits(folder: Path, out: Path | None, preset: str, overrides: tuple[str, ...]) -> None:
    """Deal a folder's training frames out as each setting does, and print who gets what.

    Example: bench data splits /data/bdd100k --out splits
    """
    from bench.data.bdd100k import read
    from protocols.override import override
    from protocols.presets import protocol

    values = protocol("paf", preset)
    for assignment in overrides:
        values = override(values, assignment)
    found = read(folder)
    _say(found)
    _deal(found, values, out)


def _say(found: Dataset) -> None:
    """Print what a folder holds, in which packaging, and what is left out."""
    for task, name in found.packaging.items():
        unused = "; ".join(found.unused.get(task, ()))
        click.echo(f"{task} labels: {name}" + f" (there too, not used: {unused})" * bool(unused))
    for split in ("train", "val"):
        labelled = found.labelled(split)
        counts = ", ".join(f"{len(names):,} {task}" for task, names in labelled.items())
        click.echo(f"{split}: {len(getattr(found, split)):,} labelled frames: {counts}")
    for reason, names in found.excluded.items():
        several = list(dict.fromkeys(names))
        more = ", …" * (len(several) > 6)
        click.echo(f"left out: {len(names):,} x {reason}: {', '.join(several[:6])}{more}")
    train, val = found.train.keys(), found.val.keys()
    leaks = sorted(train & val)
    if leaks:
        click.echo(f"in train and in val: {len(leaks):,} frames: {', '.join(leaks[:6])}")


def _deal(found: Dataset, values: Protocol, out: Path | None) -> None:
    """Print the split of each setting; write those that can be had as `<setting>.json`."""
    from bench.store import write_text
    from protocols import ProtocolError
    from protocols.settings import SETTINGS, split

    train, val = found.labelled("train"), found.labelled("val")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    some, refused = False, None
    for name, setting in SETTINGS.items():
        try:
            dealt = split(
                setting,
                train,
                val,
                seed=values.split_seed,
                proportional=values.proportional_split,
                cross_split_policy=values.cross_split_policy,
            )
        except ProtocolError as error:
            click.echo(f"{name} cannot be had. {error}")
            refused = error
            continue
        some = True
        click.echo(f"{dealt.summary()} sha256 {dealt.sha256[:8]}")
        if out is not None:
            write_text(out / f"{name}.json", dealt.to_json())
            click.echo(str(out / f"{name}.json"))
    if refused and not some:
        raise refused


@data.command()
@FOLDER
def demo(folder: Path) -> None:
    """Draw the demo data set: streets, in BDD100K's layout and formats.

    Example: bench data demo demo-data
    """
    from bench.data.demo.draw import draw

    draw(folder)
    click.echo(f"{folder} holds the demo data set. bench data check {folder}")
