"""Where and how a function is run.

A runner takes a function and items, and hands back one outcome for each item. Reading order:

1. `base`: what every runner promises, and what an `Outcome` holds.
2. `here`: the items one after the other, in this process.
3. `resumable`: what is submitted to a worker, and what a worker does when it is asked to stop.
4. `cluster`: the items through submitit as processes of this machine; SLURM's options and script.
5. `slurm`: the items through submitit as SLURM arrays, which outlive the process that submits them.

The last three import submitit. Nothing here knows what the function does.
"""
