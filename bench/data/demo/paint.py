"""One demo street from its scene: the photograph, its two masks and its boxes."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.data.classes import IGNORE
from bench.data.demo.canvas import HEIGHT, SEM_ID, WIDTH, Canvas, Mark, light_of
from bench.data.demo.ground import BACKGROUND, horizon_row, paint_ground, paint_sky
from bench.data.demo.scene import Scene
from bench.data.demo.things import paint_things

SMALLEST_PX = (8, 6)  # a box is at least this high and wide
OCCLUDED_BELOW = 0.85  # visible share of a thing under which its box says occluded


@dataclass(frozen=True, kw_only=True)
class Box:
    """The visible part of one thing; `xyxy` in pixels, the last row and column included."""

    category: str
    xyxy: tuple[int, int, int, int]
    occluded: bool
    truncated: bool
    light: str


@dataclass(frozen=True, kw_only=True)
class Street:
    """A photograph and all its labels; `sem` and `driv` are uint8, 720 x 1280."""

    photograph: Image.Image
    sem: np.ndarray
    driv: np.ndarray
    boxes: tuple[Box, ...]


def paint(scene: Scene, rng: np.random.Generator) -> Street:
    """Paints a scene: sky, ground, things from far to near, the ego car's bonnet, the lens."""
    light = light_of(scene, rng)
    sky = paint_sky(scene.camera, light, scene.weather, rng)
    ground, ground_sem, ground_driv = paint_ground(scene, light, rng)
    picture = np.clip(np.concatenate([sky, ground]), 0, 255).astype(np.uint8)
    sky_sem = np.full(sky.shape[:2], SEM_ID["sky"], np.uint8)
    canvas = Canvas(scene.camera, light, picture, np.concatenate([sky_sem, ground_sem]))
    _paint_skyline(canvas, scene, rng)
    marks = paint_things(canvas, scene.things)
    _paint_bonnet(canvas, scene.bonnet_px)
    label = canvas.label()
    driv = np.full(label.shape, BACKGROUND, np.uint8)
    top = horizon_row(scene.camera)
    driv[top:] = np.where(label[top:] == SEM_ID["road"], ground_driv, BACKGROUND)
    boxes = [box for mark in marks if (box := _visible(mark, label)) is not None]
    return Street(
        photograph=canvas.photograph(rng),
        sem=(label & 255).astype(np.uint8),
        driv=driv,
        boxes=tuple(boxes),
    )


def _visible(mark: Mark, label: np.ndarray) -> Box | None:
    """The box of what is still seen of a thing; None where that is too small to be labelled."""
    left, top, right, bottom = mark.outline
    own = label[top:bottom, left:right] >> 8 == mark.instance
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    if not rows.size:
        return None
    x1, x2, y1, y2 = (int(edge) for edge in (columns[0], columns[-1], rows[0], rows[-1]))
    if y2 - y1 + 1 < SMALLEST_PX[0] or x2 - x1 + 1 < SMALLEST_PX[1]:
        return None
    return Box(
        category=mark.category,
        xyxy=(left + x1, top + y1, left + x2, top + y2),
        occluded=bool(own.sum() < OCCLUDED_BELOW * mark.painted_px),
        truncated=mark.truncated,
        light=mark.light,
    )


def _paint_skyline(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    """What closes the view at the horizon: far houses in a city, far trees elsewhere."""
    city = scene.place == "city street"
    canvas.begin(SEM_ID["building" if city else "vegetation"])
    base, u = scene.camera.horizon_px + 3, -20.0
    colour = canvas.light.shade((128, 128, 132) if city else (70, 96, 62), 0.9 * canvas.light.fog_m)
    while u < WIDTH:
        step = rng.uniform(24, 80) if city else rng.uniform(14, 40)
        high = rng.uniform(8, 60) if city else rng.uniform(12, 34)
        corner = 0 if city else 0.25 * step
        outline = [
            (u, base),
            (u + corner, base - high),
            (u + step - corner, base - high),
            (u + step, base),
        ]
        canvas.on_screen(outline, colour)
        u += step * (1 if city else 0.7)


def _paint_bonnet(canvas: Canvas, rise_px: int) -> None:
    """The ego car at the bottom of the picture, which nothing is evaluated on."""
    if not rise_px:
        return
    canvas.begin(IGNORE)
    across = np.linspace(-1, 1, 25)
    for share, grey in ((1.0, 26), (0.8, 44), (0.45, 34)):
        arc = [
            (WIDTH / 2 * (1 + 1.05 * a), HEIGHT - share * rise_px * (1 - 0.75 * a * a))
            for a in across
        ]
        r, g, b = (int(grey * max(ambient, 0.4)) for ambient in canvas.light.ambient)
        canvas.on_screen([*arc, (WIDTH * 1.1, HEIGHT + 9), (-WIDTH * 0.1, HEIGHT + 9)], (r, g, b))
