"""The loss of Semantic FPN: cross-entropy of every labelled pixel, at the size of the labels.

Legend: `B` images, `H W` pixels of the padded image.
Source: detectron2, `SemSegFPNHead.losses`.
"""

import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from bench import dist
from bench.data.classes import IGNORE
from bench.model.semantic_fpn import enlarged


class SemanticFPNLoss:
    """Cross-entropy, averaged over the pixels of the whole batch that carry a class."""

    def __call__(
        self,
        outputs: dict[str, Tensor],
        labels: UInt8[Tensor, "B H W"],
        labelled: Bool[Tensor, " B"],
    ) -> dict[str, Tensor]:
        """The one term `ce`.

        `outputs` as `SemanticFPN` returns them; `labels` are class ids or 255. An image that is not
        `labelled` is left out; with no pixel left the term is zero, and still part of the graph.
        """
        targets = labels.long().masked_fill(~labelled[:, None, None], IGNORE)
        height, width = labels.shape[1:]
        logits = enlarged(outputs, (height, width))
        count = dist.over_all((targets != IGNORE).sum()).clamp(min=1)
        total = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        return {"ce": total / count}
