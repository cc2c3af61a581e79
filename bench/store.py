"""The store: one folder a cell, plain files, and `result.json` as the only sign of a finished one.

    <store>/splits/<sha8>.json            which training frames carried which labels
    <store>/pseudo/<key8>/                pseudo labels (see bench/pseudo.py)
    <store>/cells/<address>-<key8>/
        cell.json          written first: what is to be run
        lock               who runs it now: host, pid, job; its age is the heart-beat
        state.pt           where a resumed run starts; state.prev.pt the one before
        progress.jsonl     losses and validations, a line each
        attempts.jsonl     when, where and with which code each attempt was started
        load_report.json   what became of every tensor of the weight file
        preds/             per-image statistics
        panels.json        a few validation frames as pictures (see bench/eval/panels.py)
        resampled.npz      scores on resampled images (see bench/intervals.py)
        error.txt          why the last attempt failed
        model.safetensors  the trained model
        result.json        written last, renamed into place

This file knows no cell and imports no torch.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.records import ORDER, RESULT, mistake

BEAT_S = 5.0  # seconds between heart-beats
DEAD_S = 60.0  # a lock that has not beaten for so long is nobody's
JOB = "job.json"  # which job or process was given a folder
OTHERS = (".cell.json.", ".order.json.", ".job.json.")  # files that are written without the lock


class Busy(BenchError):
    """Somebody else runs the cell that was to be run."""


class Store:
    """A folder of results.

    `damaged` says which cells `orders` left out when it looked last, and why.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.damaged: dict[Path, str] = {}
        self._said: set[str] = set()

    def check(self) -> None:
        """Raise `BenchError` where the folder cannot be made or written to; nothing is made."""
        nearest = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise BenchError(
                f"The store {self.root} cannot be written to ({nearest} is not a folder of yours). "
                "Give --store another one."
            )

    def prepare(self) -> None:
        """Make the folders of the store."""
        (self.root / "cells").mkdir(parents=True, exist_ok=True)
        (self.root / "splits").mkdir(exist_ok=True)

    def folder(self, name: str) -> Path:
        """Return the folder of the cell with this name (address and key)."""
        return self.root / "cells" / name

    def orders(self) -> dict[Path, dict[str, Any]]:
        """Return what each cell's folder was to run; a damaged one is left out, with one line."""
        found, self.damaged = {}, {}
        for home in self.cells():
            try:
                found[home] = read_order(home)
            except BenchError as error:
                self.damaged[home] = str(error)
        for line in self.damaged.values():
            if line not in self._said:
                print(f"Left out: {line}", file=sys.stderr)
                self._said.add(line)
        return found

    def cells(self) -> list[Path]:
        """Return the folders of all cells that were ever started, by name.

        One that has a result and no `cell.json` any more is among them.
        """
        files = [*(self.root / "cells").glob("*/cell.json")]
        files += (self.root / "cells").glob("*/result.json")
        return sorted({file.parent for file in files})


def state(folder: Path, finished: str = "result.json") -> str:
    """Return `done`, `running`, `failed`, `preempted` or `pending`, from the files alone.

    A preempted one was begun and cut off without a word: it goes on when it is run again.
    `finished` is the file that is written last there.
    """
    if (folder / finished).exists():
        return "done"
    if owner(folder) is not None:
        return "running"
    if (folder / "error.txt").exists():
        return "failed"
    return "preempted" if (folder / "attempts.jsonl").exists() else "pending"


def owner(folder: Path) -> dict[str, Any] | None:
    """Return who holds the cell's lock (host, pid, job), or None where nobody alive does."""
    lock = folder / "lock"
    try:
        age = time.time() - lock.stat().st_mtime
        holder = json.loads(lock.read_text())
        host, pid = holder["host"], holder["pid"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if age > DEAD_S or (host == socket.gethostname() and not _alive(pid)):
        return None
    return holder


def job() -> str | None:
    """Return the id of the SLURM job, or array element, that this process is; None outside one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the cell's lock, with a heart-beat; raise `Busy` where somebody else does.

    A process that stood still for so long (suspended, say) that another one took over ends as soon
    as it notices: it must write nothing more.
    """
    lock = folder / "lock"
    with (folder.parent / ".taking").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)  # of several takers of a dead lock, one at a time
        holder = owner(folder)
        if holder is not None:
            raise Busy(f"{folder.name} is run by process {holder['pid']} on {holder['host']}.")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "job": job()}
        mine = json.dumps({**holder, "since": time.time()})
        write_text(lock, mine)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, mine, stop), daemon=True)
    try:
        beat.start()
        _sweep(folder)
        yield
    finally:
        stop.set()
        beat.join()
        lock.unlink(missing_ok=True)


