"""The command `bench`. Nothing heavy is imported before it is needed: `--help` needs click."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from bench.config import config
from bench.data_commands import data
from bench.selectors import (
    asked,
    code_change,
    commas,
    gpus,
    latest,
    on_command_line,
    read_store,
    values,
)
from bench.store_commands import add_to
from bench.zoo_commands import zoo


def main() -> None:
    """Run the command: exit code 2 and one line on standard error for a user's mistake."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends workers as Ctrl-C does
    try:
        code = bench.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        goes_on = sys.argv[1:2] in (["run"], ["retry"])
        more = " The same command continues from the last saved step." if goes_on else ""
        click.echo(f"Interrupted.{more}", err=True)
        sys.exit(130)
    except ValueError as error:
        if not isinstance(error, _mistakes()):
            raise
        _fail(str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = " Make room; the same command continues." if full else ""
        _fail(f"{error.filename or 'the store, or where it keeps MLflow'}: {error.strerror}.{cure}")
    else:
        sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lv-adapter-bench")
def bench() -> None:
    """Compare pretrained ResNet-50s for models that do several tasks at once.

    Example: bench run --zoo all --protocol paf
    """


@bench.command()
@config
@values
@click.option(
    "--runner",
    type=click.Choice(["here", "local", "slurm"]),
    default="local",
    show_default=True,
    help="In this process, in processes of this machine, or as jobs of SLURM.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at once.  [one a GPU, or a core]")
@gpus
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="partition=…,time=…,account=…")
@click.option("--detach", is_flag=True, help="Submit to SLURM, and do not wait.")
@click.option("--track", help="MLflow's address, or off.  [mlflow.db in the store]")
@click.option(
    "--reuse",
    type=click.Choice(["done", "never"]),
    default="done",
    show_default=True,
    help="Skip what is done; or start all of it again, and keep the old folders in old/.",
)
@click.option(
    "--retry",
    type=click.Choice(["failed", "none"]),
    default="failed",
    show_default=True,
    help="Try again what failed, where that can help; or not.",
)
@click.option(
    "--max-gpu-hours", type=click.FloatRange(min=0), help="Refuse what may take more hours."
)
@code_change
def run(reuse: str, retry: str, max_gpu_hours: float | None, **chosen: Any) -> int:
    """Make the store match the request: run what is not done, skip what is, print the table.

    Example: bench run --zoo moco_v2,clip --protocol pf,paf --data /data/bdd100k
    """
    from bench.forecast import within
    from bench.grids import cells
    from bench.plan import draw_demo, plan
    from bench.reconcile import How, carry_out, recorded, set_aside, without_failed

    how = How(**{field.name: chosen[field.name] for field in fields(How)})
    if how.detach and how.runner != "slurm":
        raise click.UsageError("--detach leaves cells to SLURM: it needs --runner slurm.")
    if how.slurm and how.runner != "slurm" and on_command_line("slurm"):
        raise click.UsageError("--slurm is about jobs of SLURM: it needs --runner slurm.")
    request, place = asked(chosen)
    place.store.check()
    draw_demo(place)
    planned = plan(cells(request), place)
    if max_gpu_hours is not None:
        within(max_gpu_hours, planned, place, how.jobs, anew=reuse == "never")
    if reuse == "never":
        for folder in set_aside(planned, cells(request), place):
            click.echo(f"Set aside: {folder}")
        planned = plan(cells(request), place)
    planned = without_failed(planned) if retry == "none" else planned
    command = shlex.join(["bench", *sys.argv[1:]])
    return carry_out(planned, place, how, recorded(planned, request, place, how, command))


@bench.command()
@config
@values
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--explain", metavar="CELL", help="In what a cell differs from the nearest stored.")
@click.option("--probe", is_flag=True, help="Time a few steps of what nobody knows the speed of.")
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at once.  [one a GPU, or a core]")
@click.option("--show-sbatch", is_flag=True, help="The script SLURM would get for what is to run.")
@gpus
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="partition=…,time=…,account=…")
def plan(
    as_json: bool,
    explain: str | None,
    probe: bool,
    jobs: int | None,
    show_sbatch: bool,
    slurm: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Show what `run` would do, how long it would take, and do nothing.

    Example: bench plan --zoo all --protocol pf,paf
    """
    from bench.display import print_json
    from bench.forecast import explained, forecast, print_plan, print_scripts
    from bench.grids import cells
    from bench.plan import plan

    request, place = asked(chosen)
    planned = plan(cells(request), place)
    if explain is not None:
        explained(planned, explain, place, as_json=as_json)
    elif show_sbatch:
        print_scripts(planned, place, slurm)
    else:
        cost = forecast(planned, place, jobs, probe=probe)
        if as_json:
            print_json({"cells": [one.to_json() for one in planned], **cost.to_json()})
        else:
            print_plan(planned, cost, request)


@bench.command()
@config
@values
@click.option(
    "--format",
    "formats",
    callback=commas,
    default="console",
    show_default=True,
    help="Any of console,markdown,latex,csv,json (tables), html (a page), svg,pdf,png (figures)",
)
@click.option("--out", type=click.Path(path_type=Path), help="A folder to write files into.")
@click.option("--paper", is_flag=True, help="The published values beside ours.")
@click.option("--cost", is_flag=True, help="What training took: GPU-hours by stage, and in all.")
@click.option(
    "--layout",
    type=click.Choice(["long", "wide"]),
    default="long",
    show_default=True,
    help="Tables 2 and d2 with a row for each protocol, or protocols side by side.",
)
@click.option(
    "--expect",
    metavar="FILE",
    help="Exit code 4 where a value is not what a TOML file says; or paper, the published values.",
)
@click.option(
    "--tol",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="How far from what is expected a value may be, in points.",
)
@click.option("--strict", is_flag=True, help="Exit code 1 when a cell is not done, or stale.")
def report(formats: tuple[str, ...], layout: str, cost: bool, **chosen: Any) -> int:
    """Print a table of the paper from the store; or write tables, a page, figures as files.

    Example: bench report --table 2 --format markdown,latex --out tables
    """
    from bench.grids import cells
    from bench.report import FORMATS, Asked, report
    from bench.results import absent
    from reports.render import Look

    for form in formats:
        if form not in FORMATS:
            raise click.UsageError(f"Unknown format {form!r}. Known: {', '.join(FORMATS)}.")
    if on_command_line("tol") and chosen["expect"] is None:
        raise click.UsageError("--tol is about what is expected: it needs --expect.")
    store = read_store(chosen)
    chosen = latest(chosen, store)
    request, place = asked({**chosen, "data": chosen["data"] or "demo"})
    options = {name: chosen[name] for name in ("out", "paper", "expect", "tol", "strict")}
    root = place.root if chosen["data"] else None
    look = Look(layout=layout, cost=cost)
    code = report(request, store, Asked(formats=formats, look=look, root=root, **options))
    if said := absent(cells(request), store, root):
        click.echo(said, err=True)
    return code


bench.add_command(data)
bench.add_command(zoo)
add_to(bench)


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
