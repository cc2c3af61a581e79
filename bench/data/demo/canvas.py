"""The picture of one demo street and its labels, painted together so that they cannot disagree.

Whatever is filled in the picture is filled in a label map with the same outline. That map holds
`256 * instance + class`: classes, boxes and drivable ground are all read off what stays visible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bench.data.classes import IGNORE, SEM
from bench.data.demo.scene import Camera, Colour, Scene

WIDTH, HEIGHT = 1280, 720
NEAR_M = 0.8  # nothing nearer is projected
TILE = 512  # side of the noise tiles, a power of two so that indices wrap with `&`

SEM_ID = {name: index for index, name in enumerate(SEM)}

# How much grain a surface of each class shows, as a share of its brightness.
GRAIN = np.full(256, 0.03, np.float32)
for _name, _share in {
    "vegetation": 0.13,
    "terrain": 0.1,
    "building": 0.05,
    "road": 0.04,
    "sky": 0.012,
}.items():
    GRAIN[SEM_ID[_name]] = _share

NOTHING = (math.inf, math.inf, -math.inf, -math.inf)  # left, top, right, bottom

Point = tuple[float, float, float]


@lru_cache(maxsize=8)
def noise(smooth_px: float, seed: int) -> np.ndarray:
    """A `TILE` x `TILE` field that repeats without a seam, mean 0, deviation 1, float32."""
    frequency = np.fft.fftfreq(TILE)
    low_pass = np.exp(-2 * (np.pi * smooth_px) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    white = np.random.default_rng(seed).normal(size=(TILE, TILE))
    field = np.fft.ifft2(np.fft.fft2(white) * low_pass).real
    return (field / field.std()).astype(np.float32)


@lru_cache(maxsize=8)
def ring(corners: int) -> tuple[tuple[float, float], ...]:
    """The corners of a regular polygon in the unit circle; the first lies at the right."""
    angles = (2 * math.pi * corner / corners for corner in range(corners))
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of one hour and weather."""

    ambient: tuple[float, float, float]  # factor per colour channel
    haze: Colour  # what distance fades to; the sky's colour at the horizon
    zenith: Colour
    fog_m: float  # distance at which 63 % is haze
    beam: float  # strength of the ego car's headlights
    sun: float  # how hard shadows are, 0-1

    @property
    def night(self) -> bool:
        """Whether lamps are on."""
        return self.beam > 0

    def shade(self, colour: Colour, z: float, *, lit: bool = False) -> Colour:
        """The colour of a surface at distance `z`; `lit` ones shine by themselves."""
        clear = math.exp(-max(z, 0.0) / self.fog_m)
        headlights = self.beam * math.exp(-max(z, 0.0) / 22.0)
        r, g, b = (
            haze + clear * (value * (1.0 if lit else ambient + headlights) - haze)
            for value, ambient, haze in zip(colour, self.ambient, self.haze, strict=True)
        )
        return _byte(r), _byte(g), _byte(b)


