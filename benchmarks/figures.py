"""A figure: the cost of one way as a ratio to that of another, measured in turns in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """A ratio, how far it varied from round to round, and the bar that it has to stay under.

    A bar that it has to stay over is negative; a figure that is only reported has none.
    """

    name: str
    ratio: float
    low: float
    high: float
    bar: float | None
    seconds: tuple[float, float]  # of both ways, the least of all rounds

    @property
    def met(self) -> bool:
        """Whether the ratio is on the right side of the bar."""
        if self.bar is None:
            return True
        return self.ratio <= self.bar if self.bar > 0 else self.ratio >= -self.bar

    def row(self) -> str:
        """Return it as a row of a Markdown table."""
        spread = f"{self.low:.3g}-{self.high:.3g}"
        bar = "" if self.bar is None else f"{'≤' if self.bar > 0 else '≥'} {abs(self.bar):.3g}"
        mine, its = (f"{value:,.3g}" for value in self.seconds)
        end = "" if self.met else ", missed"
        return f"| {self.name} | {self.ratio:.3g} ({spread}) | {bar}{end} | {mine} | {its} |"


WARM = 2  # rounds that do not count: memory is touched for the first time in them
HEADER = "| | ratio (rounds) | bar | first, s | second, s |\n| --- | --- | --- | ---: | ---: |"


def timed(
    ways: dict[str, Callable[[], object]],
    rounds: int,
    ready: Callable[[str], object] = lambda way: None,
) -> dict[str, list[float]]:
    """Return the processor time of each way in every round that counts.

    Processor time, not the clock: other programs run on the machine. Threads that wait for each
    other count too. What makes a way ready does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM + rounds):
        for name, way in ways.items():
            ready(name)
            before = time.process_time()
            way()
            if number >= WARM:
                seconds[name].append(time.process_time() - before)
    return seconds


def figure(name: str, first: list[float], second: list[float], bar: float | None) -> Figure:
    """Return the median of the rounds' ratios of `first` to `second`, with their range."""
    ratios = [mine / its for mine, its in zip(first, second, strict=True)]
    return Figure(name, median(ratios), min(ratios), max(ratios), bar, (min(first), min(second)))
