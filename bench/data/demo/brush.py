"""A brush that paints on the faces of one thing's box."""

from collections.abc import Sequence

from bench.data.demo.canvas import Canvas, Point
from bench.data.demo.scene import Colour, Thing

Span = tuple[float, float]


def tint(colour: Colour, factor: float) -> Colour:
    """The colour, that much brighter."""
    r, g, b = (int(min(max(value * factor, 0), 255)) for value in colour)
    return r, g, b


def rectangle(across: Span, up: Span) -> list[Span]:
    """The four corners of a rectangle in a plane."""
    (left, right), (low, high) = across, up
    return [(left, low), (right, low), (right, high), (left, high)]


class Brush:
    """Paints one thing on a canvas.

    Places on its faces are fractions: of its width from -0.5 to 0.5, of its length from 0 (near)
    to 1, of its height from 0 to 1. `across`, `along` and `above` take metres instead.
    """

    def __init__(self, canvas: Canvas, thing: Thing) -> None:
        self.canvas, self.thing = canvas, thing

    def point(self, across: float, up: float, along: float = 0.0) -> Point:
        """A place in the thing's box, in metres."""
        thing = self.thing
        return (
            thing.x + across * thing.width,
            thing.y + up * thing.height,
            thing.z + along * thing.length,
        )

    def front(self, across: Span, up: Span, colour: Colour, *, lit: bool = False) -> None:
        """A rectangle on the face that is turned to the camera."""
        self.front_shape(rectangle(across, up), colour, lit=lit)

    def front_shape(self, outline: Sequence[Span], colour: Colour, *, lit: bool = False) -> None:
        """A polygon on the face that is turned to the camera."""
        self.canvas.fill([self.point(a, h) for a, h in outline], colour, lit=lit)

    def flank(self, along: Span, up: Span, colour: Colour) -> None:
        """A rectangle on the side that is seen."""
        self.flank_shape(rectangle(along, up), colour)

    def flank_shape(self, outline: Sequence[Span], colour: Colour, *, lean_m: float = 0.0) -> None:
        """A polygon on the side that is seen; above half its height it leans in by `lean_m`."""
        thing = self.thing
        # Where the line along this side, drawn on towards the camera, would pass it.
        passes = thing.x - 0.5 * self.canvas.camera.bend * thing.z**2
        if abs(passes) <= 0.5 * thing.width:
            return
        inwards = 1 if passes < 0 else -1
        corners = [self.point(0.5 * inwards, h, along) for along, h in outline]
        shifts = [-inwards * lean_m * max(h - 0.55, 0) / 0.45 for _, h in outline]
        self.canvas.fill(
            [(x + dx, y, z) for (x, y, z), dx in zip(corners, shifts, strict=True)], colour
        )

    def across(self, z: float, x: Span, y: Span, colour: Colour, *, lit: bool = False) -> None:
        """An upright rectangle at distance `z` that faces the camera."""
        self.canvas.fill([(a, h, z) for a, h in rectangle(x, y)], colour, lit=lit)

    def along(self, x: float, z: Span, y: Span, colour: Colour, *, lit: bool = False) -> None:
        """An upright rectangle along the road."""
        self.canvas.fill([(x, h, a) for a, h in rectangle(z, y)], colour, lit=lit)

    def above(self, y: float, x: Span, z: Span, colour: Colour) -> None:
        """A level rectangle."""
        self.canvas.fill([(a, y, b) for a, b in rectangle(x, z)], colour)
