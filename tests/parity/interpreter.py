"""The parity environment: the original frameworks under an interpreter of their own.

transformers needs the torch that we have, so it lies in a folder of its own (`TRANSFORMERS`) and is
found by the interpreter of the tests, but only in a process that is told to look there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = ROOT / ".venv-parity" / "bin" / "python"
TRANSFORMERS = ROOT / ".venv-parity" / "transformers"

needs_parity = pytest.mark.skipif(not PYTHON.exists(), reason="the parity environment is not here")
needs_transformers = pytest.mark.skipif(
    not TRANSFORMERS.is_dir(), reason="the parity environment is not here"
)


def run(script, *arguments):
    """Run a script of this folder to its end, on the processor; its words are in the failure."""
    _run(PYTHON, script, arguments)


def run_beside_transformers(script, *arguments):
    """Run a script of this folder likewise, with our torch and with transformers."""
    _run(sys.executable, script, arguments, PYTHONPATH=str(TRANSFORMERS), HF_HUB_OFFLINE="1")


def _run(python, script, arguments, **environment):
    done = subprocess.run(
        [python, Path(__file__).with_name(script), *arguments],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
