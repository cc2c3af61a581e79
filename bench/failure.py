"""Why a cell failed: causes told apart by their first line, and what each asks for.

A cell that failed is tried again by the next `bench run` only where that can help.
"""

import re
from dataclasses import dataclass

STOPPED = "Interrupted"  # how the error of what was stopped begins, which is no failure


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A kind of failure. `again`: may the same cell succeed unchanged? `cure`: what to do."""

    name: str
    again: bool
    cure: str


OUT_OF_MEMORY = Cause(
    name="out of memory",
    again=False,
    cure="Lower it for the whole grid, never for one checkpoint: --set optim.batch=… or a smaller "
    "--set input.train_short=…; on a larger device: bench retry.",
)
NOT_FINITE = Cause(
    name="not finite",
    again=False,
    cure="A lower rate, for the whole grid: --set stages.….lr=…; to try it unchanged: bench retry.",
)
DISK = Cause(name="disk full", again=True, cure="Make room; the same command continues.")
NODE = Cause(name="node", again=True, cure="The same command continues from the last saved step.")
NEEDS = Cause(name="needs", again=True, cure="What it waits for failed: bench status --failed.")
CHANGED = Cause(
    name="other code",
    again=False,
    cure="The same command plans it anew with the code as it is now; where it had begun, "
    "--allow-code-change goes on, and --reuse never starts it again.",
)
DAMAGED = Cause(
    name="damaged",
    again=False,
    cure="--reuse never starts it again, and keeps what is there in old/.",
)
CODE = Cause(name="code", again=True, cure="bench show CELL has the whole story.")

_SIGNS = (  # (in the first line of error.txt, cause)
    (r"OutOfMemoryError|MemoryError|out of memory(?!\?)|oom.kill", OUT_OF_MEMORY),
    (r"not finite", NOT_FINITE),
    (r"No space left|Disk quota exceeded|\[Errno (28|122)\]|PytorchStreamWriter", DISK),
    (r"^(The worker died|NodeFailure|RankFailed: rank \d+: died of)", NODE),
    (r"^(BenchError: )?Needs ", NEEDS),
    (r"^CodeChanged", CHANGED),
    (r"^BenchError: No state in ", DAMAGED),
)


def cause(error: str) -> Cause:
    """Return the cause of a failure from the first line of its `error.txt`."""
    return next((found for sign, found in _SIGNS if re.search(sign, error)), CODE)
