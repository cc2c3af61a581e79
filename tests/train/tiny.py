"""One tiny cell for the tests of training, and how it is watched and cut off."""

import hashlib

from bench.grids import Request, cells
from bench.plan import Place, plan, write_orders
from bench.store import Store


def prepared(
    store,
    data,
    protocol="paf",
    zoo="moco_v2",
    overrides=(),
    ranks=1,
    heads="transformer",
    scheme="zeroing",
):
    """Write the orders of one tiny cell and return its folder."""
    request = Request(
        zoo=(zoo,),
        protocols=(protocol,),
        schemes=(scheme,),
        preset="tiny",
        overrides=overrides,
        heads=heads,
    )
    place = Place(store=Store(store), data=str(data), stand_ins=True, ranks=ranks)
    place.store.prepare()
    planned = plan(cells(request), place)
    write_orders(planned, place)
    return planned[0].folder


class Cut(Exception):
    """Stands for the plug being pulled."""


def pull_the_plug():
    raise Cut


def at_call(monkeypatch, module, name, number, act):
    """Have the call with this number (from 1) do something first; return the calls' arguments."""
    calls, function = [], getattr(module, name)

    def counted(*args, **more):
        calls.append(args)
        if len(calls) == number:
            act()
        return function(*args, **more)

    monkeypatch.setattr(module, name, counted)
    return calls


def digests(model):
    """Return a hash of every parameter and of every buffer, saved or not, by name."""
    everything = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in everything.items()
    }
