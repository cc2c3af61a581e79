"""The catalogue: which pretrained ResNet-50s exist, and what no file says about itself.

Names and shapes cannot prove padding, colour range or normalisation, so each row declares them.
Standard library only: `bench --help`, plans and tables read it without torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal


class ZooError(ValueError):
    """A weight file, or a name of one, that the zoo cannot use as asked."""


Variant = Literal["plain", "clip"]
Padding = Literal["torch", "same", "same_pool"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published weight file and what must be known to use it.

    `name` tells the lineage, `short` is what people type, `label` what the paper's tables print.
    `sha256` is as much of the file's hash as its publisher gives, often nothing. `mean` and `std`
    are RGB, for pixels in [0, 1]. `padding` is "torch" (symmetric), "same" (TensorFlow's SAME in
    every strided convolution and pool) or "same_pool" (SAME in the stem's max-pool alone).
    `interpolation` is how the training images were resized to 224 pixels.
    """

    name: str
    short: str
    label: str
    family: str
    layout: str
    file: str
    url: str
    licence: str
    notes: str
    sha256: str = ""
    variant: Variant = "plain"
    padding: Padding = "torch"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bilinear"

    @property
    def semantics(self) -> dict[str, object]:
        """What the tensors need and do not say: it is part of the weights' identity."""
        return {
            "variant": self.variant,
            "padding": self.padding,
            "mean": list(self.mean),
            "std": list(self.std),
        }


