"""Training.

In reading order: `engine` (the stages of a cell, top to bottom), `optim` (the optimiser and its
rate), `speed` (where a step's time goes), `state` (what a resumed run starts from), `stop` (when a
run saves, and when it stops).
"""
