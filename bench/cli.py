"""The command `bench`. Nothing heavy is imported before it is needed: `--help` needs click."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.selectors import asked, commas, latest, selectors, store_of, values, wanted
from bench.zoo_commands import zoo

if TYPE_CHECKING:
    from rich.console import Console

    from bench.grids import Request
    from bench.plan import PlannedCell
    from bench.store import Store

FORMATS = {"console": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}


def main() -> None:
    """Run the command: exit code 2 and one line on standard error for a user's mistake."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends workers as Ctrl-C does
    try:
        code = bench.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. The same command continues from the last saved epoch.", err=True)
        sys.exit(130)
    except ValueError as error:
        if not isinstance(error, _mistakes()):
            raise
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'this machine'}: {error.strerror}.")
    else:
        sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lv-adapter-bench")
def bench() -> None:
    """Compare pretrained ResNet-50s for models that do several tasks at once.

    Example: bench run --zoo all --protocol paf
    """


@bench.command()
@values
@click.option("--runner", type=click.Choice(["here", "local"]), default="local", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at once.  [one a GPU, or a core]")
@click.option("--track", help="MLflow's address, or off.  [mlflow.db in the store]")
def run(runner: str, jobs: int | None, track: str | None, **chosen: Any) -> int:
    """Make the store match the request: run what is not done, skip what is, print the table.

    Example: bench run --zoo moco_v2,clip --protocol pf,paf --data /data/bdd100k
    """
    from bench.display import say, terminal
    from bench.grids import cells
    from bench.launch import choose_runner, launch
    from bench.plan import draw_demo, plan
    from bench.track import default_uri

    request, place = asked(chosen)
    listed, console = cells(request), terminal()
    place.store.check()
    draw_demo(place)
    planned = plan(listed, place)
    place.store.prepare()
    todo = sum(one.to_run for one in planned)
    uri = None if track == "off" else track or default_uri(place.store.root)
    chosen_runner, how = choose_runner(runner, place.store.root, jobs, todo)
    say(console, f"{len(planned)} cells, {todo} to run: {how}. Store: {place.store.root}")
    code = launch(planned, place, runner=chosen_runner, uri=uri, console=console)
    exactly = {one.cell.address: one.folder for one in planned}
    for text in _tables(request, place.store, "console", console.width, place.root, exactly):
        click.echo(text)
    _closing(planned, console)
    return code


@bench.command()
@values
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--show-sbatch", is_flag=True, help="The script SLURM would get for what is to run.")
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="partition=…,time=…,account=…")
def plan(as_json: bool, show_sbatch: bool, slurm: tuple[str, ...], **chosen: Any) -> None:
    """Show what `run` would do, and do nothing.

    Example: bench plan --zoo all --protocol pf,paf
    """
    from bench.display import print_json, print_rows
    from bench.grids import cells
    from bench.plan import plan

    request, place = asked(chosen)
    planned = plan(cells(request), place)
    todo = sum(one.to_run for one in planned)
    if as_json:
        unknown = {"low": None, "expected": None, "high": None}
        listed = [one.to_json() for one in planned]
        print_json({"cells": listed, "gpu_hours": unknown, "disk_gb": None})
    elif show_sbatch and not todo:
        click.echo("Nothing is to be run.")
    elif show_sbatch:
        from runners.cluster import SlurmOptions, sbatch_text

        options = SlurmOptions.parse(",".join(slurm))
        click.echo(sbatch_text(place.store.root / "logs" / "slurm", options, todo))
    else:
        rows = [(one.folder.name, one.state, one.reason) for one in planned]
        print_rows(("cell", "state", "reason"), rows)
        for split in {one.split.sha256: one.split for one in planned}.values():
            counts = ", ".join(f"{task} {count:,}" for task, count in split.counts().items())
            click.echo(f"{split.setting}: {len(split.frames):,} training frames, {counts}.")
        click.echo(f"{len(planned)} cells, {todo} to run.")


@bench.command()
@selectors
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool, **chosen: Any) -> None:
    """Show the cells of the store: state, stage, progress, last error.

    Example: bench status --zoo 'moco*'
    """
    from bench.display import print_json, print_rows
    from bench.status import lines

    found = lines(store_of(chosen), wanted(chosen))
    if as_json:
        print_json({"cells": found})
        return
    columns = ("cell", "state", "stage", "progress", "eta_s", "heartbeat_age_s", "error")
    if not found:
        click.echo("The store has no such cell.")
        return
    shown = [{**line, "progress": f"{100 * (line['progress'] or 0):.0f} %"} for line in found]
    print_rows(columns, [tuple(line[name] for name in columns) for line in shown])


