"""One tiny cell for the tests of training."""

from bench.grids import Request, cells
from bench.plan import Place, plan, write_orders
from bench.store import Store


def prepared(store, data, protocol="paf", zoo="moco_v2", overrides=()):
    """Write the orders of one tiny cell and return its folder."""
    request = Request(
        zoo=(zoo,),
        protocols=(protocol,),
        schemes=("zeroing",),
        preset="tiny",
        overrides=overrides,
    )
    place = Place(store=Store(store), data=str(data), stand_ins=True)
    place.store.prepare()
    planned = plan(cells(request), place)
    write_orders(planned, place)
    return planned[0].folder
