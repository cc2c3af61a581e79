"""The recorded predictions and scores of independent software, where this machine has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ORACLES = DATA / "oracles"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
