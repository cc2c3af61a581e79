"""The measuring instrument: data, model, training, metrics, records and the command.

In reading order: `run` (what is done with a cell, on one screen), `cell` (what a cell is), `grids`
(which cells a request means), `store` (where they live), then `data`, `model`, `train`, `eval`,
and at the edge `track` (MLflow) and `cli`.
"""


class BenchError(ValueError):
    """Something asked of the bench cannot be done; the text says what would be right."""
