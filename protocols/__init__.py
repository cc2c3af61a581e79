"""What is done to every checkpoint alike. Standard library only.

In reading order: `stages` (one training run that updates named parts), `settings` (which training
frames carry which labels), `schemes` (how training goes through partly labelled frames), `presets`
(the values of the paper, of the demo and of the tests), `own` (a user's protocol, a TOML file) and
`override` (`--set KEY=VALUE`).
"""

import difflib


class ProtocolError(ValueError):
    """A protocol, setting or scheme was asked for that does not exist or cannot be had."""


# Raise this when the same values would no longer give the same numbers: it is in every cell's key.
VERSION = 1


def check(right: bool, what: str, value: object, would_be_right: str) -> None:
    """Raise `ProtocolError` unless `right`."""
    if not right:
        raise ProtocolError(f"{what} is {value!r}; right would be {would_be_right}.")


def known(what: str, value: str, values: tuple[str, ...]) -> str:
    """Return `value` if it is one of `values`, else raise with the nearest of them."""
    if value in values:
        return value
    near = difflib.get_close_matches(value, values, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ProtocolError(f"Unknown {what} {value!r}.{hint} Known: {', '.join(values)}.")
