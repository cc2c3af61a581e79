"""CLIP's text tower and attention pool: read strictly, stored once, known by a hash."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import open_clip
import pytest
import torch
from torch.nn import functional

import zoo.clip_text
from zoo import clip_parts
from zoo.catalog import ZooError, find
from zoo.clip_parts import PARTS, SHAPES, canonical, check_has, identity, read_part, take
from zoo.clip_pool import AttentionPool, load_pool
from zoo.clip_text import TextEncoder, check_activation, load_text, pack, tokens
from zoo.stand_in import stand_in
from zoo.store import Zoo

PROMPTS = (
    "a photo of a car.",
    "traffic light",
    "An alternatively drivable area, seen from a car's windscreen at night in the rain.",
    "bicycle.",
)


@pytest.fixture(scope="module")
def network():
    """CLIP's RN50 with random weights, built by open_clip."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = open_clip.create_model("RN50", force_quick_gelu=True).eval()
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for tensor in (net.token_embedding.weight, net.positional_embedding):
            torch.nn.init.normal_(tensor, std=0.3)  # so that prompts differ
        torch.nn.init.normal_(net.visual.attnpool.positional_embedding, std=0.3)
    return net


@pytest.fixture(scope="module")
def published(network, tmp_path_factory):
    """A zoo with that network's file, as open_clip publishes its own, and the row of it."""
    shelf = Zoo(tmp_path_factory.mktemp("zoo"))
    row = replace(find("clip_rn50_openclip_yfcc15m"), sha256="")
    torch.save({"epoch": 32, "state_dict": network.state_dict()}, shelf.folder / row.file)
    yield shelf, row
    shutil.rmtree(shelf.folder)


def light(network):
    """Tensors with that network's names and shapes, each of one value, so that files are small."""
    return {
        name: torch.tensor(1 / number).to(tensor.dtype).expand(tensor.shape)
        for number, (name, tensor) in enumerate(network.state_dict().items(), start=1)
    }


@pytest.fixture(scope="module")
def text(published):
    """The text tower of that file."""
    shelf, row = published
    return load_text(canonical(shelf, row, "text", stand_in=False))


def features(tower, prompts):
    embedded = [tower.embed(prompt) for prompt in prompts]
    packed = pack([(0, [len(prompt)]) for prompt in embedded])
    return tower.encoder(torch.cat(embedded), packed)


def largest_difference(one, other):
    return (one - other).abs().max().item()


# -- The text encoder against open_clip ----------------------------------------------------------


def test_text_features_are_open_clips_own(network, text):
    with torch.no_grad():
        expected = network.encode_text(open_clip.tokenize(PROMPTS))
        assert largest_difference(features(text, PROMPTS), expected) < 1e-5
    assert largest_difference(features(text, PROMPTS), expected) < 1e-5  # with gradients on
    assert expected.std(dim=0).mean() > 0.1  # the prompts do differ


def test_prompts_that_share_their_beginning_are_encoded_as_if_each_stood_alone(text):
    beginning = text.embed("a photo of a")[:-1]
    rests = [text.embed(name)[1:] for name in ("car.", "traffic light.", "train")]
    alone = features(text, [f"a photo of a {n}" for n in ("car.", "traffic light.", "train")])
    packed = pack([(len(beginning), [len(rest) for rest in rests])])
    together = text.encoder(torch.cat([beginning, *rests]), packed)
    assert len(packed.positions) == len(beginning) + sum(map(len, rests))
    assert largest_difference(together, alone) < 1e-5


def test_groups_do_not_see_each_other(text):
    first, second = text.embed("a car"), text.embed("a road")
    both = text.encoder(torch.cat([first, second]), pack([(2, [2]), (2, [2])]))
    assert largest_difference(both, features(text, ["a car", "a road"])) < 1e-5


def test_plain_gelu_would_be_noticed(network, published, text, monkeypatch):
    expected = network.encode_text(open_clip.tokenize(PROMPTS)).detach()
    quick = features(text, PROMPTS)
    monkeypatch.setattr(zoo.clip_text, "QuickGELU", torch.nn.GELU)
    shelf, row = published
    plain = load_text(canonical(shelf, row, "text", stand_in=False))
    assert largest_difference(features(plain, PROMPTS), expected) > 1e-2
    assert largest_difference(quick, expected) < 1e-5


def test_the_encoder_is_frozen_and_passes_gradients_on(text):
    x = text.embed("a car").requires_grad_()
    text.encoder(x, pack([(0, [len(x)])])).sum().backward()
    assert x.grad.abs().sum(dim=1).min() > 0
    assert all(not p.requires_grad and p.grad is None for p in text.encoder.parameters())


def test_tokens_are_the_tokenizers_own():
    assert tokens("directly drivable area.").tolist() == [
        49406,
        *open_clip.SimpleTokenizer().encode("directly drivable area."),
        49407,
    ]


