"""The items one after the other, in this process."""

import time
import traceback
from collections.abc import Callable, Generator, Iterable

from runners.base import POLL_S, Outcome, Started, last_words, nothing


class Here:
    """Call the function directly, in the order of the items.

    An exception of one item becomes its outcome and the next item is run all the same;
    KeyboardInterrupt and SystemExit pass through. No worker is started, so none is told of.
    """

    def run(
        self,
        function: Callable[[str], object],
        items: Iterable[str | None],
        started: Callable[[Started], None] = nothing,
    ) -> Generator[Outcome, None, None]:
        for item in items:
            if item is None:
                time.sleep(POLL_S)
            else:
                yield _call(function, item)


def _call(function: Callable[[str], object], item: str) -> Outcome:
    try:
        function(item)
    except Exception:
        story = traceback.format_exc()
        return Outcome(item=item, error=last_words(story), traceback=story)
    return Outcome(item=item)
