"""The measuring instrument: data, model, training, metrics, records and the command.

In reading order: `run` (what is done with one cell, on one screen), `cell` (what it is), `grids`
(which cells a request means), `store` (where they live), `plan` (what is there and what is to be
done), `launch` (a plan carried out), `pseudo` (labels made by teachers), `results` (what the
reports get to see); then the folders `data`, `model`, `train`, `eval`; and at the edge `cli` with
its `selectors`, `zoo_commands`, `status` and `display` (what a person sees), `track` (MLflow) and
`provenance` (where a number comes from).
"""


class BenchError(ValueError):
    """Something asked of the bench cannot be done; the text says what would be right."""
