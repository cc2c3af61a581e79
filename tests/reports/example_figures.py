"""Hand-made DataFrames for the figures: three checkpoints, both protocols, two seeds."""

import pandas as pd

from tests.reports.example_results import cell

STARTS = {"moco_v2": 50.0, "detco": 40.0, "clip": 60.0}
RISES = {"moco_v2": 6.0, "detco": -3.0, "clip": 0.0}
EPOCHS = {"pf": 6, "paf": 6}


def results():
    """MoCo-v2 gains 6 points under `paf`, DetCo loses 3, CLIP stays; the seeds are 1 apart."""
    return pd.DataFrame([row for row, _, _ in rows()])


def rows():
    for zoo, start in STARTS.items():
        for protocol in ("pf", "paf"):
            for seed in (0, 1):
                score = start + (protocol == "paf") * RISES[zoo] + seed - 0.5
                values = (score, 90.0, score + 20, 95.0, score / 2, score, score / 2)
                row = cell(zoo, protocol, seed, values=values, stand_in=zoo == "clip")
                whose = {n: row[n] for n in ("zoo", "label", "protocol", "seed", "stand_in")}
                yield row, whose, score


def points():
    curves = [("sem", 2.0), ("driv", 1.0), ("det", 8.0), ("sem/mIoU", 30.0)]
    return pd.DataFrame(
        [
            {
                **whose,
                "curve": curve,
                "epoch": epoch,
                "value": top * (epoch if "/" in curve else 6 - epoch) / 6,
                "begins": 1 if whose["protocol"] == "paf" else 0,
            }
            for _, whose, _ in rows()
            for curve, top in curves
            for epoch in range(1, 7)
        ]
    )


def scores():
    names = {"sem": ("road", "pole", "train"), "driv": ("direct",), "det": ("car", "rider")}
    return pd.DataFrame(
        [
            {**whose, "task": task, "name": name, "value": None if name == "train" else score}
            for _, whose, score in rows()
            for task, listed in names.items()
            for name in listed
        ]
    )


def seconds():
    stages = {"pf": {"finetune": 7200.0}, "paf": {"adapt": 600.0, "finetune": 6000.0}}
    return pd.DataFrame(
        [
            {**whose, "stage": stage, "seconds": length}
            for _, whose, _ in rows()
            for stage, length in stages[whose["protocol"]].items()
        ]
    )
