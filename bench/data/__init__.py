"""Frames and their labels, from the folder to the batch.

In reading order: `classes` (what the tasks predict), `bdd100k` (the folder, read into frames),
`packagings` (where each release has what), `boxes` (their JSON), `survey` (every file looked into),
`probe` (one of them), `index` (what was found, kept), `sample` (one frame decoded; a batch of
them), `transforms` (sizes and padding), `loader` (batches ahead of time, in threads), `demo` (a
drawn data set in the same layout).
"""

from bench import BenchError


class DataError(BenchError):
    """A data folder is not what it should be: something is missing, damaged or of another kind."""
