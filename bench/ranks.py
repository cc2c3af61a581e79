"""The processes that train one cell together, on the GPUs (or cores) of one machine.

This process only watches them: what it holds, the cell's lock among it, outlives any of them, and
none of them outlives this one.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing import connection, parent_process
from typing import Any

import torch
import torch.distributed
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    spawn,
)

from bench import BenchError, memory
from bench.train import stop
from runners.base import held_back, last_words

LOOK_S = 0.2  # between two looks at the processes
GRACE_S = 1.0  # for the others, when one has ended early
PATIENCE = timedelta(days=7)  # of ranks that wait for rank 0 to score; a dead one is seen from here


class RankFailed(BenchError):
    """One of the processes that train a cell together failed, and took the others with it."""


def together(function: Callable[..., None], args: tuple[Any, ...], size: int) -> None:
    """Call `function(*args)` in `size` processes, the ranks of `bench.dist`; wait for all of them.

    Asked to stop, this process asks rank 0, which saves, and raises `Stopped` as it would. The
    first failure of a rank ends them all and raises `RankFailed`.
    """
    devices = torch.cuda.device_count()
    if 0 < devices < size:
        raise BenchError(f"{size} GPUs a cell are asked for, and {devices} are here.")
    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        meeting = f"file://{folder}/meeting"
        with held_back():
            started = spawn(
                _member,
                (size, meeting, threads, function, args),
                nprocs=size,
                join=False,
                daemon=True,
            )
        assert isinstance(started, ProcessContext), "it was told not to wait"
        try:
            _watch(started)
        finally:
            for process in filter(None, started.processes):
                process.kill()


def _watch(started: ProcessContext) -> None:
    first, told = started.processes[0], False
    assert first is not None, "it was started"
    try:
        while not started.join(LOOK_S, GRACE_S):
            if stop.asked() and not told and first.pid:
                told = True
                with suppress(ProcessLookupError):
                    os.kill(first.pid, signal.SIGUSR2)
    except (ProcessRaisedException, ProcessExitedException) as error:
        if first.exitcode == stop.EXIT_CODE:
            raise stop.Stopped("asked to stop; what is saved is where it goes on") from None
        if isinstance(error, ProcessRaisedException):
            words = last_words(str(error))
        else:
            words = f"died of {error.signal_name or f'exit code {error.exit_code}'}"
        raise RankFailed(f"rank {error.error_index}: {words}") from error


def _member(
    rank: int,
    size: int,
    meeting: str,
    threads: int,
    function: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """Be one rank, from its start to its end."""
    parent = parent_process()
    assert parent is not None, "it was spawned"
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _listen(rank)
    torch.set_num_threads(threads)
    memory.keep()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        function(*args)
    except stop.Stopped:
        sys.exit(stop.EXIT_CODE)
    finally:
        _be_deaf()  # while Python ends it forgets its handlers, and what comes then would kill it
    torch.distributed.destroy_process_group()


def _listen(rank: int) -> None:
    """Let rank 0 alone be asked to stop: it saves, and the others end with it."""
    stop.listen() if rank == 0 else _be_deaf()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop.SIGNALS)


def _be_deaf() -> None:
    for number in stop.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
