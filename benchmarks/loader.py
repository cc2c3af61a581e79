"""The loader against the plain one, and against decoding alone.

    python -m benchmarks.loader [--data FOLDER]        a minute; no GPU

The folder is one of BDD100K, or else a drawn data set. One thread. A sample is an image of 1280x720
with both its label maps, as it is handed to the device; the plain one has the size of the paper's
smallest scale, 1067x600. Decoding alone is that of the same three files into arrays.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import memory
from bench.data import bdd100k
from bench.data.bdd100k import Frame
from bench.data.demo.draw import Counts, draw
from bench.data.loader import training_batches
from benchmarks.figures import HEADER, Figure, figure, timed
from benchmarks.plain_loader import samples
from protocols.presets import protocol
from protocols.schemes import Zeroing

FRAMES, BATCH, ROUNDS = 16, 16, 15


def figures(data: Path | None = None) -> list[Figure]:
    """Measure them all; without a folder on a drawn data set."""
    if data is not None:
        return of_frames(list(bdd100k.read(data).train.values()), "photographs")
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        draw(Path(folder), 0, Counts(train_100k=32, train_10k=24, shared=24, val_100k=1, val_10k=1))
        return of_frames(list(bdd100k.read(Path(folder)).train.values()), "drawn")


def of_frames(frames: list[Frame], what: str) -> list[Figure]:
    """Measure those that have both masks."""
    torch.set_num_threads(1)
    memory.keep()
    whole = [f for f in frames if isinstance(f.sem, Path) and isinstance(f.driv, Path)][:FRAMES]
    names = {frame.name: frame for frame in whole}
    order = Zeroing(frames=tuple(names), epochs=1, batch=min(BATCH, len(whole)), seed="0")
    # As stored: what is resized is so on the device, and no part of the loader.
    stored = protocol("paf").input.__class__(train_short=(720,), test_short=720, max_long=1280)
    spent = timed(
        {
            "loader": lambda: list(training_batches(order, names, stored, start=0)),
            "plain": lambda: list(samples(whole, (600, 1067))),
            "decoding": lambda: [arrays(frame) for frame in whole],
        },
        ROUNDS,
    )
    count = f"{len(whole)} {what}"
    return [
        figure(f"plain loader / loader: {count}", spent["plain"], spent["loader"], -8),
        figure(f"decoding / loader: {count}", spent["decoding"], spent["loader"], -0.8),
    ]


def arrays(frame: Frame) -> list[np.ndarray]:
    """Decode an image and its masks."""
    files = (frame.image, frame.sem, frame.driv)
    return [np.array(Image.open(file)) for file in files if isinstance(file, Path)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    found = figures(parser.parse_args().data)
    print(HEADER, *(one.row() for one in found), sep="\n")
    sys.exit(not all(one.met for one in found))
