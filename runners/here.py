"""The items one after the other, in this process."""

import traceback
from collections.abc import Callable, Generator, Iterable

from runners.base import Outcome, last_words


class Here:
    """Call the function directly, in the order of the items.

    An exception of one item becomes its outcome and the next item is run all the same;
    KeyboardInterrupt and SystemExit pass through.
    """

    def run(
        self, function: Callable[[str], object], items: Iterable[str]
    ) -> Generator[Outcome, None, None]:
        for item in items:
            yield _call(function, item)


def _call(function: Callable[[str], object], item: str) -> Outcome:
    try:
        function(item)
    except Exception:
        story = traceback.format_exc()
        return Outcome(item=item, error=last_words(story), traceback=story)
    return Outcome(item=item)