@contextmanager
def failure_kept(home: Path) -> Iterator[None]:
    """Write what goes wrong to `error.txt`, the message first, and let it go on."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # a full disk must not hide what went wrong
            write_failure(home, f"{type(error).__name__}: {error}", traceback.format_exc())
        raise


def write_failure(home: Path, error: str, story: str) -> None:
    """Write why a cell failed: one line, then the whole story."""
    write_text(home / "error.txt", f"{error}\n\n{story}")


def error_of(home: Path) -> str:
    """Return the line that says why a cell failed; empty where it did not."""
    file = home / "error.txt"
    text = file.read_text(errors="replace") if file.exists() else ""
    return text.partition("\n")[0]


def read_json(file: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Return the object that a JSON file holds; `BenchError` where it is damaged, or lacks keys."""
    try:
        value = json.loads(file.read_text())
        if isinstance(value, dict) and value.keys() >= set(needs):
            return value
    except ValueError:
        pass
    raise _damaged(file)


def read_order(home: Path) -> dict[str, Any]:
    """Return what is to be run in a cell's folder; `BenchError` where it is damaged or gone."""
    file = home / "cell.json"
    if not file.exists():
        raise BenchError(
            f"{file} is missing, and says what result.json is of. Put it back, or repeat the bench "
            "run that asked for this cell: that writes it again."
        )
    order = read_json(file, ("address", "key", "version", "resolved", "weights", "data"))
    if wrong := mistake(order, ORDER):
        raise _damaged(file, wrong)
    return order


def read_result(home: Path) -> dict[str, Any]:
    """Return what a finished cell left; scores that do not exist are None.

    `BenchError` where it is damaged: not JSON, of another shape than a run leaves, no scores from 0
    to 100, or the result of another cell.
    """
    file = home / "result.json"
    result = read_json(file, ("key", "metrics", "constant", "provenance"))
    if wrong := mistake(result, RESULT):
        raise _damaged(file, wrong)
    if not result["key"].startswith(key := _key(home)):
        raise BenchError(
            f"{file} is the result of another cell: its key is {result['key'][:8]}, and this "
            f"cell's {key[:8]}. Remove {home} to have it made again."
        )
    for kind in ("metrics", "constant"):
        result[kind] = {k: None if v != v else v for k, v in result[kind].items()}  # NaN
    return result


def key8(home: Path) -> str:
    """Return the beginning of its key that ends the name of a cell's folder."""
    return home.name.rpartition("-")[2]


def _key(home: Path) -> str:
    """Return the key of the cell in a folder; its beginning alone where `cell.json` is no help."""
    try:
        return read_order(home)["key"]
    except BenchError:
        return key8(home)


def _damaged(file: Path, wrong: str = "") -> BenchError:
    why = f" ({wrong})" if wrong else ""
    return BenchError(f"{file} is damaged{why}. Remove {file.parent} to have it made again.")


def handed_to(home: Path) -> dict[str, Any]:
    """Return which job or process a folder was given to: a hint; nothing where it is damaged."""
    try:
        return read_json(home / JOB)
    except (OSError, BenchError):
        return {}


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file that is either whole or not there."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file that is either whole or not there."""
    with whole(file) as unfinished:
        unfinished.write_text(text)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Hand out a name to write to; at the end that is flushed and becomes `file`, or nothing does.

    A process that is killed leaves it behind: `locked` removes it.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, file)
        with suppress(OSError):  # some network file systems cannot flush a folder
            flush(file.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(file: Path, value: dict[str, Any]) -> None:
    """Append one JSON object as a line, on a line of its own even where the last was cut short."""
    with file.open("a+") as stream:
        stream.seek(max(0, stream.tell() - 1))
        torn = stream.read(1) not in ("", "\n")
        stream.write("\n" * torn + json.dumps(value) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file of lines; a line that a kill cut short is left out."""
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return [value for line in lines if (value := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _sweep(folder: Path) -> None:
    """Remove what earlier holders of the lock were writing when they were killed."""
    for left in folder.rglob(".*.tmp"):
        if not left.name.startswith(OTHERS):
            left.unlink(missing_ok=True)


def _beat(lock: Path, mine: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):  # a disk that does not answer for a while
            if lock.exists() and lock.read_text() == mine:
                os.utime(lock)
            else:
                print(f"{lock} is no longer ours: another process took over.", flush=True)
                os._exit(1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
