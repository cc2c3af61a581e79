"""What the command answered, for the tests that talk to it through the fixture `say`."""

import json


def told(say, *words, code=0):
    """What `bench … --json` prints."""
    found, out, err = say(*words, "--json")
    assert (found, err) == (code, "")
    return json.loads(out)


def refused(say, *words):
    code, out, err = say(*words)
    assert (code, out) == (2, "")
    assert err.startswith("bench: ")
    assert err.count("\n") == 1
    return err.removeprefix("bench: ").rstrip("\n")