CATALOG: tuple[Checkpoint, ...] = (
    Checkpoint(
        name="supervised_tv_v1",
        short="supervised",
        label="Supervised",
        family="classification",
        layout="torchvision_v1_v2",
        file="resnet50-0676ba61.pth",
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        licence="BSD-3-Clause (torchvision); ImageNet's terms apply to the weights",
        notes="torchvision IMAGENET1K_V1, the default of Sparse R-CNN and MaskFormer. "
        "The V2 recipe is another baseline.",
        sha256="0676ba61",
    ),
    Checkpoint(
        name="moco_v1_200ep",
        short="moco_v1",
        label="MoCo-v1",
        family="classification",
        layout="moco_v1",
        file="moco_v1_200ep_pretrain.pth.tar",
        url="https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v1_200ep/"
        "moco_v1_200ep_pretrain.pth.tar",
        licence="MIT (LICENSE) or CC-BY-NC-4.0 (README): the repository contradicts itself",
        notes="facebookresearch/moco; the only official MoCo-v1. The query encoder is used.",
    ),
    Checkpoint(
        name="moco_v2_200ep",
        short="moco_v2",
        label="MoCo-v2",
        family="classification",
        layout="moco_v2",
        file="moco_v2_200ep_pretrain.pth.tar",
        url="https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_200ep/"
        "moco_v2_200ep_pretrain.pth.tar",
        licence="MIT (LICENSE) or CC-BY-NC-4.0 (README): the repository contradicts itself",
        notes="facebookresearch/moco; an 800-epoch file exists too. The query encoder is used.",
    ),
    Checkpoint(
        name="simclr_v1_tf",
        short="simclr",
        label="SimCLR",
        family="classification",
        layout="simclr_v1_tf",
        file="ResNet50_1x.zip",
        url="https://storage.cloud.google.com/simclr-gcs/checkpoints/ResNet50_1x.zip",
        licence="Apache-2.0 (code); the weights have no licence of their own",
        notes="google-research/simclr, a TensorFlow checkpoint. Pixels are not normalised; "
        "only the stem's max-pool pads as SAME.",
        padding="same_pool",
        interpolation="bicubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    Checkpoint(
        name="swav_800ep",
        short="swav",
        label="SwAV",
        family="classification",
        layout="swav",
        file="swav_800ep_pretrain.pth.tar",
        url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
        licence="CC-BY-NC-4.0",
        notes="facebookresearch/swav, the hub's default. Its code normalises red by 0.228.",
        std=(0.228, 0.224, 0.225),
    ),
    Checkpoint(
        name="byol_deepmind",
        short="byol",
        label="BYOL",
        family="classification",
        layout="byol_deepmind_haiku",
        file="pretrain_res50x1.pkl",
        url="https://storage.googleapis.com/deepmind-byol/checkpoints/pretrain_res50x1.pkl",
        licence="CC-BY-NC-4.0 (weights), Apache-2.0 (code)",
        notes="deepmind/deepmind-research, Haiku: SAME padding everywhere; with symmetric padding "
        "it loses about 5 points on ImageNet. The online network is used.",
        padding="same",
        interpolation="bicubic",
    ),
    Checkpoint(
        name="detco_200ep",
        short="detco",
        label="DetCo",
        family="detection",
        layout="detco_pth",
        file="detco_200ep.pth",
        url="https://drive.google.com/file/d/1w8cO8VyTUhyOY55nd-YbPxBXyJnhnDXR",
        licence="BSD-2-Clause for academic use; commercial use: ask the authors",
        notes="xieenze/DetCo; a 200ep-AA file exists too.",
    ),
    Checkpoint(
        name="densecl_imagenet_200ep",
        short="densecl",
        label="DenseCL",
        family="segmentation",
        layout="densecl",
        file="densecl_r50_imagenet_200ep.pth",
        url="https://huggingface.co/xinlongwang/DenseCL",
        licence="GPL-3.0 text with an Apache-2.0 notice; the weights are not mentioned",
        notes="WXinlong/DenseCL; the only ResNet-50 of its authors trained on ImageNet.",
    ),
    Checkpoint(
        name="clip_rn50",
        short="clip",
        label="CLIP",
        family="vision-language",
        layout="clip_rn50_openai",
        file="RN50.pt",
        url="https://openaipublic.azureedge.net/clip/models/"
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
        licence="MIT",
        notes="openai/CLIP: three-convolution stem, average-pool downsampling; without the "
        "attention pool and the text tower.",
        sha256="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        variant="clip",
        interpolation="bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
)

FAMILIES = tuple(dict.fromkeys(row.family for row in CATALOG))


def find(name: str) -> Checkpoint:
    """The row with this short or full name; ZooError with a suggestion otherwise."""
    for row in CATALOG:
        if name in (row.short, row.name):
            return row
    names = [row.short for row in CATALOG] + [row.name for row in CATALOG]
    close = get_close_matches(name, names, n=1)
    suggestion = f" Did you mean '{close[0]}'?" if close else ""
    known = ", ".join(sorted(row.short for row in CATALOG))
    raise ZooError(f"Unknown checkpoint '{name}'.{suggestion} Known: {known} (bench zoo ls).")


def select(patterns: Iterable[str]) -> tuple[Checkpoint, ...]:
    """The rows that these patterns mean, each once, in the catalogue's order.

    A pattern is `all` (the paper's nine), `everything` (every row), a short or full name, a glob
    such as `moco*`, or a family; a leading `!` excludes. Exclusions alone start from `all`.
    ZooError for a pattern that means nothing, and when nothing is left.
    """
    patterns = tuple(patterns)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["all"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    kept = {row for pattern in wanted for row in _rows(pattern)}
    kept -= {row for pattern in unwanted for row in _rows(pattern)}
    if not kept:
        raise ZooError(f"{' '.join(patterns)} leaves no checkpoint. Exclude fewer (bench zoo ls).")
    return tuple(row for row in CATALOG if row in kept)


def _rows(pattern: str) -> tuple[Checkpoint, ...]:
    if pattern in ("all", "everything"):
        return CATALOG
    if pattern in FAMILIES:
        return tuple(row for row in CATALOG if row.family == pattern)
    if any(character in pattern for character in "*?["):
        rows = [r for r in CATALOG if fnmatchcase(r.short, pattern) or fnmatchcase(r.name, pattern)]
        if not rows:
            raise ZooError(f"No checkpoint matches '{pattern}'. See bench zoo ls.")
        return tuple(rows)
    return (find(pattern),)
