"""The catalogue: rows, names, selections, and the user's own rows."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import open_clip.pretrained
import pytest
import torch
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import get_pretrained_cfg
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50

from zoo import manifests
from zoo.catalog import (
    FAMILIES,
    Checkpoint,
    ZooError,
    catalog,
    default_folder,
    find,
    known,
    own,
    own_file,
    select,
)
from zoo.layouts import LAYOUTS

# The contract of the command: what a short name means, in the order of the paper's Table 2.
SHORT = {
    "supervised": ("supervised_tv_v1", "resnet50-0676ba61.pth"),
    "moco_v1": ("moco_v1_200ep", "moco_v1_200ep_pretrain.pth.tar"),
    "moco_v2": ("moco_v2_200ep", "moco_v2_200ep_pretrain.pth.tar"),
    "simclr": ("simclr_v1_tf", "ResNet50_1x.zip"),
    "swav": ("swav_800ep", "swav_800ep_pretrain.pth.tar"),
    "byol": ("byol_deepmind", "pretrain_res50x1.pkl"),
    "detco": ("detco_200ep", "detco_200ep.pth"),
    "densecl": ("densecl_imagenet_200ep", "densecl_r50_imagenet_200ep.pth"),
    "clip": ("clip_rn50", "RN50.pt"),
}
NINE = list(SHORT)
DENSECL = "https://huggingface.co/xinlongwang/DenseCL"

# By lineage: {names: what differs from torchvision's network and ImageNet's normalisation}.
TF_PIXELS = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
LINEAGE = {
    ("simclr_v1_tf", "simclr_v2_tf", "simclr_tonylins", "simclr_v2_separius"): {
        "padding": "same_pool",
        **TF_PIXELS,
    },
    ("byol_deepmind", "byol_convert"): {"padding": "same"},
    tuple(r.name for r in catalog() if "/deepcluster/" in r.url): {"std": [0.228, 0.224, 0.225]},
    tuple(r.name for r in catalog() if r.method == "CLIP"): {
        "variant": "clip",
        "mean": list(OPENAI_CLIP_MEAN),
        "std": list(OPENAI_CLIP_STD),
    },
}

MINE = """
[mine]
label = "Ours"
method = "MoCo-v2"
family = "own"
layout = "moco"
file = "/data/mine.pth.tar"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Each test has a zoo folder of its own: whoever runs them can have rows too."""
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path))
    return tmp_path


def write_own(text: str) -> None:
    own_file().write_text(text, "utf-8")


def names(*patterns: str) -> list[str]:
    return [row.short or row.name for row in select(patterns)]


def row(**values: object) -> Checkpoint:
    needed = {"label": "A", "method": "B", "family": "own", "layout": "moco", "file": "a.pth"}
    return Checkpoint.from_dict({"name": "a", **needed, **values})


def test_the_short_names_mean_the_files_of_the_contract_in_the_paper_s_order():
    short = {row.short: (row.name, row.file) for row in catalog() if row.short}
    assert list(short.items()) == list(SHORT.items())


def test_names_labels_and_files_are_unique_and_so_are_addresses_that_are_no_pages():
    for field, shared in (("name", []), ("label", []), ("file", []), ("url", [DENSECL])):
        counts = Counter(getattr(row, field) for row in catalog())
        assert [value for value, count in counts.items() if count > 1] == shared, field
    assert not {row.name for row in catalog()} & set(SHORT)


@pytest.mark.parametrize("row", catalog(), ids=lambda row: row.name)
def test_every_row_says_where_its_file_is_published_and_what_is_in_it(row):
    assert urlsplit(row.url).scheme == "https"
    assert row.licence
    assert row.notes.endswith(".")
    assert "  " not in row.notes
    assert row.layout in LAYOUTS
    assert Path(manifests.__file__).with_name(f"{row.manifest}.json").is_file()
    assert row.family in FAMILIES
    assert row.file == Path(row.file).name


@pytest.mark.parametrize("row", catalog(), ids=lambda row: row.name)
def test_a_file_has_its_published_name_or_that_of_its_row_with_the_published_one_noted(row):
    published = unquote(Path(urlsplit(row.url).path).name)
    if Path(published).suffix:  # the others are pages
        named_by_row = row.file.startswith(f"{row.name}.")
        assert published in row.notes if named_by_row else row.file == published


def test_torchvision_timm_and_open_clip_publish_at_the_same_addresses():
    assert find("supervised_tv_v1").url == ResNet50_Weights.IMAGENET1K_V1.url
    assert find("supervised_tv_v2").url == ResNet50_Weights.IMAGENET1K_V2.url
    on_hub = {"supervised_timm_a1": "resnet50.a1_in1k", "clip_rn50_timm": "resnet50_clip.openai"}
    for name, model in on_hub.items():
        repository = get_pretrained_cfg(model).hf_hub_id
        assert (
            find(name).url == f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
        )
    tags = {"clip_rn50": "openai"} | {f"clip_rn50_openclip_{t}": t for t in ("yfcc15m", "cc12m")}
    for name, tag in tags.items():
        assert find(name).url == open_clip.pretrained.get_pretrained_url("RN50", tag)


def test_a_known_hash_stands_in_the_address_of_its_file():
    hashed = [row for row in catalog() if row.sha256]
    assert len(hashed) == 6
    assert all(row.sha256 in row.url for row in hashed)


@pytest.mark.parametrize("row", catalog(), ids=lambda row: row.name)
def test_a_row_declares_what_its_lineage_needs(row):
    expected = {
        "variant": "plain",
        "padding": "torch",
        "stride": "3x3",
        "order": "rgb",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    for lineage, differs in LINEAGE.items():
        expected |= differs if row.name in lineage else {}
    assert row.semantics == expected


def test_each_lineage_that_differs_has_its_rows():
    assert [len(lineage) for lineage in LINEAGE] == [4, 2, 12, 4]


def test_methods_beyond_the_paper_have_rows():
    beyond = {"MoCo-v3", "DINO", "Barlow Twins", "VICReg", "SimSiam", "DeepCluster-v2", "PixPro"}
    assert beyond <= {row.method for row in catalog()}


def test_simsiam_s_manifest_holds_the_tensors_of_its_modules():
    def block(width, out):
        return [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()]

    with torch.device("meta"):
        encoder = resnet50(num_classes=2048)
        last = [encoder.fc, nn.BatchNorm1d(2048, affine=False)]
        encoder.fc = nn.Sequential(*block(2048, 2048), *block(2048, 2048), *last)
        predictor = nn.Sequential(*block(2048, 512), nn.Linear(512, 2048))
    modules = nn.ModuleDict({"encoder": encoder, "predictor": predictor})
    expected = {
        f"module.{name}": (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in modules.state_dict().items()
    }
    assert manifests.manifest("simsiam").tensors == expected


def test_importing_the_catalogue_reads_nothing_and_reading_it_needs_no_torch():
    code = (
        "import sys; from zoo.catalog import catalog; before = catalog.cache_info().currsize; "
        "print(before, len(catalog()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(len(catalog())), "False"]


def test_find_takes_short_and_full_names_and_the_user_s_own():
    write_own(MINE)
    assert find("moco_v2") is find("moco_v2_200ep")
    assert find("mine").label == "Ours"


def test_an_unknown_name_is_answered_with_the_nearest_one_and_the_paper_s_nine():
    with pytest.raises(ZooError) as error:
        find("densecll")
    assert str(error.value) == (
        "Unknown checkpoint 'densecll'. Did you mean 'densecl'? Known: byol, clip, densecl, detco, "
        f"moco_v1, moco_v2, simclr, supervised, swav and {len(catalog()) - 9} more (bench zoo ls)."
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("moco_v3", r"Did you mean 'moco_v3_100ep' or 'moco_v3_300ep' or 'moco_v3_1000ep'\? "),
        ("biol", r"Did you mean 'byol'\? "),
        ("minne", r"Did you mean 'mine'\? "),
        ("xyzzy", r"^Unknown checkpoint 'xyzzy'\. Known: "),
        ("", r"^Unknown checkpoint ''\. Known: "),
    ],
)
def test_suggestions_are_longer_names_then_similar_ones_then_none(name, said):
    write_own(MINE)
    with pytest.raises(ZooError, match=said):
        find(name)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("all",), NINE),
        (("clip", "moco_v2", "moco_v2_200ep"), ["moco_v2", "clip"]),
        (("moco_v?",), ["moco_v1", "moco_v2"]),
        (("*_deepmind", "pixpro*"), ["byol", "pixpro_100ep", "pixpro_400ep"]),
        (("detection", "segmentation"), ["detco", "densecl"]),
        (("vision-language",), ["clip"]),
        (("classification", "!moco*", "!byol"), ["supervised", "simclr", "swav"]),
        (("!classification",), ["detco", "densecl", "clip"]),
        (("all", "vicreg", "!densecl_imagenet_200ep"), [*NINE[:7], "clip", "vicreg"]),
    ],
)
def test_select_gives_each_row_once_in_the_catalogue_s_order(patterns, expected):
    assert names(*patterns) == expected


def test_everything_is_every_row_and_the_user_s_own_come_last():
    assert select(["everything"]) == catalog()
    write_own(MINE)
    assert select(["everything"]) == known() == (*catalog(), find("mine"))
    assert names("mine", "clip") == ["clip", "mine"]
    assert names("own") == names("m?ne") == ["mine"]
    assert "mine" not in names("everything", "!own")
    assert "mine" not in names("all")


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("xyz*",), "No checkpoint matches 'xyz\\*'"),
        (("clop",), "Did you mean 'clip'"),
        (("all", "!biol"), "Did you mean 'byol'"),
        (("clip", "!clip"), "leaves no checkpoint"),
        (("own",), r"zoo\.toml has no rows yet: bench zoo add FILE makes one"),
        (("",), "Unknown checkpoint ''"),
    ],
)
def test_select_refuses_what_means_nothing(patterns, said):
    with pytest.raises(ZooError, match=said):
        select(patterns)


@pytest.mark.parametrize(
    "pattern",
    [
        "a/b.weights",
        "./mine",
        "~/mine",
        "..",
        r"c:\mine",
        "mine.pth",
        "x.pth.tar",
        "X.PKL",
        "a.zip",
    ],
)
def test_a_pattern_that_looks_like_a_path_is_adopted(pattern, monkeypatch):
    adopted = row(name="adopted")
    seen = []
    monkeypatch.setitem(
        sys.modules, "zoo.own", SimpleNamespace(adopt=lambda path: seen.append(path) or adopted)
    )
    assert select([pattern, "clip"]) == (find("clip"), adopted)
    assert seen == [Path(pattern).expanduser()]


def test_an_adopted_file_that_is_a_row_of_the_user_s_is_that_row(monkeypatch):
    write_own(MINE)
    monkeypatch.setitem(sys.modules, "zoo.own", SimpleNamespace(adopt=lambda path: find("mine")))
    assert names("/data/mine.pth.tar", "own", "clip") == ["clip", "mine"]
    assert names("own", "clip", "!/data/mine.pth.tar") == ["clip"]


def test_the_default_folder_is_the_environment_s_or_in_the_cache(folder, monkeypatch):
    assert own_file() == folder / "zoo.toml"
    monkeypatch.delenv("BENCH_ZOO")
    assert default_folder() == Path.home() / ".cache/lv-adapter-bench/zoo"


def test_no_file_means_no_rows_of_one_s_own_and_a_changed_file_is_read_again():
    assert own() == ()
    write_own(MINE)
    assert [row.name for row in own()] == ["mine"]
    write_own(MINE + "[other]\n" + MINE.split("]", 1)[1].replace("mine.pth", "other.pth"))
    assert [row.file for row in own()] == ["/data/mine.pth.tar", "/data/other.pth.tar"]


def test_a_row_s_lists_become_tuples_of_floats_and_defaults_are_torchvision_s():
    write_own(MINE + 'padding = "same"\norder = "bgr"\nmean = [0, 0, 0]\nstd = [1, 0.5, 1]\n')
    (mine,) = own()
    assert mine == row(
        name="mine", label="Ours", method="MoCo-v2", layout="moco", file="/data/mine.pth.tar",
        padding="same", order="bgr", mean=(0.0, 0.0, 0.0), std=(1.0, 0.5, 1.0),
    )  # fmt: skip
    assert [type(x) for x in (*mine.mean, *mine.std)] == [float] * 6
    assert (mine.variant, mine.stride, mine.interpolation) == ("plain", "3x3", "bilinear")
    assert hash(mine) == hash(own()[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mine\n", r"is not valid TOML: .*line 1.*Correct it or move it away\.$"),
        (MINE + MINE, r"is not valid TOML: .*mine.*twice"),
        ("x = 1\n", r"'x' stands outside of a table"),
        (
            MINE + 'paddin = "same"\n',
            r"row 'mine': unknown key 'paddin'\. Did you mean 'padding'\?",
        ),
        (MINE + 'name = "mine"\n', r"row 'mine': unknown key 'name'"),
        (MINE.replace("[mine]", "[clip]"), r"row 'clip': 'clip' is the name of a built-in row"),
        (MINE + 'short = "vicreg"\n', r"row 'mine': 'vicreg' is the name of a built-in row"),
        (MINE.replace("[mine]", "[everything]"), r"'everything' is a word of --zoo"),
        (
            MINE + 'short = "m"\n' + MINE.replace("[mine]", "[m]"),
            r"row 'm': 'm' is the name of another row\. Rename it\.$",
        ),
    ],
)
def test_a_file_of_rows_that_is_wrong_is_refused_in_one_line_with_its_path(text, said):
    write_own(text)
    with pytest.raises(ZooError, match=said) as error:
        own()
    assert str(error.value).startswith(str(own_file()))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_folder_are_refused_with_the_path():
    own_file().write_bytes(b"\xff\xfe")
    with pytest.raises(ZooError, match=r"zoo\.toml is not valid TOML"):
        own()
    own_file().unlink()
    own_file().mkdir()
    with pytest.raises(ZooError, match=r"Cannot read .*zoo\.toml"):
        own()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "my net", "letters, digits"),
        ("name", "../up", "letters, digits"),
        ("short", "-x", "letters, digits"),
        ("label", 3, "text"),
        ("file", ["a"], "text"),
        ("family", "dense", "one of classification, detection, segmentation, vision-language, own"),
        ("variant", "deep", "one of plain, clip"),
        ("padding", "SAME", "one of torch, same, same_pool"),
        ("stride", "2x2", "one of 3x3, 1x1"),
        ("order", "gbr", "one of rgb, bgr"),
        ("interpolation", "area", "one of bilinear, bicubic"),
        ("sha256", "md5:12", "the SHA-256"),
        ("mean", 0.5, "three numbers"),
        ("mean", [0.5, 0.5], "three numbers"),
        ("mean", [True, 0.5, 0.5], "three numbers"),
        ("mean", [123.675, 116.28, 103.53], r"for pixels in \[0, 1\]"),
        ("mean", [float("nan"), 0.5, 0.5], r"for pixels in \[0, 1\]"),
        ("std", [0.0, 1.0, 1.0], r"for pixels in \[0, 1\]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_row_and_key(key, value, said):
    with pytest.raises(ZooError, match=rf"^row '.+': {key} is .+\. It must be .*{said}"):
        row(**{key: value})


@pytest.mark.parametrize("key", ["name", "label", "method", "family", "layout", "file"])
def test_a_row_without_what_every_row_says_is_refused(key):
    with pytest.raises(ZooError, match=rf"{key} is missing\. Every row says name, label, method,"):
        row(**{key: ""})
