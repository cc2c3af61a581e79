"""What each code base's files hold beside the ResNet-50, and what that says about the network.

A layout is a dialect's trunk plus a list of everything else. A file has a layout only if that list
accounts for every tensor; then the layout tells how the network was trained, where names can.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# Keys under which scripts put the network, and words that wrappers put before its names.
WRAPPED = re.compile(
    r"^(?:(?:state_dict|model_state_dict|classy_state_dict|experiment_state|base_model|model"
    r"|module|_orig_mod)\.)+"
)
# What scripts save beside the network, at the same level or around it.
TRAINING = re.compile(
    r"(optimizers?|optimizer_states?|optim|opt|opt_state|lr_schedulers?|schedulers?"
    r"|param_schedulers|amp|scaler|fp16_scaler|grad_scaler|callbacks|loops|message_hub|meta|loss"
    r"|dino_loss|meters|hooks|rng|rng_state|hyper_parameters|args|opts|step|epoch|iteration)(\..*)?"
)


@dataclass(frozen=True)
class Layout:
    """One code base's way of saving a network that is, or contains, a ResNet-50.

    `trunk` matches what stands before the trunk's names, and `drops` {group: pattern} every other
    name, both without the outer keys and wrappers of WRAPPED. A name of the groups in `needs` has
    to be there. `like` is the row of the catalogue whose padding and normalisation all files of
    this layout share; "" where names do not tell, and the user has to.
    """

    dialect: str
    trunk: str
    drops: dict[str, str]
    needs: tuple[str, ...] = ()
    like: str = ""


IMAGENET = "supervised_tv_v1"  # torch's padding, ImageNet's mean and deviation
MOMENTUM = "momentum copy"

LAYOUTS: dict[str, Layout] = {
    # facebookresearch/moco `builder.py`: releases hold the query encoder alone
    "moco": Layout(
        "torchvision",
        r"encoder_q\.",
        {
            "projection": r"encoder_q\.fc\.([02]\.)?(weight|bias)",
            MOMENTUM: r"encoder_k\..+",
            "queue": r"queue(_ptr)?",
        },
        needs=("projection",),
        like="moco_v2_200ep",
    ),
    # facebookresearch/moco-v3 `builder.py`
    "moco_v3": Layout(
        "torchvision",
        r"base_encoder\.",
        {
            "projection": r"base_encoder\.fc\..+",
            MOMENTUM: r"momentum_encoder\..+",
            "predictor": r"predictor\..+",
        },
        needs=("projection",),
        like=IMAGENET,
    ),
    # facebookresearch/simsiam `builder.py`
    "simsiam": Layout(
        "torchvision",
        r"encoder\.",
        {"projection": r"encoder\.fc\.\d\.\w+", "predictor": r"predictor\..+"},
        needs=("projection", "predictor"),
        like=IMAGENET,
    ),
    # facebookresearch/swav `resnet50.py`: SwAV, DeepCluster-v2, SeLa-v2
    "swav": Layout(
        "torchvision",
        r"",
        {
            "projection": r"projection_head\.[013]\.\w+",
            "prototypes": r"prototypes\.(prototypes\d\.)?weight",
        },
        needs=("projection", "prototypes"),
        like="swav_800ep",
    ),
    # zdaxie/PixPro `contrast/models/PixPro.py`
    "pixpro": Layout(
        "torchvision",
        r"encoder\.",
        {
            MOMENTUM: r"(encoder|projector)_k\..+",
            "projection": r"projector\..+",
            "value transform": r"value_transform\.\w+",
        },
        needs=("value transform",),
        like=IMAGENET,
    ),
    # facebookresearch/dino `main_dino.py`
    "dino": Layout(
        "torchvision",
        r"(student|teacher)\.(module\.)*backbone\.",
        {
            "the other network": r"(student|teacher)\.(module\.)*backbone\..+",
            "heads": r"(student|teacher)\.(module\.)*head\..+",
        },
        needs=("heads",),
        like=IMAGENET,
    ),
    # facebookresearch/barlowtwins `main.py`
    "barlowtwins": Layout(
        "torchvision",
        r"backbone\.",
        {"projection": r"projector\.\d\.\w+", "last BatchNorm": r"bn\.\w+"},
        needs=("projection", "last BatchNorm"),
        like=IMAGENET,
    ),
    # facebookresearch/vicreg `main_vicreg.py`
    "vicreg": Layout(
        "torchvision",
        r"backbone\.",
        {"projection": r"projector\.\d\.\w+"},
        needs=("projection",),
        like=IMAGENET,
    ),
    # lightning-bolts `simclr_module.py`
    "bolts": Layout(
        "torchvision",
        r"encoder\.",
        {"classifier": r"encoder\.fc\.\w+", "projection": r"projection\..+"},
        needs=("projection",),
        like=IMAGENET,
    ),
    # facebookresearch/vissl `trunks/resnext.py`
    "vissl": Layout(
        "torchvision",
        r"trunk\.(base_model\.)?_feature_blocks\.",
        {"heads": r"heads\..+"},
        needs=("heads",),
        like=IMAGENET,
    ),
    # OpenSelfSup, mmselfsup, mmpretrain, and DenseCL's own training checkpoints
    "mmselfsup": Layout(
        "torchvision",
        r"backbone\.",
        {
            "the same network again": r"(encoder_q|online_net)\.0\..+",
            "projection": r"((encoder_q|online_net)\.1|neck)\..+",
            "head": r"head\..+",
            MOMENTUM: r"(encoder_k|target_net|momentum_encoder)\..+",
            "queue": r"queue2?(_ptr)?",
        },
        needs=("projection",),
        like=IMAGENET,
    ),
    # lightly-ai/lightly `benchmarks/imagenet/resnet50`
    "lightly": Layout(
        "torchvision",
        r"backbone\.",
        {
            "the other network": r"(teacher|student|key)_(backbone|projection_head)\..+",
            "projection": r"(projection|prediction)_head\..+",
            "classifier": r"online_classifier\..+",
            "prototypes": r"prototypes\..+",
            "criterion": r"criterion\..+",
        },
        needs=("classifier",),
        like=IMAGENET,
    ),
    # vturrisi/solo-learn `methods/base.py`; `encoder.` in its old versions
    "sololearn": Layout(
        "torchvision",
        r"(backbone|encoder)\.",
        {
            MOMENTUM: r"momentum_(backbone|encoder|projector)\..+",
            "classifier": r"classifier\.\w+",
            "projection": r"(projector|predictor)\..+",
        },
        needs=("classifier",),
        like=IMAGENET,
    ),
    # google-research/simclr `resnet.py`, v1 and v2
    "simclr_tf": Layout(
        "simclr_tf",
        r"base_model/",
        {
            "optimizer": r".+/Momentum",
            "moving average": r"ema_model/.+",
            "classifier": r"head_supervised/.+",
            "projection": r"head_contrastive/.+",
            "step": r"global_step",
            "TensorFlow's own": r"_CHECKPOINTABLE_OBJECT_GRAPH|save_counter.*",
        },
        like="simclr_v1_tf",
    ),
    # Separius/SimCLRv2-Pytorch `convert.py`
    "separius": Layout(
        "separius",
        r"(resnet\.)?",
        {"classifier": r"(resnet\.)?fc\.\w+", "projection": r"head\..+"},
        needs=("classifier",),
        like="simclr_v1_tf",
    ),
    # deepmind/deepmind-research `byol`
    "byol_haiku": Layout(
        "haiku",
        r"online_params\..*res_net50/~/",
        {
            "target network": r"target_(params|state)\..+",
            "projection": r"online_(params|state)\.(projector|predictor)/.+",
            "classifier": r"online_params\.classifier\.[wb]",
            "moving-average internals": r"online_state\..+_ema\.(counter|hidden)",
        },
        like="byol_deepmind",
    ),
    # openai/CLIP `model.py`, open_clip
    "clip": Layout(
        "clip",
        r"visual\.",
        {
            "attention pool": r"visual\.attnpool\.(positional_embedding|[kqvc]_proj\.\w+)",
            "text tower": r"transformer\.resblocks\.\d+\.(attn|ln_1|ln_2|mlp)\..+"
            r"|(token_embedding|ln_final)\.\w+"
            r"|positional_embedding|text_projection|logit_scale",
            "sizes": r"input_resolution|context_length|vocab_size",
        },
        needs=("attention pool",),
        like="clip_rn50",
    ),
    # timm `byobnet.py` resnet50_clip
    "timm_clip": Layout(
        "timm_clip",
        r"",
        {"attention pool": r"head\.((q|k|v|proj|qkv)\.\w+|pos_embed)"},
        like="clip_rn50",
    ),
    # detectron2's converters from torchvision, MoCo, DetCo, ...: any network may have gone in
    "detectron2": Layout("detectron2", r"", {"classifier": r"stem\.fc\..+"}),
    # a bare trunk: torchvision, timm, and what most methods publish
    "torchvision": Layout("torchvision", r"", {"classifier": r"fc\.(weight|bias)"}),
}


def bare(name: str) -> str:
    """A name, or a prefix, without the outer keys and wrappers that scripts put around it."""
    return WRAPPED.sub("", name)


def is_training(name: str) -> bool:
    """Is this tensor an optimiser's, a scheduler's, a scaler's, ... rather than a network's?"""
    return bool(TRAINING.fullmatch(bare(name)))


def layout_of(dialect: str, prefix: str, others: Iterable[str]) -> tuple[str, dict[str, int]]:
    """The layout of a file with this trunk and these other names, and the names' groups counted.

    "" where no layout accounts for all of them; the groups are then the names' first parts.
    """
    others = tuple(others)
    rest = [name for name in others if not is_training(name)]
    training = {"training state": len(others) - len(rest)} if len(others) > len(rest) else {}
    for name, layout in LAYOUTS.items():
        if layout.dialect == dialect and re.fullmatch(layout.trunk, bare(prefix)):
            groups = Counter(_group(bare(other), layout) for other in rest)
            if "" not in groups and all(groups[need] for need in layout.needs):
                return name, dict(groups) | training
    return "", dict(Counter(re.split(r"[./]", bare(name))[0] for name in rest)) | training


def _group(name: str, layout: Layout) -> str:
    groups = layout.drops.items()
    return next((group for group, names in groups if re.fullmatch(names, name)), "")
