"""How cars, trucks and buses of a demo street look."""

from collections.abc import Sequence

import numpy as np

from bench.data.demo.brush import Brush, Span, tint
from bench.data.demo.canvas import ring
from bench.data.demo.scene import Colour

GLASS: Colour = (40, 52, 66)
REFLECTION: Colour = (82, 98, 114)
RUBBER: Colour = (22, 22, 24)
HUB: Colour = (120, 122, 126)
HEAD_LAMP: Colour = (250, 248, 226)
TAIL_LAMP: Colour = (232, 30, 24)
PLATES: tuple[Colour, ...] = ((236, 236, 232), (236, 222, 150))
BUS_COLOURS: tuple[Colour, ...] = ((226, 128, 24), (24, 110, 190), (196, 40, 48), (238, 196, 40))
LOADS: tuple[Colour, ...] = ((228, 228, 224), (236, 236, 240), (190, 196, 200), (214, 200, 170))

# Side view of a car's cabin: (along, up) of rear foot, rear top, front top, front foot.
TALL_CABIN = ((0.02, 0.56), (0.07, 1.0), (0.68, 1.0), (0.84, 0.56))
LOW_CABIN = ((0.1, 0.56), (0.26, 1.0), (0.62, 1.0), (0.82, 0.56))
CABIN_LEAN_M = 0.22  # by which each side of a cabin is narrower at the roof


def car(brush: Brush) -> None:
    """A hull, a cabin that is narrower at the roof, and what is on the near face."""
    thing = brush.thing
    cabin = TALL_CABIN if thing.shape % 3 == 0 else LOW_CABIN
    if thing.oncoming:
        cabin = [(1 - along, up) for along, up in reversed(cabin)]
    half = thing.width / 2
    brush.flank_shape([(0, 0.2), (0, 0.58), (1, 0.54), (1, 0.2)], tint(thing.colour, 0.8))
    _wheels(brush, 0.33, (0.19, 0.79))
    hull = (thing.x - half, thing.x + half), (thing.z, thing.z + thing.length)
    brush.above(0.57 * thing.height, *hull, tint(thing.colour, 1.12))
    _cabin(brush, cabin)
    _near_face(brush)


def _cabin(brush: Brush, cabin: Sequence[Span]) -> None:
    thing = brush.thing
    (foot, _), (top, _), (roof, _), _ = cabin
    brush.flank_shape(cabin, tint(thing.colour, 0.8), lean_m=CABIN_LEAN_M)
    window = [(0.5 + 0.86 * (along - 0.5), 0.62 if up < 0.6 else 0.94) for along, up in cabin]
    brush.flank_shape(window, GLASS, lean_m=CABIN_LEAN_M)
    narrow = thing.width / 2 - CABIN_LEAN_M
    depth = thing.z + top * thing.length, thing.z + roof * thing.length
    brush.above(thing.height, (thing.x - narrow, thing.x + narrow), depth, tint(thing.colour, 1.15))

    def pane(outline: Sequence[Span], colour: Colour) -> None:
        """On the window over the near face: -1..1 of its width there, 0..1 of its height."""
        corners = []
        for across, up in outline:
            wide = 0.5 - up * CABIN_LEAN_M / thing.width
            corners.append(brush.point(across * wide, 0.56 + 0.44 * up, foot + up * (top - foot)))
        brush.canvas.fill(corners, colour)

    pane([(-1, 0), (1, 0), (1, 1), (-1, 1)], tint(thing.colour, 0.9))
    pane([(-0.86, 0.1), (0.86, 0.1), (0.86, 0.86), (-0.86, 0.86)], GLASS)
    pane([(-0.1, 0.36), (0.25, 0.36), (0.6, 0.86), (0.25, 0.86)], REFLECTION)


def _near_face(brush: Brush) -> None:
    thing = brush.thing
    hull = [(-0.5, 0.2), (-0.5, 0.5), (-0.46, 0.58), (0.46, 0.58), (0.5, 0.5), (0.5, 0.2)]
    brush.front_shape(hull, thing.colour)
    brush.front((-0.46, 0.46), (0.54, 0.58), tint(thing.colour, 1.18))
    brush.front((-0.48, 0.48), (0.14, 0.26), tint(thing.colour, 0.5))
    _tyres(brush, 0.2)
    brush.front((-0.32, 0.32), (0.0, 0.14), (14, 14, 16))
    if thing.oncoming:
        brush.front((-0.26, 0.26), (0.3, 0.42), (28, 28, 30))
    _lamps(brush, (0.4, 0.5))
    brush.front((-0.13, 0.13), (0.3, 0.38), PLATES[thing.shape % 2])


