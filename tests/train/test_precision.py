"""A cell in bf16 is the cell in fp32, but for rounding, and nothing but the network is rounded."""

import pytest
from safetensors.torch import load_file

from bench.run import run_cell
from bench.store import read_json, read_lines
from tests.train.tiny import prepared


@pytest.mark.parametrize(
    ("protocol", "zoo", "heads"),
    [
        ("paf", "moco_v2", "transformer"),
        ("paf", "moco_v2", "conv"),
        ("lv", "clip_rn50", "transformer"),
    ],
)
def test_it_starts_with_nearly_the_same_losses_and_keeps_its_weights_in_fp32(
    streets, new_store, protocol, zoo, heads
):
    store = new_store()
    precise, rounded = (
        prepared(
            store,
            streets,
            protocol=protocol,
            zoo=zoo,
            heads=heads,
            overrides=(f"optim.precision={precision}",),
        )
        for precision in ("fp32", "bf16")
    )
    assert precise != rounded
    first = []
    for home in (precise, rounded):
        run_cell(str(home))
        first.append(read_lines(home / "progress.jsonl")[0]["losses"])
        weights = load_file(home / "model.safetensors").values()
        assert {str(weight.dtype) for weight in weights} <= {"torch.float32", "torch.int64"}
        assert read_json(home / "result.json")["metrics"].keys() >= {"sem/mIoU", "det/mAP"}
    assert first[0] != first[1]
    assert first[1] == pytest.approx(first[0], rel=0.05)
