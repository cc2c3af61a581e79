"""MaskFormer: segmentation as a set of masks, each with one class.

Legend: `B` images, `Q` queries, `K` classes, `L` decoder layers, `C` channels, `H W` pixels of the
padded image, `h w` those of the finest level (a quarter of them).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bench.model.layers import MLP, TransformerDecoderLayer, sine_position, xavier_conv


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        xavier_conv(inputs, outputs, kernel, bias=False), nn.GroupNorm(32, outputs)
    )


class PixelDecoder(nn.Module):
    """A second pyramid of its own, from which each pixel gets the vector that masks are made of."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_conv_norm(channels, width, 1) for _ in range(3))
        self.outputs = nn.ModuleList(_conv_norm(width, width, 3) for _ in range(3))
        self.top = _conv_norm(channels, width, 3)
        self.pixels = xavier_conv(width, width, 3)

    def forward(self, pyramid: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B C h w"]:
        """The pixel vectors at the size of the finest level; `pyramid` is P2..P5."""
        p2, p3, p4, p5 = pyramid
        x = F.relu(self.top(p5))
        for lateral, output, fine in zip(self.laterals, self.outputs, (p4, p3, p2), strict=True):
            coarse = F.interpolate(x, size=fine.shape[-2:], mode="nearest")
            x = F.relu(output(lateral(fine) + coarse))
        return self.pixels(x)


class MaskFormer(nn.Module):
    """The head of one segmentation task: pixel decoder, query decoder, and their products.

    The pyramid has `channels` channels; inside everything is `width` wide (a multiple of 32). P5
    passes a 1x1 convolution only if the two differ. Padding is not masked out: it is seen.
    Source: facebookresearch/MaskFormer with no encoder layers, fed with P2..P5. 12,850,708
    parameters for 19 classes and the default sizes, of which only dropout depends on the mode.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 256,
        width: int = 256,
        queries: int = 100,
        layers: int = 6,
        heads: int = 8,
        ffn: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(channels, width)
        self.project = nn.Identity() if channels == width else xavier_conv(channels, width, 1)
        self.decoder = nn.ModuleList(
            TransformerDecoderLayer(width, heads, ffn, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.classify = nn.Linear(width, classes + 1)
        self.mask = MLP(width, width, width, layers=3)

    def forward(self, pyramid: list[Float[Tensor, "B _ _ _"]]) -> dict[str, Tensor]:
        """What every query says after every decoder layer, from the pyramid P2..P5.

        - `logits` `[L, B, Q, K + 1]`: the class of the query, the last one being "no object";
        - `masks` `[L, B, Q, h, w]`: for each pixel, the logit of belonging to the query. Only those
          of the last layer where they are not made to learn from, `[1, B, Q, h, w]`.
        """
        pixels = self.pixel_decoder(pyramid)
        hidden = self._decode(self.project(pyramid[-1]))
        masked = hidden if self.training else hidden[-1:]
        masks = torch.einsum("lbqc,bchw->lbqhw", self.mask(masked), pixels)
        return {"logits": self.classify(hidden), "masks": masks}

    def _decode(self, top: Float[Tensor, "B C _ _"]) -> Float[Tensor, "L B Q C"]:
        width, rows, columns = top.shape[1:]
        position = sine_position(rows, columns, width, top.device)
        tokens = top.flatten(2).mT
        keys = (top + position).flatten(2).mT
        queries = self.queries[None]
        x = torch.zeros_like(queries).expand(len(top), -1, -1)
        hidden = []
        for layer in self.decoder:
            x = layer(x, queries, keys, tokens)
            hidden.append(self.norm(x))
        return torch.stack(hidden)

    def segment(
        self, outputs: dict[str, Tensor], size_hw: tuple[int, int]
    ) -> Float[Tensor, "B K H W"]:
        """How strongly each pixel is of each class, by the last layer, at the padded `size_hw`.

        Sum over the queries of (probability of the class) x (probability of the pixel): not
        normalised over the classes. The caller crops the padding and resizes.
        """
        classes = outputs["logits"][-1].float().softmax(-1)[..., :-1]
        masks = F.interpolate(outputs["masks"][-1].float(), size=size_hw, mode="bilinear")
        return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())
