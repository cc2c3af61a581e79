"""The canonical ResNet-50: timm's ResNet in the variants that published weights need.

Shapes: B images, H W pixels. Stages have strides 4, 8, 16 and 32.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxtyping import Float
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from zoo.catalog import Order, Padding, Stride, Triple, Variant

if TYPE_CHECKING:
    from zoo.report import LoadReport

Size = Literal["full", "tiny"]

# Blocks of each stage and their inner widths; a stage puts out four times its width.
BLOCKS: dict[str, tuple[int, int, int, int]] = {"full": (3, 4, 6, 3), "tiny": (1, 1, 1, 1)}
WIDTHS: dict[str, tuple[int, int, int, int]] = {
    "full": (64, 128, 256, 512),
    "tiny": (16, 32, 64, 128),
}


class Normalisation(NamedTuple):
    """How a network wants its pixels: `mean` and `std` are in the channel order `order`."""

    mean: Triple
    std: Triple
    order: Order = "rgb"

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Images of RGB in [0, 1] as the network wants them."""
        ordered = images if self.order == "rgb" else images.flip(1)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in self[:2])
        return (ordered - mean) / std


class ResNet50(nn.Module):
    """The trunk without pooling and classifier, under torchvision's tensor names.

    `channels` are those of C2 to C5. `input` and `report` are there once `zoo.load.load` made it.
    """

    input: Normalisation
    report: "LoadReport"

    def __init__(self, trunk: ResNet) -> None:
        super().__init__()
        self.conv1: nn.Module = trunk.conv1
        self.bn1: nn.Module = trunk.bn1
        self.act1: nn.Module = trunk.act1
        self.maxpool: nn.Module = trunk.maxpool
        self.layer1 = trunk.get_submodule("layer1")
        self.layer2 = trunk.get_submodule("layer2")
        self.layer3 = trunk.get_submodule("layer3")
        self.layer4 = trunk.get_submodule("layer4")
        self.channels = tuple(int(stage["num_chs"]) for stage in trunk.feature_info[1:])

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2, C3, C4 and C5 of images that are already normalised."""
        stem = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        c2 = self.layer1(stem)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return [c2, c3, c4, c5]


def resnet50(
    *, variant: Variant, padding: Padding, stride: Stride = "3x3", size: Size = "full"
) -> ResNet50:
    """A randomly initialised trunk; `stride` is the convolution in which a stage's stride sits.

    "tiny" has one block per stage and a quarter of the width: the same path through the code at
    about half a million parameters. Build under `torch.device("meta")` to skip the
    initialisation.
    """
    if variant == "clip":
        assert (padding, stride) == ("torch", "3x3"), "CLIP's trunk strides by pooling"
        return _clip(size)
    net = _trunk(size)
    if stride == "1x1":
        _stride_in_the_first_convolution(net)
    if padding != "torch":
        net.maxpool = MaxPool2dSame(kernel_size=3, stride=2)
    if padding == "same":
        _pad_strided_convolutions_as_same(net)
    return net


def cut(canonical: Mapping[str, Tensor], net: ResNet50) -> dict[str, Tensor]:
    """The leading slices of the canonical tensors that fill `net`; all of them if it is full."""
    return {
        name: canonical[name][tuple(slice(length) for length in wanted.shape)]
        for name, wanted in net.state_dict().items()
    }


def _trunk(size: Size, **options: Any) -> ResNet50:
    block: Any = Bottleneck  # timm's annotation asks for an instance
    return ResNet50(ResNet(block, BLOCKS[size], num_classes=0, channels=WIDTHS[size], **options))


def _clip(size: Size) -> ResNet50:
    """CLIP's ModifiedResNet (openai/CLIP `model.py`) without its attention pool."""
    net = _trunk(size, stem_type="deep", stem_width=32, avg_down=True, aa_layer=nn.AvgPool2d)
    # timm rounds an odd size up in the shortcut's pool but down in the main path's, and then
    # cannot add the two. CLIP rounds down in both.
    for stage in ("layer2", "layer3", "layer4"):
        net.set_submodule(f"{stage}.0.downsample.0", nn.AvgPool2d(2))
    return net


def _stride_in_the_first_convolution(net: ResNet50) -> None:
    """As in the first ResNets (Caffe, MSRA), before Torch's own moved it to the 3x3."""
    for stage in (net.layer2, net.layer3, net.layer4):
        conv1, conv2 = (stage.get_submodule(f"0.conv{n}") for n in (1, 2))
        assert isinstance(conv1, nn.Conv2d)
        assert isinstance(conv2, nn.Conv2d)
        conv1.stride, conv2.stride = (2, 2), (1, 1)


def _pad_strided_convolutions_as_same(net: ResNet50) -> None:
    # 1x1 convolutions are left: SAME never pads them.
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1 and module.kernel_size[0] > 1:
            net.set_submodule(name, _same(module))


def _same(conv: nn.Conv2d) -> Conv2dSame:
    same = Conv2dSame(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        bias=False,
        device=conv.weight.device,
    )
    same.weight = conv.weight
    return same
