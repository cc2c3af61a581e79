"""The verbs that read a store and look after it: status, show, compare, logs, cancel, retry, …"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from bench.config import config
from bench.selectors import code_change, read_store, selectors, store_of, wanted

if TYPE_CHECKING:
    from bench.status import Stored
    from bench.store import Store

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
STORE = click.option("--store", help="The folder of results.  [$BENCH_STORE, else ./runs]")
NAMED = click.argument("named", nargs=-1, metavar="[CELL]…")
FIRST = ("running", "failed", "preempted", "pending", "unreadable", "stale", "done")
WATCH_S = 2.0


def add_to(group: click.Group) -> None:
    """Add these verbs to the command."""
    for command in (status, show, compare, logs, cancel, retry, track, doctor, selftest):
        group.add_command(command)


@click.command()
@config
@selectors
@AS_JSON
@click.option("--failed", is_flag=True, help="Only what failed, with its cause and cure.")
@click.option("--watch", is_flag=True, help="Look again every 2 seconds, until Ctrl-C.")
def status(as_json: bool, failed: bool, watch: bool, **chosen: Any) -> None:
    """Show the cells of the store: state, stage, progress, last error.

    Example: bench status --zoo 'moco*' --watch
    """
    from bench.display import print_json, say, table, terminal
    from bench.failure import cause
    from bench.status import line, stored

    store, fits = read_store(chosen), wanted(chosen)

    def found() -> list[Stored]:
        return [one for one in stored(store, fits) if not failed or one.state == "failed"]

    if as_json:
        print_json({"cells": [line(one) for one in found()]})
    elif watch:  # a screen may be too short for all: what moves comes first
        width = terminal().width
        _watch(lambda: table(sorted(found(), key=lambda one: FIRST.index(one.state)), width))
    elif listed := found():
        console = terminal()
        console.print(table(listed, console.width), markup=False, highlight=False)
        for why in dict.fromkeys(line(one)["error"] for one in listed if failed):
            say(console, f"{cause(why).name}: {cause(why).cure}")
    else:
        said = "None has failed." if failed else f"The store {store.root} has no such cell."
        click.echo(said)


def _watch(shown: Any) -> None:
    from rich.live import Live

    from bench.display import terminal

    try:
        with Live(shown(), console=terminal(), auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(shown(), refresh=True)
    except KeyboardInterrupt:  # which is how one stops watching
        pass


@click.command()
@click.argument("cell")
@STORE
@AS_JSON
def show(cell: str, as_json: bool, **chosen: Any) -> None:
    """Show all that is known of a cell: values, weights, attempts, scores, and why it failed.

    CELL is its folder's name, or a beginning of its key that no other cell's key has.

    Example: bench show 3f9a
    """
    from bench.display import print_json, say, terminal
    from bench.show import facts, text
    from bench.status import find

    known = facts(find(read_store(chosen), cell))
    if as_json:
        print_json(known)
        return
    console = terminal()
    for row in text(known):
        say(console, row)


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@selectors
@AS_JSON
def compare(first: str, second: str, as_json: bool, **chosen: Any) -> None:
    """Say which of A and B is better, and how sure that is, from the same validation images.

    A and B are two cells (as for show), two protocols, or two checkpoints; of these all finished
    cells that the selectors mean are compared with their like. Differences are B less A.

    Example: bench compare pf paf --zoo moco_v2,clip
    """
    from bench.compare import compare, table, to_json
    from bench.display import print_json, say, terminal

    found, notes = compare(read_store(chosen), first, second, wanted(chosen))
    if as_json:
        print_json({"comparisons": [to_json(one) for one in found], "notes": notes})
        return
    console = terminal()
    console.print(table(found), markup=False, highlight=False)
    for title, lines in (("", [one.text for one in found]), ("", notes)):
        for line in (title, *lines):
            say(console, line)


@click.command()
@NAMED
@selectors
@click.option("-f", "--follow", is_flag=True, help="Go on until the cells are done or have failed.")
def logs(named: tuple[str, ...], follow: bool, **chosen: Any) -> None:
    """Print what the worker of a cell printed.

    Example: bench logs 3f9a -f
    """
    import sys
    from contextlib import suppress

    from bench.show import print_logs

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    store = read_store(chosen)
    homes = [one.home for one in _meant(store, named, chosen)]
    if not homes:
        click.echo(f"The store {store.root} has no such cell.")
        return
    with suppress(KeyboardInterrupt):
        print_logs(homes, write, follow=follow)


@click.command()
@NAMED
@selectors
@click.option("--all", "every", is_flag=True, help="All cells of the store.")
def cancel(named: tuple[str, ...], every: bool, **chosen: Any) -> None:
    """Stop cells that run or are queued: they save, and `bench run` continues them.

    Example: bench cancel --zoo clip --protocol paf
    """
    from bench.sweep import cancel

    given = any(value for name, value in chosen.items() if name != "store")
    if not (named or given or every):
        raise click.UsageError("Say which cells: names, selectors as --zoo clip, or --all.")
    store = read_store(chosen)
    homes = [one.home for one in _meant(store, named, chosen) if one.state != "done"]
    if every:
        homes += sorted(order.parent for order in (store.root / "pseudo").glob("*/order.json"))
    done, held = cancel(homes)
    for home, how in done.items():
        click.echo(f"{home.name}: {how}")
    if held:
        click.echo(f"{len(held)} not running: a bench run that goes on now does not begin them.")
    if not (done or held):
        click.echo("None of these cells runs or is queued.")


@click.command()
@NAMED
@code_change
@selectors
def retry(named: tuple[str, ...], allow_code_change: bool, **chosen: Any) -> int:
    """Run failed cells again whatever their cause, and those that failed for need of them.

    Each is run as the `bench run` that asked for it last said: here, locally or through SLURM.

    Example: bench retry --zoo clip
    """
    from bench.retry import retry

    store = read_store(chosen)
    return retry(store, _meant(store, named, chosen), allow_code_change=allow_code_change)


@click.group()
def track() -> None:
    """MLflow, the mirror of the store for browsing.

    Example: bench track sync
    """


@track.command()
@STORE
@click.option("--track", help="MLflow's address.  [mlflow.db in the store]")
def sync(track: str | None, **chosen: Any) -> None:
    """Make MLflow show exactly what the store holds; doing it again changes nothing.

    Example: bench track sync --track http://127.0.0.1:5000
    """
    from bench import BenchError, artifacts
    from bench.invocations import invocations
    from bench.track import address
    from bench.track import sync as bring
    from reports.tables import ReportError
    from zoo.catalog import ZooError

    store = store_of(chosen)
    if not (store.root / "cells").is_dir():
        raise click.UsageError(f"{store.root} is no store: it has no cells.")
    for asked in invocations(store.root):
        try:
            artifacts.write(asked)
        except (BenchError, ZooError, ReportError) as error:  # as of a checkpoint that is gone
            click.echo(f"{asked.folder}: its tables and page stay as they were: {error}", err=True)
    uri = address(track, store.root)
    if uri is None:
        raise click.UsageError("--track off leaves nothing to do.")
    changed = bring(uri, store.root)
    click.echo(f"{uri}: {changed} runs changed." if changed else f"{uri} is up to date.")


@track.command()
@STORE
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(host: str, port: int, **chosen: Any) -> int:
    """Open MLflow's own page on the store's database, until Ctrl-C.

    Example: bench track ui --port 5001
    """
    import os
    import signal
    import socket
    import subprocess
    from contextlib import suppress

    from bench.track import default_uri, runs_page, server

    root = store_of(chosen).root
    if not (root / "mlflow.db").exists():
        raise click.UsageError(f"{root} has no mlflow.db. bench track sync makes it.")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise click.UsageError(
            f"{host}:{port} cannot be used ({error.strerror}). Give another --port."
        ) from None
    click.echo(f"http://{host}:{port}{runs_page(root)}  (Ctrl-C ends it)")
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = server(default_uri(root), host, port)
    page = subprocess.Popen(command, env=quiet, start_new_session=True)
    try:
        return page.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(page.pid, signal.SIGTERM)  # MLflow leaves its own workers behind
        page.wait()


@click.command()
@STORE
def doctor(**chosen: Any) -> int:
    """Check this machine: torch, devices, SLURM, MLflow, room, the store's file system.

    One line each, and what to do where something is wrong; then the exit code is 1.

    Example: bench doctor --store /scratch/runs
    """
    from bench.doctor import findings
    from zoo.catalog import default_folder

    well = True
    for one in findings(store_of(chosen).root, default_folder()):
        well &= one.ok
        line = f"{'ok' if one.ok else 'warning':>7}  {one.name}: {one.seen}"
        click.echo(line if one.ok else f"{line}. To do: {one.cure}.")
    return 0 if well else 1


@click.command()
@STORE
@click.option("--preempt", is_flag=True, help="Kill it at random moments, and compare.")
@click.option("--kills", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--runner",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="In processes of this machine, or as jobs of SLURM.",
)
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="partition=…,time=…,account=…")
def selftest(preempt: bool, kills: int, runner: str, slurm: tuple[str, ...], **chosen: Any) -> int:
    """Run a small cell; with --preempt kill it again and again: is its result the same?

    It is killed by SIGKILL, SIGTERM and SLURM's USR2. Its folder, inside the store, is removed
    where all is well.

    Example: bench selftest --preempt --runner slurm --slurm partition=gpu
    """
    from bench.jobs import Jobs
    from bench.selftest import selftest
    from runners.cluster import SlurmOptions
    from runners.slurm import Slurm

    store = store_of(chosen)
    store.check()
    through = None
    if runner == "slurm":
        options = SlurmOptions.parse(",".join(slurm))
        through = Jobs(Slurm(store.root / "logs" / "slurm", options))
    say = click.echo
    return selftest(preempt, folder=store.root, kills=kills, runner=through, say=say)


def _meant(store: Store, named: Iterable[str], chosen: dict[str, Any]) -> list[Stored]:
    """Return the cells that are named, or else those that fit the selectors."""
    from bench.status import find, stored

    if named:
        return [find(store, text) for text in named]
    return [one for one in stored(store, wanted(chosen)) if one.cell is not None]
