"""The LV-Adapter and its ablations: prompts, decoder, score maps, and what is learned."""

import math

import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.data.classes import CLASSES, TASKS
from bench.model.lv_adapter import (
    DecoderLayer,
    LVAdapter,
    Prompts,
    ScoreMaps,
    TextContext,
    draw_small,
    first_vectors,
)
from protocols.presets import protocol
from zoo.clip_text import TextEncoder, TextTower, tokens

VECTORS, WIDTH, FEATURES, CHANNELS = 16, 512, 1024, 256
SIZES = {"layers": 3, "heads": 4, "dropout": 0.1}
DRIV = protocol("lv").adapter.driv_names
SPOKEN = {**CLASSES, "driv": DRIV}


@pytest.fixture(scope="module")
def tower():
    """A text tower with random weights, large enough for prompts to differ."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = TextEncoder().requires_grad_(False).eval()
        nn.init.normal_(encoder.positional_embedding, std=0.3)
        table = torch.randn(49408, WIDTH) * 0.3
    return TextTower(encoder, table)


@pytest.fixture
def prompts(tower):
    """The prompts of all three tasks in the paper's size."""
    torch.manual_seed(2)
    return made(tower)


def made(tower, tasks=TASKS, count=VECTORS):
    names = {task: [tower.embed(f"{name}.") for name in SPOKEN[task]] for task in tasks}
    return Prompts(names, {task: first_vectors(count, tower.encoder.width) for task in tasks})


def learned(module):
    return sum(parameter.numel() for parameter in module.parameters())


def largest_difference(one, other):
    return (one - other).abs().max().item()


def features_at_full_length(tower, prompts, task):
    """As CoOp and open_clip do it: every prompt alone, padded to 77 tokens."""
    words = [f"{' '.join(['X'] * VECTORS)} {name}." for name in SPOKEN[task]]
    ids = open_clip.tokenize(words)
    encoder = tower.encoder
    x = tower.token_embedding[ids]
    x[:, 1 : 1 + VECTORS] = prompts.vectors[task]
    x = x + encoder.positional_embedding
    causal = torch.full((77, 77), -math.inf).triu(1)
    x = encoder.ln_final(encoder.transformer(x, attn_mask=causal))
    x = x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ encoder.text_projection
    return functional.normalize(x, dim=-1)


# -- Prompts -------------------------------------------------------------------------------------


def test_the_texts_are_the_papers_32_and_the_longest_has_24_tokens(prompts, tower):
    counts = {task: [len(tokens(f"{n}.")) - 3 for n in names] for task, names in SPOKEN.items()}
    assert sum(map(len, counts.values())) == 32
    assert counts["driv"] == [4, 5, 1]
    two = {n for t in ("sem", "det") for n, c in zip(SPOKEN[t], counts[t], strict=True) if c == 2}
    assert two == {"traffic light", "traffic sign"}
    assert max(max(c) for c in counts.values()) == 5
    assert int(prompts.positions.max()) + 1 == 1 + VECTORS + 5 + 2
    assert prompts(tower.encoder).shape == (32, FEATURES)


def test_the_learned_vectors_begin_small_and_are_8192_for_each_task(prompts):
    assert {task: x.shape for task, x in prompts.vectors.items()} == dict.fromkeys(
        TASKS, (VECTORS, WIDTH)
    )
    assert learned(prompts) == 3 * 8192
    drawn = torch.cat([x.detach().flatten() for x in prompts.vectors.values()])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(drawn.mean()) < 0.001


@pytest.mark.parametrize("task", TASKS)
def test_the_short_context_is_exact(prompts, tower, task):
    start = sum(len(SPOKEN[t]) for t in TASKS[: TASKS.index(task)])
    own = prompts(tower.encoder)[start : start + len(SPOKEN[task])]
    with torch.no_grad():
        assert largest_difference(own, features_at_full_length(tower, prompts, task)) < 1e-5
    assert own.norm(dim=-1).allclose(torch.ones(len(own)))


