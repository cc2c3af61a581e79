"""`--set KEY=VALUE`: one value of a protocol replaced, typed by the field it replaces."""

import dataclasses
import difflib
from typing import Any

from protocols import ProtocolError
from protocols.stages import Protocol


def override(protocol: Protocol, assignment: str) -> Protocol:
    """Return `protocol` with one value replaced, as in `stages.adapt.epochs=1`.

    Stages go by their names. A tuple takes a comma list. Unknown keys, keys of whole groups and
    values of another type raise `ProtocolError`.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ProtocolError(f"--set {assignment!r} is not KEY=VALUE, as in stages.adapt.epochs=1.")
    return _replace(protocol, key.strip().split("."), text.strip(), key.strip())


def _replace(value: Any, path: list[str], text: str, key: str) -> Any:
    if not path:
        return _parse(value, text, key)
    children = _children(value)
    if path[0] not in children:
        _refuse(path[0], key, tuple(children))
    child = _replace(children[path[0]], path[1:], text, key)
    if isinstance(value, tuple):
        return tuple(child if stage.name == path[0] else stage for stage in value)
    return dataclasses.replace(value, **{path[0]: child})


def _children(value: Any) -> dict[str, Any]:
    """Return what a key may name inside `value`: the fields of a group, or stages by name."""
    if dataclasses.is_dataclass(value):
        # What has an option of its own (--protocol, --preset, ...) is not set here.
        hidden = {"name", "preset", "scheme", "heads"} if isinstance(value, Protocol) else {"name"}
        names = [field.name for field in dataclasses.fields(value) if field.name not in hidden]
        return {name: getattr(value, name) for name in names}
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return {stage.name: stage for stage in value}
    return {}


def _refuse(name: str, key: str, names: tuple[str, ...]) -> None:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = f" Known there: {', '.join(names)}." if names else ""
    raise ProtocolError(f"--set {key}: there is no {name!r}.{hint}{known}")


def _parse(old: Any, text: str, key: str) -> Any:
    if _children(old):
        raise ProtocolError(f"--set {key} names a group: {', '.join(_children(old))}. Name one.")
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, tuple):
            kind = type(old[0]) if old else float
            return tuple(kind(item) for item in text.split(",") if item.strip())
        return type(old)(text)
    except (KeyError, ValueError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
        kind = kinds.get(type(old), "a list")
        raise ProtocolError(f"--set {key}={text!r}: {kind} is needed, as in {old!r}.") from None
