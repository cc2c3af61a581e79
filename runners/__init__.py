"""Where and how a function is run.

A runner takes a function and items, and hands back one outcome for each item. Reading order:

1. `base`: what every runner promises, and what an `Outcome` holds.
2. `here`: the items one after the other, in this process.
3. `local`: the items as processes of this machine.
4. `resumable`: what is submitted to SLURM, and what a job does when it is asked to stop.
5. `cluster`: what a SLURM array asks for, and the script that sbatch would get.
6. `slurm`: the items through submitit as SLURM arrays, which outlive the process that submits them.

The last three import submitit. Nothing here knows what the function does.
"""
