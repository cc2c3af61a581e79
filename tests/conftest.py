"""What all tests share: checked shapes, a repeatable property search, required oracles."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Shapes and dtypes in the signatures of these modules are checked whenever a test calls them.
install_import_hook(["bench.model", "bench.eval", "zoo.resnet50"], "beartype.beartype")

settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")

REQUIRED = {"../shared/data is not here": "REQUIRE_SHARED", "pdflatex is not here": "REQUIRE_TEX"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where the environment promises what the test was skipped for."""
    report = (yield).get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        for reason, variable in REQUIRED.items():
            if reason in report.longrepr[2] and os.environ.get(variable):
                report.outcome = "failed"
                report.longrepr = f"{report.longrepr[2]}, though {variable} is set"
