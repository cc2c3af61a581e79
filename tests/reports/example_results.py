"""A hand-made DataFrame of cells: every state, one and two seeds, stand-ins, every family."""

import math

import pandas as pd

from reports.tables import METRICS, Reference

REFERENCES = {
    "Best constant prediction": Reference(
        values={"sem/mIoU": 3.1, "driv/mIoU": 24.0},
        keys=dict.fromkeys(("sem/mIoU", "driv/mIoU"), "byol-pf-s0"),
    )
}
CHECKPOINTS = {
    "moco_v2": ("MoCo-v2", "classification"),
    "byol": ("BYOL", "classification"),
    "detco": ("DetCo", "detection"),
    "densecl": ("DenseCL", "segmentation"),
    "clip": ("CLIP", "vision-language"),
}


def cell(
    zoo,
    protocol,
    seed=0,
    state="done",
    values=(),
    error="",
    stand_in=False,
    tasks=("det", "sem", "driv"),
):
    label, family = CHECKPOINTS[zoo]
    return {
        "zoo": zoo,
        "label": label,
        "family": family,
        "protocol": protocol,
        "setting": "disjoint-normal",
        "scheme": "self-training",
        "tasks": tasks,
        "seed": seed,
        "state": state,
        "error": error,
        "stand_in": stand_in,
        "key": f"{zoo}-{protocol}-s{seed}",
        **dict.fromkeys(METRICS, math.nan),
        **dict(zip(METRICS, values, strict=bool(values))),
    }


def measured():
    """The same, with what training took, and an interval where a cell is known image by image."""
    frame = results()
    done = frame["state"] == "done"
    minutes = {"pf": {"finetune": 400.0}, "paf": {"adapt": 30.0, "finetune": 340.0}}
    frame["hours"] = [
        {stage: (value + 6 * seed) / 60 for stage, value in minutes[protocol].items()}
        if is_done
        else None
        for is_done, protocol, seed in zip(done, frame["protocol"], frame["seed"], strict=True)
    ]
    frame["device"] = ["NVIDIA H200" if is_done else None for is_done in done]
    frame["gpus"] = 1
    for metric in METRICS:
        known = frame["zoo"].isin(["byol", "detco"])
        frame[f"{metric} low"] = (frame[metric] - 1.5).where(known)
        frame[f"{metric} high"] = (frame[metric] + 1.5).where(known)
    return frame


def results():
    return pd.DataFrame(
        [
            cell("clip", "paf", 0, "running"),
            cell("moco_v2", "paf", 0, values=(61.0, 93.4, 83.7, 96.9, 26.1, 50.4, 23.4)),
            cell("moco_v2", "paf", 1, values=(61.4, 93.5, 83.9, 96.9, 26.3, 50.5, 23.5)),
            cell("moco_v2", "pf", 0, values=(10.3, 19.8, 73.4, 93.5, 26.0, 50.1, 23.2)),
            cell("moco_v2", "pf", 1, "failed", error="Loss is nan in stage_2\n(sem nan, det 3.1)"),
            cell("byol", "pf", values=(59.2, 90.2, 75.6, 93.9, 25.9, 49.8, 23.4)),
            cell("byol", "paf", 0, "failed", error="Out of memory: 24 GiB & 100 % used"),
            cell("detco", "pf", values=(38.1, 58.5, 83.2, 96.7, 25.9, 49.7, 22.9), stand_in=True),
            cell("detco", "paf", 0, "pending"),
            cell("densecl", "paf", values=(*(math.nan,) * 4, 26.3, 50.3, 23.7), tasks=("det",)),
        ]
    )