def truck(brush: Brush) -> None:
    """A cab and a tall pale box behind it."""
    thing = brush.thing
    box = LOADS[thing.shape % len(LOADS)]
    cab, load = ((0.0, 0.22), (0.25, 1.0)) if thing.oncoming else ((0.78, 1.0), (0.0, 0.75))
    brush.flank((0.02, 0.98), (0.12, 0.24), (40, 40, 42))
    brush.flank(cab, (0.14, 0.82), tint(thing.colour, 0.85))
    brush.flank(load, (0.22, 1.0), tint(box, 0.84))
    brush.flank(load, (0.5, 0.66), thing.colour)
    _wheels(brush, 0.48, (0.14, 0.3, 0.86))
    if thing.oncoming:
        half, at = thing.width / 2, thing.z + load[0] * thing.length
        brush.across(at, (thing.x - half, thing.x + half), (0.3 * thing.height, thing.height), box)
        brush.front((-0.48, 0.48), (0.12, 0.82), thing.colour)
        brush.front((-0.42, 0.42), (0.48, 0.76), GLASS)
        brush.front((-0.3, 0.3), (0.22, 0.36), (30, 30, 32))
    else:
        brush.front((-0.5, 0.5), (0.2, 1.0), box)
        brush.front((-0.5, 0.5), (0.95, 1.0), tint(box, 0.8))
        for left, shade in ((-0.01, 0.6), (-0.24, 0.75), (0.2, 0.75)):
            brush.front((left, left + 0.03), (0.23, 0.94), tint(box, shade))
    brush.front((-0.48, 0.48), (0.12, 0.2), (48, 48, 52))
    _tyres(brush, 0.13)
    _lamps(brush, (0.2, 0.27))


def bus(brush: Brush) -> None:
    """A bright box with a row of windows and a lit line number."""
    thing = brush.thing
    paint = BUS_COLOURS[thing.shape % len(BUS_COLOURS)]
    brush.flank((0, 1), (0.1, 1.0), tint(paint, 0.85))
    brush.flank((0, 1), (0.1, 0.3), tint(paint, 0.55))
    for start in np.arange(0.03, 0.9, 0.12).tolist():
        brush.flank((start, start + 0.1), (0.5, 0.84), GLASS)
    _wheels(brush, 0.48, (0.2, 0.74))
    brush.front((-0.5, 0.5), (0.1, 1.0), paint)
    brush.front((-0.44, 0.44), (0.42 if thing.oncoming else 0.56, 0.84), GLASS)
    brush.front_shape([(-0.3, 0.58), (-0.1, 0.84), (0.08, 0.84), (-0.12, 0.58)], REFLECTION)
    brush.front((-0.3, 0.3), (0.88, 0.96), (20, 20, 22))
    brush.front((-0.24, 0.24), (0.9, 0.94), (255, 176, 40), lit=True)
    brush.front((-0.5, 0.5), (0.1, 0.16), (40, 40, 44))
    _tyres(brush, 0.13)
    _lamps(brush, (0.2, 0.27))


def _wheels(brush: Brush, radius_m: float, places: Sequence[float]) -> None:
    """Wheels on the side that is seen."""
    up, along = radius_m / brush.thing.height, radius_m / brush.thing.length
    for at in places:
        for size, colour in ((1.0, RUBBER), (0.5, HUB)):
            rim = [(at + size * along * a, up + size * up * b) for a, b in ring(10)]
            brush.flank_shape(rim, colour)


def _tyres(brush: Brush, up: float) -> None:
    """The wheels as the near face shows them."""
    for left in (-0.46, 0.32):
        brush.front((left, left + 0.14), (0.0, up), RUBBER)


def _lamps(brush: Brush, up: Span) -> None:
    """Head or tail lamps, which shine at night."""
    oncoming, night = brush.thing.oncoming, brush.canvas.light.night
    colour = HEAD_LAMP if oncoming else TAIL_LAMP
    for left in (-0.47, 0.33):
        brush.front((left, left + 0.14), up, colour, lit=night)
        centre = brush.point(left + 0.07, sum(up) / 2)
        brush.canvas.glow(centre, 0.42 if oncoming else 0.22, colour)
