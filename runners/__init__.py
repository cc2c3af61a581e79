"""Where and how a function is run.

A runner takes a function and items, and hands back one outcome for each item. Reading order:

1. `base`: what every runner promises, and what an `Outcome` holds.
2. `here`: the items one after the other, in this process.
3. `cluster`: the items through submitit: as processes of this machine, or as a SLURM array.

Only `cluster` imports submitit. Nothing here knows what the function does.
"""
