"""How each kind of thing in a demo street looks, and in which order things are painted."""

from collections.abc import Callable, Sequence

import numpy as np

from bench.data.demo.brush import Brush, tint
from bench.data.demo.canvas import NEAR_M, SEM_ID, Canvas, Mark, ring
from bench.data.demo.scene import SEM_OF, Colour, Thing
from bench.data.demo.vehicles import RUBBER, TAIL_LAMP, bus, car, truck

FLOOR_M = 3.2
LAMP: Colour = (255, 226, 160)
STEEL: Colour = (112, 114, 116)
SKIN: tuple[Colour, ...] = ((224, 172, 140), (142, 96, 68), (198, 146, 110), (90, 62, 46))
LIGHT_COLOURS: dict[str, Colour] = {"R": (255, 40, 30), "Y": (255, 196, 30), "G": (30, 240, 120)}


def paint_things(canvas: Canvas, things: Sequence[Thing]) -> list[Mark]:
    """Paints all from back to front; returns a mark for each counted thing in the picture."""
    marks = []
    for thing in painters_order(things):
        canvas.begin(SEM_ID[SEM_OF[thing.kind]], counted=thing.category is not None)
        PAINTERS[thing.kind](Brush(canvas, thing))
        if thing.category is not None:
            mark = canvas.end(thing.category, thing.light)
            marks += [mark] if mark else []
    return marks


def painters_order(things: Sequence[Thing]) -> list[Thing]:
    """Things such that none hides an earlier one.

    What is nearer is never hidden by what is farther, and nothing is hidden by what lies farther
    out on its own side of the camera. Where the two rules disagree neither can hide the other, and
    where neither applies (two things touch) the near face decides.
    """
    near = np.array([thing.z for thing in things])
    far = near + np.array([thing.length for thing in things])
    left = np.array([thing.x - thing.width / 2 for thing in things])
    right = np.array([thing.x + thing.width / 2 for thing in things])
    behind = (near[:, None] >= far) & (near[:, None] > near)
    at_right = (left[:, None] >= right) & (left[:, None] >= 0)
    at_left = (right[:, None] <= left) & (right[:, None] <= 0)
    outside = at_right | at_left
    first = (behind & ~outside.T) | (outside & ~outside.T & ~behind.T)
    blockers = first.sum(axis=0)
    waiting, order = set(range(len(things))), []
    while waiting:
        ready = [index for index in waiting if not blockers[index]] or waiting
        chosen = max(ready, key=lambda index: (near[index], index))
        waiting.remove(chosen)
        blockers = blockers - first[chosen]
        order.append(things[chosen])
    return order


def _details(thing: Thing) -> np.random.Generator:
    """The generator of a thing's small differences."""
    return np.random.default_rng(thing.shape)


def _person(brush: Brush) -> None:
    """Legs, arms, trunk and head; a rider wears a helmet, and the bicycle hides the feet."""
    thing, details = brush.thing, _details(brush.thing)
    trousers = tint((62, 66, 88), details.uniform(0.5, 1.6))
    skin = SKIN[details.integers(len(SKIN))]
    stride = details.uniform(0.05, 0.32)
    for sign in (-1, 1):
        hip, foot = sign * 0.14, sign * stride
        leg = [(hip - 0.14, 0.5), (hip + 0.14, 0.5), (foot + 0.12, 0.04), (foot - 0.12, 0.04)]
        brush.front_shape(leg, trousers)
        brush.front((foot - 0.13, foot + 0.15), (0.0, 0.05), RUBBER)
        arm = [(sign * 0.26, 0.82), (sign * 0.4, 0.78), (sign * 0.46, 0.46), (sign * 0.34, 0.46)]
        brush.front_shape(arm, tint(thing.colour, 0.8))
    trunk = [(-0.3, 0.83), (0.3, 0.83), (0.27, 0.44), (-0.27, 0.44)]
    brush.front_shape(trunk, thing.colour)
    brush.canvas.disc(brush.point(0, 0.92), 0.075 * thing.height, skin, squash=0.8)
    hair = tint((60, 44, 34), details.uniform(0.3, 1.5))
    cap = (250, 220, 40) if thing.kind == "rider" else hair
    brush.canvas.disc(brush.point(0, 0.945), 0.06 * thing.height, cap)


