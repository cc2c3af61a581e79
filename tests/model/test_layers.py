import torch
from torch import nn

from bench.model.layers import MLP, TransformerDecoderLayer


def test_without_positions_the_decoder_layer_is_that_of_torch():
    ours = TransformerDecoderLayer(32, 4, 64, dropout=0.0)
    theirs = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    names = {
        "self_attention": "self_attn",
        "cross_attention": "multihead_attn",
        "expand": "linear1",
        "reduce": "linear2",
    }
    state = {}
    for key, value in ours.state_dict().items():
        part, _, rest = key.partition(".")
        state[f"{names.get(part, part)}.{rest}"] = value
    theirs.load_state_dict(state)
    x, tokens = torch.randn(2, 5, 32), torch.randn(2, 12, 32)
    found = ours(x, torch.zeros(1, 5, 32), tokens, tokens)
    torch.testing.assert_close(found, theirs(x, tokens))


def test_positions_are_compared_but_not_passed_on():
    layer = TransformerDecoderLayer(32, 4, 64, dropout=0.0)
    x, tokens = torch.randn(1, 5, 32), torch.randn(1, 1, 32)
    x = x[:, :1].expand(-1, 5, -1)
    # All queries alike and one token: whatever is compared, the answer is the same.
    plain = layer(x, torch.zeros(1, 5, 32), tokens, tokens)
    placed = layer(x, torch.randn(1, 5, 32), tokens + 1, tokens)
    torch.testing.assert_close(placed, plain)


def test_mlp_has_a_relu_between_its_layers_and_none_at_the_end():
    kinds = [type(part).__name__ for part in MLP(4, 8, 2, layers=3)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
