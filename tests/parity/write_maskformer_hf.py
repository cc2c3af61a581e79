"""Write what Hugging Face transformers' MaskFormer computes, with given weights on given maps.

    python write_maskformer_hf.py FOLDER

In FOLDER there are:

- `sizes.json`          width, queries, layers, heads, ffn, classes
- `weights.safetensors` the weights by transformers' names
- `batches.safetensors` for each batch `<number>.p2` to `<number>.p5`, and `<number>.labels`: class
  ids, 255 for pixels of no class

the script leaves `answers.safetensors` there: for each batch `<number>.logits`, `<number>.masks`
and `<number>.terms` (weighted: classes, masks, Dice), each with the decoder's layers in front.

A layer's predictions are those of the whole network with the decoder cut off behind that layer.
transformers has predictions for every layer too (`use_auxiliary_loss`), but not those of
facebookresearch/MaskFormer, which reads a layer's result normalised and passes it on as it was:
transformers reads it as it was, and reads the decoder's input too; or else (`auxiliary_loss` of the
decoder) it passes on what was normalised. All else is theirs: the network, the matching, the losses
and their weights; they agree with ours in every definition, with `mask_ignore: maskformer`.
Dropout is off: in training theirs has none between the two linear layers of a decoder layer.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetConfig,
)
from transformers.modeling_outputs import BackboneOutput

TERMS = ("loss_cross_entropy", "loss_mask", "loss_dice")
IGNORE = 255


class GivenMaps(nn.Module):
    """A backbone that has seen the images already."""

    maps: tuple[torch.Tensor, ...]

    def forward(self, images):
        return BackboneOutput(feature_maps=self.maps)


def network(sizes):
    """Their network in its published configuration: loss weights 1, 20, 1, no object 0.1."""
    config = MaskFormerConfig(
        num_labels=sizes["classes"],
        fpn_feature_size=sizes["width"],
        mask_feature_size=sizes["width"],
        backbone_config=ResNetConfig(
            hidden_sizes=[sizes["width"]] * 4,
            depths=[1] * 4,
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=DetrConfig(
            d_model=sizes["width"],
            num_queries=sizes["queries"],
            decoder_layers=sizes["layers"],
            decoder_attention_heads=sizes["heads"],
            decoder_ffn_dim=sizes["ffn"],
        ),
    )
    model = MaskFormerForInstanceSegmentation(config).eval()
    model.model.pixel_level_module.encoder = GivenMaps()
    return model


def fill(model, weights):
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["criterion.empty_weight"], [])


def targets(labels):
    """One binary mask for each class that is there, and the classes."""
    classes = labels.unique()
    classes = classes[classes != IGNORE]
    return (labels == classes[:, None, None]).float(), classes.long()


def answer(model, maps, labels):
    masks, classes = zip(*map(targets, labels), strict=True)
    model.model.pixel_level_module.encoder.maps = maps
    decoder = model.model.transformer_module.decoder
    whole, found = decoder.layers, []
    for depth in range(1, len(whole) + 1):
        decoder.layers = whole[:depth]
        out = model(torch.zeros(len(labels), 3, *labels.shape[1:]))
        logits, predicted = out.class_queries_logits, out.masks_queries_logits
        terms = model.get_loss_dict(predicted, logits, list(masks), list(classes), [])
        found.append((logits, predicted, torch.stack([terms[name] for name in TERMS])))
    decoder.layers = whole
    return dict(
        zip(("logits", "masks", "terms"), map(torch.stack, zip(*found, strict=True)), strict=True)
    )


@torch.inference_mode()
def write(folder):
    model = network(json.loads((folder / "sizes.json").read_text()))
    fill(model, load_file(folder / "weights.safetensors"))
    batches = load_file(folder / "batches.safetensors")
    answers = {}
    for number in range(len(batches) // 5):
        maps = tuple(batches[f"{number}.{level}"] for level in ("p2", "p3", "p4", "p5"))
        found = answer(model, maps, batches[f"{number}.labels"])
        answers |= {f"{number}.{name}": x.contiguous() for name, x in found.items()}
    save_file(answers, folder / "answers.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