def test_gradients_are_those_of_the_full_length(prompts, tower):
    direction = torch.randn(len(SPOKEN["driv"]), FEATURES)
    start = len(SPOKEN["sem"])
    short = (prompts(tower.encoder)[start : start + 3] * direction).sum()
    long = (features_at_full_length(tower, prompts, "driv") * direction).sum()
    vectors = prompts.vectors["driv"]
    (from_short,), (from_long,) = (torch.autograd.grad(x, [vectors]) for x in (short, long))
    assert from_long.abs().min(dim=1).values.max() > 0
    assert largest_difference(from_short, from_long) < 1e-4 * from_long.abs().max().item()


def test_a_task_has_the_same_features_with_and_without_the_others(prompts, tower):
    alone = Prompts(
        {"driv": [tower.embed(f"{name}.") for name in DRIV]}, {"driv": prompts.vectors["driv"]}
    )
    both = prompts(tower.encoder)[19:22]
    assert largest_difference(alone(tower.encoder), both) < 1e-5


def test_features_are_kept_in_testing_until_a_vector_changes(prompts, tower, monkeypatch):
    calls = []
    encoded = prompts._features
    monkeypatch.setattr(prompts, "_features", lambda e: calls.append(1) or encoded(e))
    with torch.inference_mode():
        first, again = prompts(tower.encoder), prompts(tower.encoder)
    assert again is first
    assert len(calls) == 1
    optimiser = torch.optim.AdamW(prompts.parameters(), lr=0.1, fused=True)
    (prompts(tower.encoder) ** 3).sum().backward()
    optimiser.step()
    with torch.inference_mode():
        later = prompts(tower.encoder)
    assert len(calls) == 3
    assert largest_difference(later, first) > 1e-3
    prompts.load_state_dict({name: -3 * x for name, x in prompts.state_dict().items()})
    with torch.no_grad():
        assert largest_difference(prompts(tower.encoder), later) > 1e-3
    assert prompts(tower.encoder).requires_grad


def test_only_the_vectors_are_saved(prompts):
    assert list(prompts.state_dict()) == [f"vectors.{task}" for task in TASKS]


# -- The decoder ---------------------------------------------------------------------------------


def test_a_layer_is_torchs_own_pre_norm_layer_with_gelu():
    torch.manual_seed(0)
    own = DecoderLayer(32, 4, 0.1).eval()
    theirs = nn.TransformerDecoderLayer(
        32, 4, 128, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attention": "self_attn",
        "cross_attention": "multihead_attn",
        "expand": "linear1",
        "reduce": "linear2",
    }
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    state = {}
    for name, tensor in own.state_dict().items():
        first, _, rest = name.partition(".")
        state[f"{names.get(first, first)}.{rest}"] = tensor
    theirs.load_state_dict(state)
    x, memory = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    assert largest_difference(own(x, memory), theirs(x, memory)) < 1e-4


def test_dropout_is_on_what_is_added_and_in_the_mlp():
    layer = DecoderLayer(32, 4, 0.5).train()
    x, memory = torch.randn(1, 7, 32), torch.randn(1, 5, 32)
    assert not torch.equal(layer(x, memory), layer(x, memory))
    layer.dropout.p = 0.0
    assert torch.equal(layer(x, memory), layer(x, memory))
    assert layer.self_attention.dropout == layer.cross_attention.dropout == 0.0


def test_matrices_begin_small_and_biases_at_zero():
    torch.manual_seed(0)
    layer = DecoderLayer(128, 4, 0.1)
    draw_small(layer)
    for name, parameter in layer.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        elif "norm" in name and "weight" in name:
            assert (parameter == 1).all()
        else:
            assert (parameter == 0).all(), name


def test_the_parameter_counts_are_those_of_the_specification(prompts):
    adapter = LVAdapter(prompts, features=FEATURES, channels=CHANNELS, **SIZES)
    assert learned(adapter.layers) == 3_160_320
    assert learned(adapter.project) == 262_400
    assert learned(adapter) == 3_160_320 + 262_400 + 3 * 8_192
    maps = ScoreMaps(prompts, features=FEATURES, channels=CHANNELS, classes=32)
    assert learned(maps) == 262_400 + (256 + 32) * 256 + 256 + 3 * 8_192
    context = TextContext(features=FEATURES, channels=CHANNELS, **SIZES)
    assert learned(context.layers) == 3_160_320
    assert context.gamma.shape == (FEATURES,)
    assert (context.gamma == 1e-4).all()


