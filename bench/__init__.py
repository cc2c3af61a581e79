"""The measuring instrument: data, model, training, metrics, records and the command.

In reading order: `run` (what is done with one cell, on one screen), `cell` (what it is), `grids`
(which cells a request means) and `paper_tables` (which stand behind the paper's), `store` (where
they live) and `records` (what their files must say), `weights` (the files behind them), `plan`
(what is there and what is to be done, with its `reasons`), `launch` (a plan carried out), with
`sweep` (each cell after what it needs, here or through SLURM) and `work` (what a worker does),
`pseudo` (labels made by teachers), `ranks` and `dist` (several processes train one cell), `memory`
(what a process keeps), `failure` (causes told apart), `intervals` (how sure a score is), `results`
(what the reports get to see), `tables`, `figures` and `page` (made of them), `report` (shown,
written, checked) and `artifacts` (kept); then the folders `data`, `model`, `train`, `eval`;
`provenance` (where a number comes from, and whether the code is still the same) and `again` (the
command that makes it again); MLflow in `tracked` (what it gets to see), `track` (how it is brought
there) and `mirror` (while cells run), with `invocations` (what each `bench run` asked for); what a
plan costs in `measured`, `estimate`, `probe` and `forecast`, and why a cell is to be run in
`explain`; and at the edge `cli` with its `selectors` and `config`, `reconcile` and `retry` (a plan
or what failed, carried out as the options say), `zoo_commands`, `data_commands`, `store_commands`
with `status`, `show` and `compare` (of `pairs`), `display` (what a person sees), `doctor`, and
`selftest` (is what is killed and continued what it would have been?) with its `worker` and `jobs`.
"""


class BenchError(ValueError):
    """Something asked of the bench cannot be done; the text says what would be right."""