def _bicycle(brush: Brush) -> None:
    """A bicycle from behind."""
    x, z = brush.thing.x, brush.thing.z
    brush.canvas.disc((x, 0.36, z), 0.36, RUBBER, squash=0.3)
    brush.canvas.disc((x, 0.36, z), 0.25, (120, 122, 126), squash=0.14)
    brush.front((-0.06, 0.06), (0.3, 0.85), (190, 40, 40))
    brush.front((-0.5, 0.5), (0.92, 1.0), (36, 36, 40))
    brush.front((-0.2, 0.2), (0.62, 0.7), (36, 36, 40))
    brush.front((-0.09, 0.09), (0.5, 0.58), TAIL_LAMP, lit=True)


def _traffic_light(brush: Brush) -> None:
    brush.front((-0.5, 0.5), (0.0, 1.0), (214, 168, 34))
    brush.front((-0.4, 0.4), (0.03, 0.97), (20, 20, 22))
    for name, up in (("R", 0.81), ("Y", 0.5), ("G", 0.19)):
        on, centre = name == brush.thing.light, brush.point(0, up)
        colour = LIGHT_COLOURS[name] if on else tint(LIGHT_COLOURS[name], 0.22)
        brush.canvas.disc(centre, 0.17, colour, lit=on)
        if on:
            brush.canvas.glow(centre, 0.5, colour)


def _traffic_sign(brush: Brush) -> None:
    """A direction board where it is wide, else a triangle, an octagon, a diamond or a disc."""
    colour = brush.thing.colour
    if brush.thing.width > 2:
        brush.front((-0.5, 0.5), (0, 1), (240, 240, 240))
        brush.front((-0.48, 0.48), (0.04, 0.96), colour)
        for low, right in ((0.62, 0.3), (0.36, 0.1), (0.14, 0.22)):
            brush.front((-0.36, right), (low, low + 0.13), (236, 240, 236))
        return
    rim = ring((3, 8, 4, 14)[brush.thing.shape])
    for size, paint in ((0.5, (244, 244, 244)), (0.43, colour)):
        # Sine across and cosine up: the triangle's first corner is at its top.
        brush.front_shape([(size * b, 0.5 + size * a) for a, b in rim], paint)
    bar = (30, 30, 30) if sum(colour) > 400 else (246, 246, 246)
    brush.front((-0.2, 0.2), (0.42, 0.54), bar)


def _pole(brush: Brush) -> None:
    """A post, or an arm where it is wider than high; with a street lamp where its shape says so."""
    thing, night = brush.thing, brush.canvas.light.night
    brush.front((-0.5, 0.5), (0, 1), STEEL)
    if thing.height > thing.width:
        brush.front((-0.3, -0.05), (0, 1), tint(STEEL, 1.4))
    if thing.shape:
        reach, top = thing.x + thing.shape * 2.0, thing.height
        arm = [(thing.x, top - 0.16), (reach, top + 0.1), (reach, top + 0.24), (thing.x, top)]
        brush.canvas.fill([(x, y, thing.z) for x, y in arm], STEEL)
        head = (reach - 0.4, reach + 0.4), (top + 0.02, top + 0.26)
        brush.across(thing.z, *head, LAMP if night else tint(STEEL, 0.8), lit=night)
        brush.canvas.glow((reach, top, thing.z), 0.9, LAMP)


def _tree(brush: Brush) -> None:
    thing = brush.thing
    half = 0.02 * thing.height + 0.05
    trunk = (thing.x - half, thing.x + half), (0, 0.55 * thing.height)
    brush.across(thing.z, *trunk, (84, 66, 50))
    _leaves(brush, discs=34 if thing.z < 50 else 16, low=0.34, radius=0.17 * thing.width)


def _hedge(brush: Brush) -> None:
    _leaves(brush, discs=22, low=0.0, radius=0.3 * brush.thing.height)


