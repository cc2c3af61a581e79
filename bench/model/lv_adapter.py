"""The LV-Adapter between neck and heads, and the two ablations of Table 4 in its place.

Each learns prompts for the class names, has CLIP's frozen text encoder make features of them, and
puts another P5 in the place of the neck's: what it would be in words.

Legend: `B` images, `h w` rows and columns of P5, `Q` queries, `M` what they look at, `K` classes of
all tasks, `D` features of CLIP, `T` tokens of C5 behind its attention pool, `C` channels, `W` width
of CLIP's text tokens.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bench.model.layers import xavier_conv
from zoo.clip_text import Packed, TextEncoder, pack

SMALL = 0.02  # the standard deviation of what is drawn at random
FIRST_GAMMA = 1e-4  # how much of what the image says is added to the texts at first


def first_vectors(count: int, width: int) -> Float[Tensor, "_ W"]:
    """What a task's prompts begin with, at random."""
    return torch.randn(count, width) * SMALL


class Prompts(nn.Module):
    """`[SOS] v1 .. vN [class] . [EOS]`: vectors learned for each task, shared by its classes.

    `names` are each task's class names, embedded from the first token to the last; they and the
    first token stay as they are. `vectors` are what each task begins with. Source:
    KaiyangZhou/CoOp, with the class at the end and one context for all classes.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[Float[Tensor, "_ W"]]],
        vectors: Mapping[str, Float[Tensor, "_ W"]],
    ) -> None:
        super().__init__()
        self.first: Tensor
        self.positions: Tensor
        self.mask: Tensor
        self.ends: Tensor
        # Pairs, because a ParameterDict sorts a dict.
        self.vectors = nn.ParameterDict([(task, nn.Parameter(vectors[task])) for task in names])
        self._fix("first", next(iter(names.values()))[0][:1])
        for task, texts in names.items():
            self._fix(f"rest_{task}", torch.cat([text[1:] for text in texts]))
        lengths = [
            (1 + len(vectors[task]), [len(text) - 1 for text in texts])
            for task, texts in names.items()
        ]
        for name, tensor in pack(lengths)._asdict().items():
            self._fix(name, tensor)
        self.kept: tuple[Tensor, Tensor] | None = None

    def _fix(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor that neither learns nor is saved: the text encoder's file has it."""
        self.register_buffer(name, tensor.clone(), persistent=False)

    def forward(self, encoder: TextEncoder) -> Float[Tensor, "K D"]:
        """The features of all classes, task by task, each of length 1 (paper, equation 4).

        Without gradients, as in testing, they are kept as long as the vectors are what they were.
        """
        if torch.is_grad_enabled():
            return self._features(encoder)
        # Compared by value: a fused optimiser leaves the tensors' version counters as they are.
        now = torch.cat(list(self.vectors.values())).clone()
        before = self.kept and self.kept[0]
        if before is None or before.device != now.device or not torch.equal(before, now):
            self.kept = (now, self._features(encoder))
        assert self.kept is not None
        return self.kept[1]

    def _features(self, encoder: TextEncoder) -> Float[Tensor, "K D"]:
        pieces = [
            (self.first, x, self.get_buffer(f"rest_{task}")) for task, x in self.vectors.items()
        ]
        x = torch.cat([part for piece in pieces for part in piece])
        return F.normalize(encoder(x, Packed(self.positions, self.mask, self.ends)), dim=-1)


class DecoderLayer(nn.Module):
    """One pre-norm decoder layer: the queries see each other, then the memory, then a GELU MLP.

    Source: raoyongming/DenseCLIP `TransformerDecoderLayer`, with biases on queries, keys and
    values. Dropout is on what is added, not on the attention.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B Q C"], memory: Float[Tensor, "B M C"]
    ) -> Float[Tensor, "B Q C"]:
        """The queries one layer further."""
        own = self.norm1(x)
        x = x + self.dropout(self.self_attention(own, own, own, need_weights=False)[0])
        own = self.norm2(x)
        x = x + self.dropout(self.cross_attention(own, memory, memory, need_weights=False)[0])
        hidden = self.dropout(F.gelu(self.expand(self.norm3(x))))
        return x + self.dropout(self.reduce(hidden))


class LVAdapter(nn.Module):
    """Language to vision: the cells of P5 look at the texts of all classes (paper, equation 5).

    3,160,320 parameters in three layers at 256 channels, 262,400 in the text's projection, 8,192 in
    each task's prompts.
    """

    def __init__(
        self,
        prompts: Prompts,
        *,
        features: int,
        channels: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(features, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, dropout) for _ in range(layers))
        draw_small(self)
        self.prompts = prompts

    def forward(
        self, p5: Float[Tensor, "B C h w"], encoder: TextEncoder
    ) -> Float[Tensor, "B C h w"]:
        """P5 with what language says about it, in its place."""
        texts = self.project(self.prompts(encoder)).expand(len(p5), -1, -1)
        cells = p5.flatten(2).mT
        for layer in self.layers:
            cells = layer(cells, texts)
        return cells.mT.unflatten(2, p5.shape[-2:])


class TextContext(nn.Module):
    """Vision to language: the texts look at the image, and a little of what they see is added.

    Source: raoyongming/DenseCLIP `ContextDecoder`, post-model prompting.
    """

    def __init__(
        self, *, features: int, channels: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, channels), nn.LayerNorm(channels)
        )
        self.ask = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, channels))
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, dropout) for _ in range(layers))
        self.answer = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, features))
        draw_small(self)
        self.gamma = nn.Parameter(torch.full((features,), FIRST_GAMMA))

    def forward(
        self, texts: Float[Tensor, "K D"], tokens: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B K D"]:
        """The texts as each image has them; `tokens` come from the attention pool."""
        memory = self.see(F.normalize(tokens, dim=-1))
        x = self.ask(texts).expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return texts + self.gamma * self.answer(x)


class ScoreMaps(nn.Module):
    """How like each class's text each cell of P5 is, beside P5 and mixed into its channels.

    With `context` the texts are those that the image makes of them. Neither has DenseCLIP's
    auxiliary loss, which the paper does not mention.
    """

    def __init__(
        self,
        prompts: Prompts,
        context: TextContext | None = None,
        *,
        features: int,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(features, channels)
        self.mix = xavier_conv(channels + classes, channels, 1)
        draw_small(self)
        self.context = context
        self.prompts = prompts

    def forward(
        self,
        p5: Float[Tensor, "B C h w"],
        encoder: TextEncoder,
        tokens: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """P5 with the score maps mixed in, in its place."""
        texts = self.prompts(encoder)
        if self.context is not None:
            assert tokens is not None, "the backbone has no attention pool"
            texts = self.context(texts, tokens)
        return self.mix(torch.cat((p5, self.scores(p5, texts)), dim=1))

    def scores(
        self, p5: Float[Tensor, "B C h w"], texts: Float[Tensor, "*images K D"]
    ) -> Float[Tensor, "B K h w"]:
        """The cosine of every cell with every class's text."""
        cells = F.normalize(p5, dim=1).flatten(2)
        maps = F.normalize(self.project(texts), dim=-1) @ cells
        return maps.unflatten(2, p5.shape[-2:])


def draw_small(module: nn.Module) -> None:
    """Draw every matrix anew from a normal distribution cut at +-2, and set its bias to zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=SMALL)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.MultiheadAttention):
            nn.init.trunc_normal_(part.in_proj_weight, std=SMALL)