def light_of(scene: Scene, rng: np.random.Generator) -> Light:
    """The light that a scene's hour and weather make."""
    foggy, clear = scene.weather == "foggy", scene.weather in ("clear", "partly cloudy")
    fog_m = rng.uniform(45, 90) if foggy else rng.uniform(260, 500)
    if scene.timeofday == "night":
        haze = (34, 34, 46) if not foggy else (58, 58, 66)
        return Light(
            ambient=(0.45, 0.45, 0.52),
            haze=haze,
            zenith=(10, 13, 27),
            fog_m=fog_m,
            beam=0.6,
            sun=0.0,
        )
    if scene.timeofday == "dawn/dusk":
        haze = (236, 178, 138) if not foggy else (190, 172, 164)
        zenith = (92, 104, 150) if not foggy else (150, 146, 150)
        return Light(
            ambient=(0.72, 0.62, 0.6), haze=haze, zenith=zenith, fog_m=fog_m, beam=0.0, sun=0.3
        )
    grey = rng.uniform(0.85, 1.0)
    haze = (208, 220, 232) if clear else (206, 208, 210)
    zenith = (74, 128, 204) if clear else (168, 174, 182)
    ambient = (1.05, 1.02, 0.96) if clear else (0.9, 0.92, 0.94)
    r, g, b = (value * grey for value in ambient)
    return Light(
        ambient=(r, g, b),
        haze=haze,
        zenith=zenith,
        fog_m=fog_m,
        beam=0.0,
        sun=0.75 if clear else 0.25,
    )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one counted thing left on the canvas."""

    category: str
    instance: int
    light: str
    truncated: bool
    outline: tuple[
        int, int, int, int
    ]  # left, top, right, bottom of all it filled, inside the picture
    painted_px: int  # its pixels before anything nearer was painted over it


class Canvas:
    """A picture and its label map under one brush."""

    def __init__(
        self, camera: Camera, light: Light, picture: np.ndarray, label: np.ndarray
    ) -> None:
        self.camera, self.light = camera, light
        self._picture = Image.fromarray(picture)
        self._label = Image.fromarray(label.astype(np.int32))
        self._brush, self._label_brush = ImageDraw.Draw(self._picture), ImageDraw.Draw(self._label)
        self._value = IGNORE
        self._instances = 0
        self._extent = NOTHING
        self._glows: list[tuple[float, float, float, Colour, int]] = []

    def label(self) -> np.ndarray:
        """The label map so far: `256 * instance + class`, int32."""
        return np.asarray(self._label)

    def begin(self, sem_id: int, *, counted: bool = False) -> None:
        """What is filled from here on is of this class and, if `counted`, of a new instance."""
        self._instances += counted
        self._value = sem_id + 256 * (self._instances if counted else 0)
        self._extent = NOTHING

    def end(self, category: str, light: str) -> Mark | None:
        """The mark of the counted thing begun last; None where nothing of it is in the picture."""
        left, top, right, bottom = self._extent
        u0, v0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
        u1, v1 = min(int(right) + 2, WIDTH), min(int(bottom) + 2, HEIGHT)
        if u0 >= u1 or v0 >= v1:
            return None
        own = np.asarray(self._label.crop((u0, v0, u1, v1))) == self._value
        if not own.any():
            return None
        return Mark(
            category=category,
            instance=self._instances,
            light=light,
            truncated=bool(
                left < -0.5 or right > WIDTH - 0.5 or top < -0.5 or bottom > HEIGHT - 0.5
            ),
            outline=(u0, v0, u1, v1),
            painted_px=int(own.sum()),
        )

    def project(self, point: Point) -> tuple[float, float]:
        """Metres on the road to pixels, whose centres are at whole numbers."""
        x, y, z = point
        z = max(z, NEAR_M)
        scale = self.camera.focal_px / z
        u = WIDTH / 2 + scale * (x + self.camera.drift(z))
        return u, self.camera.horizon_px + scale * (self.camera.height_m - y)

    def fill(self, corners: Sequence[Point], colour: Colour, *, lit: bool = False) -> None:
        """A polygon in the world."""
        z = sum(corner[2] for corner in corners) / len(corners)
        self.on_screen(
            [self.project(corner) for corner in corners], self.light.shade(colour, z, lit=lit)
        )

    def disc(
        self,
        centre: Point,
        radius_m: float,
        colour: Colour,
        *,
        lit: bool = False,
        squash: float = 1.0,
    ) -> None:
        """A disc that faces the camera, `squash` times as wide as high."""
        u, v = self.project(centre)
        radius = radius_m * self.camera.focal_px / max(centre[2], NEAR_M)
        rim = [(u + squash * radius * a, v + radius * b) for a, b in ring(8 if radius < 4 else 14)]
        self.on_screen(rim, self.light.shade(colour, centre[2], lit=lit))

    def glow(self, centre: Point, radius_m: float, colour: Colour) -> None:
        """Light around a lamp, at night, if nothing hides it in the end; the labels stay."""
        if self.light.night:
            u, v = self.project(centre)
            radius = radius_m * self.camera.focal_px / max(centre[2], NEAR_M)
            self._glows.append((u, v, radius, colour, self._value))

    def on_screen(self, outline: Sequence[tuple[float, float]], colour: Colour) -> None:
        """A polygon in pixels, in a colour that no light changes."""
        us, vs = [point[0] for point in outline], [point[1] for point in outline]
        left, top, right, bottom = self._extent
        self._extent = (min(left, *us), min(top, *vs), max(right, *us), max(bottom, *vs))
        if max(us) < 0 or min(us) > WIDTH or max(vs) < 0 or min(vs) > HEIGHT:
            return
        self._brush.polygon(outline, fill=colour)
        self._label_brush.polygon(outline, fill=self._value)

    def photograph(self, rng: np.random.Generator) -> Image.Image:
        """The picture through a lens: glare, soft edges, grain and a darker rim."""
        balance = rng.uniform(1.0, 1.1) * rng.uniform(0.97, 1.03, 3)
        table = [_byte(level * channel) for channel in balance for level in range(256)]
        soft = self._picture.filter(ImageFilter.BoxBlur(0.75)).point(table)
        picture, label = np.asarray(soft).astype(np.float32), self.label()
        for u, v, radius, colour, value in self._glows:
            if 0 <= u < WIDTH and 0 <= v < HEIGHT and label[int(v), int(u)] == value:
                _add_glow(picture, u, v, radius, colour)
        clear = np.clip(np.abs(picture[..., 1] - self.light.haze[1]) / 60, 0.15, 1)
        gain = _tiled(noise(1.1, 1), rng) * GRAIN[label & 255] * clear  # haze hides texture
        gain += 1 + 0.02 * _tiled(noise(9.0, 2), rng)
        picture *= (gain * _rim())[..., None]
        return Image.fromarray(np.minimum(picture, 255).astype(np.uint8))


def _byte(value: float) -> int:
    return int(min(max(value, 0.0), 255.0))


def _tiled(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture-sized piece of a noise tile at a random shift."""
    shift = rng.integers(0, TILE, 2)
    rows, columns = np.arange(HEIGHT) + shift[0], np.arange(WIDTH) + shift[1]
    return tile[rows & (TILE - 1)][:, columns & (TILE - 1)]


@lru_cache(maxsize=1)
def _rim() -> np.ndarray:
    """Brightness that falls off to the corners."""
    v, u = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return (1 - 0.11 * (u * u + v * v) ** 1.5).astype(np.float32)


def _add_glow(picture: np.ndarray, u: float, v: float, radius: float, colour: Colour) -> None:
    reach = 2.5 * min(max(radius, 3.0), 90.0)
    u0, u1 = max(int(u - reach), 0), min(int(u + reach) + 1, WIDTH)
    v0, v1 = max(int(v - reach), 0), min(int(v + reach) + 1, HEIGHT)
    if u0 >= u1 or v0 >= v1:
        return
    distance = (np.arange(v0, v1)[:, None] - v) ** 2 + (np.arange(u0, u1) - u) ** 2
    shine = 0.8 * np.exp(-distance / (2 * (reach / 2.8) ** 2))
    picture[v0:v1, u0:u1] += shine[..., None] * np.asarray(colour, np.float32)