def _leaves(brush: Brush, *, discs: int, low: float, radius: float) -> None:
    """A crown of discs above `low` (of the height), dark ones below and light ones above."""
    thing, details = brush.thing, _details(brush.thing)
    around, reach = details.uniform(0, 2 * np.pi, discs), np.sqrt(details.uniform(0, 1, discs))
    places = zip(reach * np.cos(around), np.sort(reach * np.sin(around)), strict=True)
    spread, rise = thing.width / 2 - radius, (1 - low) * thing.height / 2 - radius
    for across, up in places:
        colour = tint(thing.colour, (0.95 + 0.34 * up) * details.uniform(0.8, 1.2))
        y = (1 + low) * thing.height / 2 + up * rise
        size = radius * details.uniform(0.8, 1.25)
        brush.canvas.disc((thing.x + across * spread, y, thing.z), size, colour)


def _building(brush: Brush) -> None:
    """The two walls that can be seen, under a flat or a gabled roof, with windows by the floor."""
    thing, details = brush.thing, _details(brush.thing)
    sign = 1 if thing.x > 0 else -1
    front, back = thing.x - sign * thing.width / 2, thing.x + sign * thing.width / 2
    depth, high, wall = (max(thing.z, NEAR_M), thing.z + thing.length), thing.height, thing.colour
    if depth[1] <= NEAR_M:
        return
    gabled = high < 11 and thing.shape % 2 == 0
    brush.across(depth[0], (front, back), (0, high), tint(wall, 0.74))
    if gabled:
        _gable(brush, front, back, depth)
    brush.along(front, depth, (0, high), wall)
    brush.along(front, depth, (high - 0.5, high), tint(wall, 1.22))
    if not gabled and details.random() < 0.6:
        brush.along(front, depth, (0, 3.0), tint(wall, 0.6))  # shops
    _windows(brush, details, front, back)


def _gable(brush: Brush, front: float, back: float, depth: tuple[float, float]) -> None:
    (near, far), high, x = depth, brush.thing.height, brush.thing.x
    eaves, ridge = high, high + 3.0
    wall = [(front, eaves, near), (back, eaves, near), (x, ridge, near)]
    brush.canvas.fill(wall, tint(brush.thing.colour, 0.8))
    tiles = [(front, eaves, near), (front, eaves, far), (x, ridge, far), (x, ridge, near)]
    brush.canvas.fill(tiles, (112, 58, 48))


def _windows(brush: Brush, details: np.random.Generator, front: float, back: float) -> None:
    thing, night = brush.thing, brush.canvas.light.night
    wide, glass = details.uniform(1.0, 1.7), tint((78, 92, 108), details.uniform(0.6, 1.25))
    pitch = wide + details.uniform(0.8, 1.4)
    columns = np.arange(thing.z + 1.0, thing.z + thing.length - wide, pitch).tolist()
    floors = range(int(thing.height // FLOOR_M))
    for floor in floors:
        low = 1.0 + FLOOR_M * floor if floor else 0.4
        for z, lamp in zip(columns, details.random(len(columns)) < 0.4, strict=True):
            colour = tint(LAMP, 0.8) if lamp and night else tint(glass, 1.18 if lamp else 1.0)
            if z > NEAR_M:
                brush.along(
                    front, (z, z + wide), (low, low + 1.7), colour, lit=bool(lamp and night)
                )
    step = 3.0 if back > front else -3.0
    for x in np.arange(front + 0.5 * step, back - 0.3 * step, step).tolist():
        for floor in floors[1:] if thing.z > NEAR_M else ():
            low = 1.0 + FLOOR_M * floor
            brush.across(thing.z, (x, x + 0.4 * step), (low, low + 1.6), tint(glass, 0.9))


PAINTERS: dict[str, Callable[[Brush], None]] = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "pedestrian": _person,
    "rider": _person,
    "bicycle": _bicycle,
    "traffic light": _traffic_light,
    "traffic sign": _traffic_sign,
    "pole": _pole,
    "tree": _tree,
    "hedge": _hedge,
    "building": _building,
}
