import subprocess
import sys
import traceback

import pytest

from runners.base import last_words
from runners.here import Here


def test_here_calls_every_item_in_order_and_an_error_stops_none():
    called = []

    def function(item):
        called.append(item)
        if item == "b":
            raise ValueError("b is no good")

    outcomes = list(Here().run(function, ["a", "b", "c"]))

    assert called == ["a", "b", "c"]
    assert [outcome.item for outcome in outcomes] == ["a", "b", "c"]
    assert [outcome.error for outcome in outcomes] == [None, "ValueError: b is no good", None]
    assert "line" in outcomes[1].traceback


def test_here_runs_an_item_only_when_its_outcome_is_asked_for():
    called = []
    outcomes = Here().run(called.append, ["a", "b"])
    next(outcomes)
    assert called == ["a"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_here_lets_a_wish_to_stop_pass_through(stop):
    def function(item):
        raise stop

    with pytest.raises(stop):
        next(Here().run(function, ["a"]))


class OurError(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("the first line\nthe second"), "ValueError: the first line the second"),
        (KeyError("a: b"), "KeyError: 'a: b'"),
        (OurError("said plainly"), "OurError: said plainly"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_last_words_are_the_exception_on_one_line_without_its_module(error, words):
    try:
        raise error
    except Exception:
        story = traceback.format_exc()
    assert last_words(story) == words


def test_last_words_of_nothing_are_nothing():
    assert last_words("") == ""


def test_only_the_cluster_imports_submitit():
    code = "import sys, runners.base, runners.here; sys.exit('submitit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
