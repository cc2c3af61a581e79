"""CLIP's text encoder: open_clip's modules for RN50 with QuickGELU, and how prompts are packed.

Legend: `T` tokens of all prompts together, `K` prompts, `W` width, `D` features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from jaxtyping import Float, Int64
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from torch import Tensor, nn

from zoo.catalog import Checkpoint, ZooError
from zoo.clip_parts import read_part
from zoo.resnet50 import Size

NETWORK = "RN50"
# The leading slices of it for tests: two layers, one head.
TINY = {"width": 64, "layers": 2, "heads": 1, "output_dim": 128}


class Packed(NamedTuple):
    """Where tokens stand when several prompts lie behind one another in one sequence.

    `positions` is each token's place in its own prompt, `mask` 0 where a row may look and -inf
    where not, `ends` where the prompts' last tokens are.
    """

    positions: Int64[Tensor, " T"]
    mask: Float[Tensor, "T T"]
    ends: Int64[Tensor, " K"]


def pack(groups: Sequence[tuple[int, Sequence[int]]]) -> Packed:
    """Lay prompts behind one another; those of a group share their beginning, which is there once.

    Each group gives the number of tokens of the beginning, and of the rest of each prompt. A token
    sees what comes before it in its own prompt, as CLIP's causal mask has it, so that a prompt's
    feature does not depend on the others, nor on how long a context it could have had.
    """
    group, prompt, positions, ends = [], [], [], []
    for number, (shared, lengths) in enumerate(groups):
        group += [number] * shared
        prompt += [-1] * shared
        positions += range(shared)
        for length in lengths:
            group += [number] * length
            prompt += [len(ends)] * length
            positions += range(shared, shared + length)
            ends.append(len(positions) - 1)
    order, of_group, of_prompt = torch.arange(len(group)), torch.tensor(group), torch.tensor(prompt)
    seen = (order[:, None] >= order) & (of_group[:, None] == of_group)
    seen &= (of_prompt == -1) | (of_prompt[:, None] == of_prompt)
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    return Packed(torch.tensor(positions), mask, torch.tensor(ends))


class TextEncoder(nn.Module):
    """CLIP's text transformer from embedded tokens on. It never learns; gradients pass through it.

    `width` is that of a token, `features` that of what comes out.
    """

    def __init__(self, size: Size = "full") -> None:
        super().__init__()
        tower = _tower(size)
        self.transformer = tower.transformer
        self.positional_embedding = tower.positional_embedding
        self.ln_final = tower.ln_final
        self.text_projection: Tensor = tower.text_projection  # pyright: ignore
        self.width, self.features = self.text_projection.shape

    def forward(self, x: Float[Tensor, "T W"], packed: Packed) -> Float[Tensor, "K D"]:
        """The features of all prompts, not normalised, from the vectors of their tokens."""
        x = x + self.positional_embedding[packed.positions]
        x = self.transformer(x[None], attn_mask=packed.mask)[0]
        return self.ln_final(x[packed.ends]) @ self.text_projection


class TextTower(NamedTuple):
    """A checkpoint's text encoder and the vectors of all tokens that it knows."""

    encoder: TextEncoder
    token_embedding: Float[Tensor, "_ W"]

    def embed(self, text: str) -> Float[Tensor, "T W"]:
        """The vectors of a text's tokens, the first and the last token of CLIP's among them."""
        return self.token_embedding[tokens(text)].clone()


def tokens(text: str) -> Int64[Tensor, " T"]:
    """What CLIP's tokenizer makes of a text, from the start token to the end token."""
    (ids,) = open_clip.tokenize(text)
    return ids[: int(ids.argmax()) + 1]  # the end token has the highest id


def load_text(path: Path, *, size: Size = "full") -> TextTower:
    """The text tower in a canonical file that `zoo.clip_parts` made, in eval mode and frozen.

    "tiny" takes the leading slices of its tensors. ZooError if it was not trained with QuickGELU.
    """
    tensors, row = read_part(path, "text")
    check_activation(row)
    del tensors["logit_scale"]  # the scale of the contrast with images
    with torch.device("meta"):
        encoder = TextEncoder(size)
    wanted = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    own = {name: _cut(name, tensors.pop(name), shape) for name, shape in wanted.items()}
    encoder.load_state_dict(own, assign=True)
    return TextTower(
        encoder.requires_grad_(False).eval(), tensors["token_embedding.weight"][:, : encoder.width]
    )


def check_activation(row: Checkpoint) -> None:
    """ZooError if open_clip knows this file as one that was trained with plain GELU, or not at all.

    This is what open_clip warns of as a "QuickGELU mismatch", from the same list of its own.
    """
    published = [
        open_clip.get_pretrained_cfg(NETWORK, tag)
        for tag in open_clip.list_pretrained_tags_by_model(NETWORK)
    ]
    known = next((one for one in published if one["url"] == row.url), None)
    if known is None or not known.get("quick_gelu", False):
        says = "does not know" if known is None else "says was trained with GELU, not QuickGELU,"
        raise ZooError(
            f"open_clip {says} {row.name}'s file ({row.url or 'a file of your own'}); its text "
            "features would be wrong. Name another: --set adapter.text=clip_rn50."
        )


def _tower(size: Size) -> TextTransformer:
    config = open_clip.get_model_config(NETWORK)
    assert config is not None
    text: dict[str, Any] = {**config["text_cfg"], "output_dim": config["embed_dim"]}
    if size == "tiny":
        text |= TINY
    return TextTransformer(**text, act_layer=QuickGELU, norm_layer=LayerNorm)


def _cut(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading slice of a tensor; of queries, keys and values one each."""
    parts = 3 if ".in_proj_" in name else 1
    inner = (shape[0] // parts, *shape[1:])
    sliced = [one[tuple(map(slice, inner))] for one in tensor.chunk(parts)]
    return torch.cat(sliced).contiguous()