# -- P5 in its place -----------------------------------------------------------------------------


def adapter_of(kind, prompts):
    between = {"features": FEATURES, "channels": 32}
    if kind == "lv":
        return LVAdapter(prompts, **between, **SIZES)
    context = TextContext(**between, **SIZES) if kind == "v2l" else None
    return ScoreMaps(prompts, context, classes=32, **between)


def replaced(kind, adapter, tower, p5, seen):
    return adapter(p5, tower.encoder, *([seen] if kind == "v2l" else []))


@pytest.mark.parametrize("kind", ["lv", "prompt", "v2l"])
def test_each_learns_everything_but_the_text_encoder(kind, prompts, tower):
    adapter = adapter_of(kind, prompts)
    p5 = torch.randn(2, 32, 3, 5, requires_grad=True)
    out = replaced(kind, adapter, tower, p5, torch.randn(2, 16, FEATURES))
    assert out.shape == p5.shape
    (out**2).sum().backward()
    assert p5.grad.abs().sum() > 0
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in tower.encoder.parameters())


@pytest.mark.parametrize("kind", ["lv", "prompt", "v2l"])
def test_a_batch_of_two_is_two_of_one(kind, prompts, tower):
    adapter = adapter_of(kind, prompts).eval()
    p5, seen = torch.randn(2, 32, 3, 5), torch.randn(2, 16, FEATURES)
    with torch.no_grad():
        both = replaced(kind, adapter, tower, p5, seen)
        alone = [replaced(kind, adapter, tower, p5[i : i + 1], seen[i : i + 1]) for i in range(2)]
    assert largest_difference(both, torch.cat(alone)) < 1e-5


def test_cells_keep_their_places(prompts, tower):
    adapter = adapter_of("lv", prompts).eval()
    p5 = torch.randn(1, 32, 3, 5)
    with torch.no_grad():
        straight, turned = adapter(p5, tower.encoder), adapter(p5.flip(-1), tower.encoder)
    assert largest_difference(straight.flip(-1), turned) < 1e-5  # no positions, as DenseCLIP
    assert functional.cosine_similarity(straight, p5).min() > 0.9  # it begins near the identity


def test_texts_change_p5(prompts, tower):
    adapter = adapter_of("lv", prompts).eval()
    p5 = torch.randn(1, 32, 3, 5)
    for parameter in adapter.layers.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        before = adapter(p5, tower.encoder)
        prompts.vectors["sem"].add_(torch.randn(VECTORS, WIDTH))
        assert largest_difference(adapter(p5, tower.encoder), before) > 1e-4


def test_score_maps_are_cosines_of_cells_and_projected_texts(prompts, tower):
    adapter = adapter_of("prompt", prompts).eval()
    p5 = torch.randn(2, 32, 3, 5)
    texts = prompts(tower.encoder)
    maps = adapter.scores(p5, texts)
    assert maps.shape == (2, 32, 3, 5)
    cosine = functional.cosine_similarity(p5[1, :, 2, 4][None], adapter.project(texts), dim=-1)
    assert largest_difference(maps[1, :, 2, 4], cosine) < 1e-6
    mixed = adapter.mix(torch.cat((p5, maps), dim=1))
    assert torch.equal(adapter(p5, tower.encoder), mixed)


def test_the_image_adds_little_to_the_texts_at_first(tower, prompts):
    torch.manual_seed(0)
    context = TextContext(features=FEATURES, channels=32, **SIZES).eval()
    texts, seen = prompts(tower.encoder), torch.randn(2, 16, FEATURES)
    asked = context(texts, seen)
    assert asked.shape == (2, 32, FEATURES)
    assert 0 < largest_difference(asked, texts.expand_as(asked)) < 1e-3
    assert largest_difference(context(texts, 5 * seen), asked) < 1e-6  # their length is 1
    with torch.no_grad():
        context.gamma.fill_(1.0)
        answered = context(texts, seen)
    assert largest_difference(answered[0], answered[1]) > 1e-4


def test_without_an_attention_pool_there_is_no_context(prompts, tower):
    with pytest.raises(AssertionError, match="no attention pool"):
        adapter_of("v2l", prompts)(torch.randn(1, 32, 3, 5), tower.encoder)
