"""Why a cell is as it is: what `plan` prints beside its state."""

from pathlib import Path
from typing import Any

from bench import BenchError
from bench.failure import CHANGED, cause
from bench.provenance import code_hash
from bench.store import error_of, read_result

OTHER_CODE = "begun with other code: --allow-code-change goes on, --reuse never starts it again"


def refused(order: dict[str, Any]) -> bool:
    """Return whether an order is for other code than this, without leave to go on."""
    return order["code"] != code_hash() and not order.get("allow_code_change")


def given_up(folder: Path, now: str) -> bool:
    """Return whether it failed in a way that only another value, or `bench retry`, can mend."""
    if now != "failed":
        return False
    found = cause(error_of(folder))
    return not found.again and found is not CHANGED  # the code is looked at when it starts


def reason(folder: Path, now: str, order: dict[str, Any], finished: dict[str, Any] | None) -> str:
    """Return why an order's folder is in the state `now`.

    `finished` is the order of a finished cell with the same address, if there is one.
    """
    if now == "done":
        try:
            return f"done {read_result(folder)['provenance']['finished']}"
        except BenchError as error:
            return f"failed: {error}"
    if now != "running" and refused(order):
        return OTHER_CODE
    if now == "failed":
        error = error_of(folder)
        cure = f" Not tried again: {cause(error).cure}" if given_up(folder, now) else ""
        return f"failed: {error}{cure}"
    if now == "running":
        return "another process runs it"
    if (folder / "state.pt").exists():
        return "begun: resumes from its last saved step"
    if finished is not None:
        return f"stale: {_difference(finished, order)} changed since {finished['key'][:8]}"
    return "missing"


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the first thing in which two orders for one address differ."""
    for name, what in (("weights", "weights"), ("data", "data"), ("split", "split")):
        if old[name]["sha256"] != new[name]["sha256"]:
            return what
    if old["needs"] != new["needs"]:
        return "teachers"
    if _hashes(old) != _hashes(new):
        return "text weights"
    return "protocol version" if old["version"] != new["version"] else "preset"


def _hashes(order: dict[str, Any]) -> dict[str, str]:
    return {part: found["sha256"] for part, found in order.get("parts", {}).items()}
