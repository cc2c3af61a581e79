"""Training.

In reading order: `engine` (the stages of a cell, top to bottom), `optim` (the optimiser and its
rate), `state` (what a resumed run starts from), `stop` (when a run saves, and when it stops).
"""
