"""`bench zoo`: what the checkpoints are, and how a file becomes one of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.selectors import commas

if TYPE_CHECKING:
    from zoo.catalog import Checkpoint

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
FILE = click.argument("file", type=click.Path(path_type=Path))
CHOICE = "The paper names no files: which one a short name means is this catalogue's choice."


@click.group()
def zoo() -> None:
    """The checkpoints: which there are, what a file is, and how to get or add one.

    Example: bench zoo ls
    """


@zoo.command()
@AS_JSON
def ls(as_json: bool) -> None:
    """List the catalogue, and the files that you added.

    Example: bench zoo ls
    """
    from bench.display import print_json, print_rows
    from zoo.catalog import default_folder, known
    from zoo.store import Zoo

    shelf = Zoo(default_folder())
    rows = [
        {
            "name": one.name,
            "short": one.short,
            "family": one.family,
            "method": one.method,
            "licence": one.licence,
            "here": shelf.source(one) is not None,
            "lineage": one.file
            if one.family == "own"
            else one.notes.partition(";")[0].partition(". ")[0],
        }
        for one in known()
    ]
    if as_json:
        print_json(rows)
        return
    titles = ("name", "short", "family", "method", "licence", "here", "lineage")
    shown = [tuple({**row, "here": "yes" if row["here"] else ""}.values()) for row in rows]
    print_rows(titles, shown)


@zoo.command()
@click.argument("name")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Show what is known of one checkpoint: file, source, licence, padding, normalisation.

    Example: bench zoo show moco_v2
    """
    from bench.display import print_json
    from zoo.catalog import default_folder, find
    from zoo.store import Zoo

    checkpoint = find(name)
    shelf = Zoo(default_folder())
    here = shelf.source(checkpoint)
    known = shelf.remembered(here).get("sha256") if here else None
    facts = {**asdict(checkpoint), "path": str(here) if here else None, "file_sha256": known}
    if as_json:
        print_json(facts)
        return
    for fact, value in facts.items():
        if value not in ("", None):
            click.echo(f"{fact:>13}  {value}")
    if checkpoint.short:
        click.echo(CHOICE)
    if here is None:
        click.echo(shelf.how_to_get([checkpoint]))


@zoo.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@AS_JSON
def fetch(names: tuple[str, ...], as_json: bool) -> None:
    """Download published files into the zoo's folder; a download that broke off goes on.

    Example: bench zoo fetch moco_v2 swav
    """
    from bench.display import print_json
    from zoo.catalog import select

    rows = select(names)
    fetched = [_fetched(row) for row in rows]
    if as_json:
        print_json(fetched)
        return
    for one in fetched:
        how = "is here already" if one["already_here"] else "fetched"
        click.echo(f"{one['name']}: {one['file']} {how} (SHA-256 {one['sha256']})")


