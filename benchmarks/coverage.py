"""How often 95 % intervals hold the truth, and tests find an effect, by the number of images.

    python -m benchmarks.coverage    a quarter of an hour, 2 GB of memory

The simulated worlds of `tests/test_coverage.py`, a thousand validation sets each, and one with 19
classes of which the last is in one image of ten, as rare as in street scenes. For each size: how
many percent of the intervals of a score hold the true score, of a difference the true difference;
how many percent of the differences of equal networks, and of unlike ones, have a p below 0.05.
"""

from functools import partial

import numpy as np

from tests import test_coverage as simulation

SIZES = (16, 44, 100, 300)


def main() -> None:
    """Print a row for each world and size."""
    simulation.WORLDS["sem, rare"] = partial(simulation.of_maps, simulation.sem, 19, 0.1)
    print("world | images | score | difference | equal, p < 0.05 | unlike, p < 0.05")
    for name in simulation.WORLDS:
        for images in SIZES:
            truth, measured, spread = simulation.simulated.__wrapped__(name, images)
            one, two, equal = (
                simulation.effects(values, columns, images)
                for values, columns in (
                    (measured[0], spread[0]),
                    (measured[1] - measured[0], spread[1] - spread[0]),
                    (measured[2] - measured[0], spread[2] - spread[0]),
                )
            )
            row = (
                simulation.covered(truth[0], one),
                simulation.covered(truth[1] - truth[0], two),
                *(100 * np.mean([e.p < 0.05 for e in found]) for found in (equal, two)),
            )
            print(name, images, *(f"{number:.1f}" for number in row), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