def test_the_tiny_encoder_is_the_leading_slices_of_the_full_one(published, text):
    shelf, row = published
    tiny = load_text(canonical(shelf, row, "text", stand_in=False), size="tiny")
    full = text.encoder.state_dict()
    queries, keys, _ = full["transformer.resblocks.1.attn.in_proj_weight"].chunk(3)
    own = tiny.encoder.state_dict()["transformer.resblocks.1.attn.in_proj_weight"]
    assert torch.equal(own[:128], torch.cat((queries[:64, :64], keys[:64, :64])))
    assert (tiny.encoder.width, tiny.encoder.features) == (64, 128)
    assert features(tiny, PROMPTS).isfinite().all()
    assert len(tiny.encoder.transformer.resblocks) == 2


# -- The attention pool against open_clip --------------------------------------------------------


def test_the_pools_first_token_is_open_clips_image_feature(network, published):
    shelf, row = published
    pool = load_pool(canonical(shelf, row, "pool", stand_in=False))
    c5 = torch.rand(2, 2048, 7, 7)
    with torch.no_grad():
        seen = pool(c5)
        assert largest_difference(seen[:, 0], network.visual.attnpool(c5)) < 1e-5
    assert seen.shape == (2, 50, 1024)


def test_the_pools_other_tokens_ask_as_the_first_one_does(network, published):
    shelf, row = published
    theirs = network.visual.attnpool
    pool = load_pool(canonical(shelf, row, "pool", stand_in=False))
    c5 = torch.rand(1, 2048, 3, 5)
    cells = c5.flatten(2)[0].T
    grid = theirs.positional_embedding[1:].T.reshape(1, 2048, 7, 7)
    resized = functional.interpolate(grid, size=(3, 5), mode="bilinear").reshape(2048, 15).T
    positions = torch.cat((theirs.positional_embedding[:1], resized))
    x = (torch.cat((cells.mean(0, keepdim=True), cells)) + positions)[:, None]
    expected, _ = functional.multi_head_attention_forward(
        x,
        x,
        x,
        2048,
        32,
        None,
        torch.cat([theirs.q_proj.bias, theirs.k_proj.bias, theirs.v_proj.bias]),
        None,
        None,
        False,
        0.0,
        theirs.c_proj.weight,
        theirs.c_proj.bias,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=theirs.q_proj.weight,
        k_proj_weight=theirs.k_proj.weight,
        v_proj_weight=theirs.v_proj.weight,
    )
    with torch.no_grad():
        assert largest_difference(pool(c5)[0], expected[:, 0]) < 1e-5


# -- Parts of published files --------------------------------------------------------------------


def test_every_tensor_of_a_published_file_is_in_one_of_its_parts(published, network):
    shelf, row = published
    read = {part: read_part(canonical(shelf, row, part, stand_in=False), part) for part in PARTS}
    own = network.state_dict()
    for name, tensor in read["text"][0].items():
        assert torch.equal(tensor, own.pop(name)), name
    for name, tensor in read["pool"][0].items():
        assert torch.equal(tensor, own.pop(f"visual.attnpool.{name}")), name
    assert all(name.startswith("visual.") and "attnpool" not in name for name in own)
    assert len(own) == 330  # the trunk, step counters among them
    assert read["text"][1] == read["pool"][1] == row


def test_the_modules_take_every_tensor_of_their_part():
    with torch.device("meta"):
        encoder, pool = TextEncoder(), AttentionPool()
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    apart = {"token_embedding.weight", "logit_scale"}
    assert shapes == {name: s for name, s in SHAPES["text"].items() if name not in apart}
    shapes = {name: tuple(tensor.shape) for name, tensor in pool.state_dict().items()}
    assert shapes == SHAPES["pool"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.pop("ln_final.bias"), "'state_dict.ln_final.bias' is missing"),
        (lambda t: t.update(text_projection=torch.zeros(512, 512)), r"\(512, 512\), not \(512, 10"),
        (lambda t: t.update(positional_embedding=torch.zeros(77, 512).long()), "int64"),
        (
            lambda t: t.update({"transformer.resblocks.12.ln_1.bias": torch.zeros(512)}),
            "it has 151 tensors, not 150",
        ),
        (
            lambda t: t.update({"ln_final.bias": torch.full((512,), float("nan"))}),
            "512 of 512 values that are not finite",
        ),
    ],
)
def test_a_text_tower_that_is_not_whole_is_refused(network, tmp_path, spoil, says):
    row = replace(find("clip_rn50_openclip_yfcc15m"), sha256="")
    tensors = light(network)
    spoil(tensors)
    torch.save({"state_dict": tensors}, tmp_path / row.file)
    with pytest.raises(ZooError, match=says):
        take(tmp_path / row.file, row, "text")