def _fetched(row: Checkpoint) -> dict[str, Any]:
    """Get one file, unless it is here; what cannot be got says where it is published."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from bench.display import terminal
    from zoo.catalog import ZooError, default_folder
    from zoo.fetch import fetch
    from zoo.files import stamp
    from zoo.store import Zoo

    shelf = Zoo(default_folder())
    here = shelf.source(row)
    facts = {"name": row.name, "file": row.file, "already_here": here is not None}
    if here is not None:
        return facts | {"path": str(here), "sha256": shelf.sha256_of(here)}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    path = shelf.folder / row.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with Progress(*columns, TransferSpeedColumn(), console=terminal(err=True)) as bar:
        task = bar.add_task(row.name, total=None)
        try:
            sha256 = fetch(
                row.url,
                path,
                sha256=row.sha256,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except ZooError as error:
            raise ZooError(f"{error}\n{shelf.how_to_get([row])}") from error
    shelf.remember(path, stamp(path) | {"sha256": sha256})
    return facts | {"path": str(path), "sha256": sha256}


@zoo.command()
@FILE
@AS_JSON
def inspect(file: Path, as_json: bool) -> int:
    """Tell what a weight file is, and whether every tensor of a ResNet-50 is in it.

    Exit code 2 if it cannot be used as it is; the error says why, and what to do.

    Example: bench zoo inspect checkpoint.pth
    """
    from bench.display import print_json
    from zoo.inspection import inspect

    found = asdict(inspect(file))
    if as_json:
        print_json(found)
        return 0 if found["ok"] else 2
    for fact, value in found.items():
        if fact not in ("ok", "error") and value not in (None, "", {}, [], ()):
            click.echo(f"{fact:>10}  {_in_words(value)}")
    if found["error"]:
        click.echo(f"bench: {found['error']}", err=True)
    return 0 if found["ok"] else 2


@zoo.command()
@click.argument("source", metavar="FILE|NAME")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="X.safetensors")
@AS_JSON
def convert(source: str, out: Path, as_json: bool) -> None:
    """Write the canonical ResNet-50 of a file as safetensors, its history in the header.

    Example: bench zoo convert checkpoint.pth --out resnet50.safetensors
    """
    from bench.display import print_json
    from zoo.canonical import tensors_sha256, write
    from zoo.catalog import ZooError
    from zoo.load import opened

    if out.suffix != ".safetensors" or out.exists():
        why = "is there already" if out.exists() else "is not called .safetensors"
        raise ZooError(f"--out {out} {why}. Name a new file that is (X.safetensors).")
    tensors, record = opened(source)
    write(out, tensors, record)
    facts = {
        "out": str(out),
        "tensors": len(tensors),
        "tensors_sha256": tensors_sha256(tensors),
        "file_sha256": record.sha256,
        "layout": record.layout,
        "dropped": record.dropped,
    }
    if as_json:
        print_json(facts)
    else:
        click.echo(
            f"{out}: {record.required} tensors and {len(tensors) - record.required} step counters, "
            f"from {record.layout} names; left out: {_in_words(record.dropped) or 'nothing'}"
        )


@zoo.command()
@FILE
@click.option("--name", required=True, help="What --zoo will call it.")
@click.option("--like", help="A checkpoint that was trained alike: all of the following at once.")
@click.option(
    "--padding",
    type=click.Choice(["torch", "same", "same_pool"]),
    help="torch: symmetric; same: TensorFlow's and JAX's; same_pool: SimCLR's.",
)
@click.option("--stride", type=click.Choice(["3x3", "1x1"]), help="Where a block's stride sits.")
@click.option("--stem", type=click.Choice(["7x7", "clip"]), help="clip: three 3x3, average pools.")
@click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Of the channels.")
@click.option("--range", "top", type=click.Choice(["1", "255"]), help="Pixels from 0 to this.")
@click.option(
    "--mean", callback=commas, metavar="A,B,C", help="Subtracted, in that order and range."
)
@click.option(
    "--std", callback=commas, metavar="A,B,C", help="Divided by, in that order and range."
)
@click.option("--prefix", default="", help="What stands before its names, among several networks.")
@AS_JSON
def add(file: Path, name: str, as_json: bool, **declared: Any) -> None:
    """Make a file of yours a checkpoint with a name, in a TOML beside the published files.

    What its layout tells need not be said: a MoCo, DINO or CLIP checkpoint needs a name alone.

    Example: bench zoo add checkpoint_0199.pth.tar --name my_moco
    """
    from bench.display import print_json
    from zoo.catalog import own_file
    from zoo.own import add

    row = add(file, name, _declared(declared), prefix=declared["prefix"])
    if as_json:
        print_json(asdict(row))
        return
    click.echo(f"{row.name}: {row.layout} layout, {row.notes}")
    click.echo(f"Written into {own_file()}. Use it as: bench run --zoo {row.name}")


def _declared(given: dict[str, Any]) -> dict[str, Any]:
    """The semantics that flags declare, as fields of a row; pixels brought to [0, 1]."""
    from zoo.catalog import find

    like = find(given["like"]) if given["like"] else None
    names = ("variant", "padding", "stride", "order", "mean", "std")
    declared = {key: getattr(like, key) for key in names} if like else {}
    declared |= {key: given[key] for key in ("padding", "stride", "order") if given[key]}
    if given["stem"]:
        declared["variant"] = "clip" if given["stem"] == "clip" else "plain"
    if bool(given["mean"] or given["std"]) != bool(given["top"]):
        raise click.BadParameter("--range goes with --mean and --std, and they with it.")
    for key in ("mean", "std"):
        if given[key]:
            declared[key] = tuple(
                round(number / int(given["top"]), 12) for number in _numbers(key, given[key])
            )
    return declared


def _numbers(key: str, texts: tuple[str, ...]) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise click.BadParameter(f"{','.join(texts)} is not three numbers.", param_hint=f"--{key}")
    return numbers


@zoo.command()
@click.argument("source", metavar="NAME|FILE")
@AS_JSON
def verify(source: str, as_json: bool) -> int:
    """Check a checkpoint again from its bytes: hash, tensors, values, what it computes.

    Example: bench zoo verify moco_v2
    """
    from bench.display import print_json
    from zoo.verify import verify

    verdict = verify(source)
    if as_json:
        print_json(asdict(verdict) | {"ok": verdict.ok})
    else:
        for check in verdict.checks:
            click.echo(f"{'ok' if check.ok else 'WRONG':>5}  {check.what}: {check.words}")
    return 0 if verdict.ok else 1


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