@bench.command()
@values
@click.option(
    "--format",
    "formats",
    callback=commas,
    default="console",
    show_default=True,
    help="Any of " + ",".join(FORMATS),
)
@click.option("--out", type=click.Path(path_type=Path), help="A folder to write files into.")
@click.option("--strict", is_flag=True, help="Exit code 1 when a cell is not done, or stale.")
def report(formats: tuple[str, ...], out: Path | None, strict: bool, **chosen: Any) -> int:
    """Print a table of the paper from the store, or write it as files.

    Example: bench report --table 2 --format markdown,latex --out tables
    """
    from bench.display import terminal

    for form in formats:
        if form not in FORMATS:
            raise click.UsageError(f"Unknown format {form!r}. Known: {', '.join(FORMATS)}.")
    chosen = latest(chosen)
    request, place = asked(chosen)
    root = place.root if chosen["data"] else None
    for form in formats:
        for text in _tables(request, place.store, form, terminal().width, root):
            if out is None:
                click.echo(text)
            else:
                _write(out / f"table{chosen['table'] or '2'}.{FORMATS[form]}", text)
    return int(strict and not _complete(request, place.store, root))


bench.add_command(zoo)


@bench.group()
def data() -> None:
    """The data: a check of a folder, and a drawn data set in the same layout.

    Example: bench data check /data/bdd100k
    """


@data.command("check")
@click.argument("folder", type=click.Path(path_type=Path))
def data_check(folder: Path) -> None:
    """Read a BDD100K folder, decode every file, and print what is there and what is left out.

    Example: bench data check /data/bdd100k
    """
    from concurrent.futures import ThreadPoolExecutor

    from bench.data.bdd100k import Frame, read
    from bench.data.classes import TASKS
    from bench.data.sample import decode

    def check(frame: Frame) -> None:
        decode(frame, TASKS)

    found = read(folder)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(check, [*found.train.values(), *found.val.values()]):
            pass
    for split in ("train", "val"):
        labelled = found.labelled(split)
        counts = ", ".join(f"{len(names):,} {task}" for task, names in labelled.items())
        click.echo(f"{split}: {len(getattr(found, split)):,} labelled frames: {counts}")
    for reason, names in found.excluded.items():
        click.echo(f"left out: {len(names):,} x {reason}: {', '.join(names[:6])}")
    click.echo(f"{folder} is whole.")


@data.command("demo")
@click.argument("folder", type=click.Path(path_type=Path))
def data_demo(folder: Path) -> None:
    """Draw the demo data set: streets, in BDD100K's layout and formats.

    Example: bench data demo demo-data
    """
    from bench.data.demo.draw import draw

    draw(folder)
    click.echo(f"{folder} holds the demo data set. bench data check {folder}")


def _tables(
    request: Request,
    store: Store,
    form: str,
    width: int,
    root: Path | None,
    exactly: dict[str, Path] | None = None,
) -> list[str]:
    """Return Table 2 of a request's checkpoints, once for each setting and scheme."""
    from dataclasses import replace
    from itertools import product

    from bench.grids import cells
    from bench.results import constants, rows
    from reports.render import render
    from reports.tables import METRICS, table2

    texts = []
    for setting, scheme in product(request.settings, request.schemes):
        one = replace(request, settings=(setting,), schemes=(scheme,), protocols=("pf", "paf"))
        frame, stale = rows(cells(one), store, root=root, exactly=exactly)
        constant = {k: v for k, v in constants(frame).items() if k in METRICS}
        references = {"Best constant prediction": constant} if constant else {}
        texts.append(render(table2(frame, references), form, width=width))
        for home in stale:
            click.echo(f"stale, left out: {home.name}", err=True)
    return texts


def _complete(request: Request, store: Store, root: Path | None) -> bool:
    from bench.grids import cells
    from bench.results import rows

    frame, stale = rows(cells(request), store, root=root)
    return bool((frame["state"] == "done").all()) and not stale


def _closing(planned: list[PlannedCell], console: Console) -> None:
    """Say how many cells are how, and what continues."""
    from collections import Counter

    from bench.display import say
    from bench.store import state

    states = Counter(state(one.folder) for one in planned)
    say(console, ", ".join(f"{count} {name}" for name, count in sorted(states.items())))
    if set(states) != {"done"}:
        say(console, f"Continue with: {shlex.join(['bench', *sys.argv[1:]])}")


def _write(file: Path, text: str) -> None:
    from bench.store import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    click.echo(str(file))


def _mistakes() -> tuple[type[ValueError], ...]:
    """Return the exceptions whose text is meant for the person at the keyboard."""
    from bench import BenchError
    from protocols import ProtocolError
    from reports.tables import ReportError
    from runners.base import RunnerError
    from zoo.catalog import ZooError

    return (BenchError, ProtocolError, ReportError, RunnerError, ZooError)


def _fail(line: str) -> None:
    click.echo(f"bench: {line}", err=True)
    sys.exit(2)