def test_a_part_is_converted_once_and_known_by_its_hash_without_torch(published, network):
    shelf, row = published
    path = canonical(shelf, row, "text", stand_in=False)
    before = path.stat().st_mtime_ns
    assert canonical(shelf, row, "text", stand_in=False) == path
    assert path.stat().st_mtime_ns == before
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path; "
        "from zoo.catalog import find; from zoo.clip_parts import identity; "
        "from zoo.store import Zoo; row = replace(find(sys.argv[2]), sha256=''); "
        "print(identity(Zoo(Path(sys.argv[1])), row, 'text', stand_in=False), "
        "'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(shelf.folder), row.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    known = identity(shelf, row, "text", stand_in=False)
    assert done.stdout.split() == [known, "False"]
    assert known[:8] in path.name
    hashes = {identity(shelf, row, part, stand_in=one) for part in PARTS for one in (True, False)}
    assert len(hashes) == 4


def test_the_hash_follows_values_and_declared_activation(published, network, tmp_path, monkeypatch):
    shelf, row = published
    known = identity(shelf, row, "text", stand_in=False)
    with monkeypatch.context() as patch:
        patch.setitem(clip_parts.SEMANTICS, "text", {"activation": "gelu", "heads": 8})
        assert identity(shelf, row, "text", stand_in=False) != known
    shelves = []
    for bias in (0.1, 0.1000001):
        shelves.append(Zoo(tmp_path / str(bias)))
        shelves[-1].folder.mkdir()
        tensors = light(network) | {"ln_final.bias": torch.full((512,), bias)}
        torch.save({"state_dict": tensors}, shelves[-1].folder / row.file)
    texts, pools = (
        {identity(one, row, part, stand_in=False) for one in shelves} for part in ("text", "pool")
    )
    assert (len(texts), len(pools)) == (2, 1)


def test_a_stand_in_has_all_its_parts(tmp_path):
    row = find("clip")
    made = stand_in(row)
    for part in PARTS:
        tensors, of = read_part(canonical(Zoo(tmp_path), row, part, stand_in=True), part)
        assert of == row
        prefix = "" if part == "text" else "visual.attnpool."
        assert made["text_projection"].dtype == torch.float16
        for name, tensor in tensors.items():
            assert torch.equal(tensor, made[prefix + name].float()), name
    assert sorted(p.name.split("-")[1] for p in tmp_path.rglob("*") if p.is_file()) == [
        "pool",
        "text",
    ]


def test_timms_file_has_the_pool_under_other_names_and_no_text(tmp_path):
    row = find("clip_rn50_timm")
    made = stand_in(row)
    pool, _ = read_part(canonical(Zoo(tmp_path), row, "pool", stand_in=True), "pool")
    assert torch.equal(pool["c_proj.bias"], made["head.proj.bias"])
    assert torch.equal(pool["k_proj.weight"], made["head.k.weight"])
    assert torch.equal(pool["positional_embedding"], made["head.pos_embed"])
    with pytest.raises(ZooError, match="CLIP's image tower alone, without a text encoder"):
        check_has(row, "text")


def test_what_is_no_clip_has_neither_part():
    for part, says in (("text", "--set adapter.text=clip_rn50"), ("pool", "bench zoo ls")):
        with pytest.raises(ZooError, match=f"moco_v2_200ep is no CLIP checkpoint.*{says}"):
            check_has(find("moco_v2"), part)


def test_a_file_of_ones_own_does_not_tell_its_activation():
    row = replace(find("clip"), name="my_clip", family="own", url="")
    check_has(row, "pool")
    with pytest.raises(ZooError, match="none says whether its text encoder was trained with GELU"):
        check_has(row, "text")


@pytest.mark.parametrize(
    "name", ["clip_rn50", "clip_rn50_openclip_yfcc15m", "clip_rn50_openclip_cc12m"]
)
def test_open_clip_knows_every_clip_row_as_trained_with_quick_gelu(name, monkeypatch):
    row = find(name)
    check_activation(row)
    with pytest.raises(ZooError, match="open_clip does not know"):
        check_activation(replace(row, url="https://example.org/clip.pt"))
    real = open_clip.get_pretrained_cfg
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda *asked: {**real(*asked), "quick_gelu": False}
    )
    with pytest.raises(ZooError, match="open_clip says was trained with GELU, not QuickGELU"):
        check_activation(row)


def test_another_file_in_the_place_of_a_part_is_refused(published, tmp_path):
    shelf, row = published
    path = canonical(shelf, row, "pool", stand_in=False)
    with pytest.raises(ZooError, match="is no text tower that this version converted"):
        read_part(path, "text")
    assert json.loads(json.dumps(row.semantics)) == read_part(path, "pool")[1].semantics
