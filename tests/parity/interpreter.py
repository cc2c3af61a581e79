"""The parity environment: the original frameworks under an interpreter of their own."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = ROOT / ".venv-parity" / "bin" / "python"

needs_parity = pytest.mark.skipif(not PYTHON.exists(), reason="the parity environment is not here")


def run(script, *arguments):
    """Run a script of this folder to its end, on the processor; its words are in the failure."""
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name(script), *arguments],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
