"""Sky and ground of a demo street, pixel by pixel: asphalt, lane lines, pavement, grass, shadows.

Every ground pixel is cast back onto the road plane, so texture and lines lie in perspective and the
drivable areas are exact.
"""

import numpy as np

from bench.data.demo.canvas import HEIGHT, SEM_ID, TILE, WIDTH, Light, noise
from bench.data.demo.scene import Camera, Road, Scene

DIRECT, ALTERNATIVE, BACKGROUND = 0, 1, 2

ASPHALT, PAVEMENT, GRASS = (98, 98, 102), (172, 164, 152), (104, 124, 62)
WHITE, YELLOW = (232, 232, 228), (232, 178, 32)
LINE_M = 0.22
SHADOWED = ("car", "truck", "bus", "pedestrian", "bicycle")


def horizon_row(camera: Camera) -> int:
    """The first row of ground."""
    return int(camera.horizon_px) + 2


def paint_sky(camera: Camera, light: Light, weather: str, rng: np.random.Generator) -> np.ndarray:
    """The rows above the ground, (rows, 1280, 3) float32."""
    rows = horizon_row(camera)
    height = (np.arange(rows, dtype=np.float32)[::-1] / camera.horizon_px)[:, None, None] ** 0.8
    haze, zenith = np.asarray(light.haze, np.float32), np.asarray(light.zenith, np.float32)
    sky = np.broadcast_to(haze + height * (zenith - haze), (rows, WIDTH, 3)).copy()
    cover = {"clear": 1.6, "partly cloudy": 0.2, "overcast": -0.8, "foggy": 3.0}[weather]
    v, u = np.arange(rows), np.arange(WIDTH)
    shift = rng.integers(0, TILE, 2)
    field = noise(14.0, 3)[(v * 2 + shift[0]) & (TILE - 1)][:, (u // 2 + shift[1]) & (TILE - 1)]
    cloud = np.clip((field - cover) * 0.6, 0, 0.85)[..., None]
    white = np.minimum(haze * 1.08 + 6, 250)
    return sky + cloud * (white - sky)


def paint_ground(
    scene: Scene, light: Light, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows below the sky: colours (rows, 1280, 3) float32, semantic ids and drivable areas."""
    camera, road = scene.camera, scene.road
    v = np.arange(horizon_row(camera), HEIGHT, dtype=np.float32)[:, None]
    z = camera.focal_px * camera.height_m / (v - camera.horizon_px)
    x = (np.arange(WIDTH, dtype=np.float32) - WIDTH / 2) * (z / camera.focal_px) - camera.drift(z)
    sem, driv = _areas(road, scene.place, x)
    colours = _surface(road, x, z, sem, rng)
    _paint_lines(colours, road, x, z, metres_per_px=z / camera.focal_px)
    colours *= _lit(scene, light, x, z, rng)
    clear = np.exp(-z / light.fog_m)[..., None]
    haze = np.asarray(light.haze, np.float32)
    colours -= haze
    colours *= clear
    colours += haze
    return colours, sem, driv


def _areas(road: Road, place: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = road.edges
    beyond = np.maximum(left - x, x - right)
    outside = "sidewalk" if place == "city street" else "terrain"
    sem = np.full(x.shape, SEM_ID[outside], np.uint8)
    sem[beyond < road.walk_m] = SEM_ID["sidewalk"]
    sem[beyond < 0] = SEM_ID["road"]
    driv = np.full(x.shape, BACKGROUND, np.uint8)
    driv[(x > road.ours[0]) & (x < road.ours[1])] = ALTERNATIVE
    driv[np.abs(x - road.offset_m) < road.lane_m / 2] = DIRECT
    return sem, driv


def _surface(
    road: Road, x: np.ndarray, z: np.ndarray, sem: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Asphalt, pavement and grass with the texture of each, which fades where pixels grow large."""
    tone = rng.uniform(0.86, 1.14)
    palette = np.zeros((256, 3), np.float32)
    palette[SEM_ID["road"]] = np.asarray(ASPHALT) * tone
    palette[SEM_ID["sidewalk"]] = np.asarray(PAVEMENT) * rng.uniform(0.92, 1.05)
    palette[SEM_ID["terrain"]] = np.asarray(GRASS) * rng.uniform(0.85, 1.15)
    shift = rng.integers(0, TILE, 2)
    coarse = _on_plane(noise(3.0, 4), x, z, shift, per_m=6)
    fine = _on_plane(noise(1.0, 5), x, z, shift, per_m=26) * np.clip(7 / z, 0, 1)
    texture = 1 + 0.05 * coarse + 0.05 * fine
    lane = np.abs((x - road.offset_m) / road.lane_m - np.round((x - road.offset_m) / road.lane_m))
    texture -= np.where(sem == SEM_ID["road"], 0.07 * np.exp(-(((lane - 0.25) / 0.09) ** 2)), 0)
    colours = palette[sem] * texture[..., None]
    joints = (np.abs((x % 1.5) - 0.75) < 0.03) | (np.abs((z % 1.5) - 0.75) < 0.03)
    colours[joints & (sem == SEM_ID["sidewalk"]) & (z < 25)] *= 0.86
    return colours


def _on_plane(
    tile: np.ndarray, x: np.ndarray, z: np.ndarray, shift: np.ndarray, *, per_m: float
) -> np.ndarray:
    rows, columns = (z * per_m).astype(np.int32) + shift[0], (x * per_m).astype(np.int32) + shift[1]
    return tile[rows & (TILE - 1), columns & (TILE - 1)]


def _paint_lines(
    colours: np.ndarray, road: Road, x: np.ndarray, z: np.ndarray, metres_per_px: np.ndarray
) -> None:
    """Lane lines, kerbs and the zebra crossing, with soft edges."""

    def stripe(at: float, width: float = LINE_M) -> np.ndarray:
        return np.clip((width / 2 - np.abs(x - at)) / metres_per_px + 0.5, 0, 1)

    left, right = road.ours
    dashes = [
        left + lane * road.lane_m for lane in range(1, 1 + road.left_lanes + road.right_lanes)
    ]
    solid, yellow = [right], []
    if road.oncoming_lanes:
        yellow += [left - 0.18, left + 0.18]
        dashes += [left - lane * road.lane_m for lane in range(1, road.oncoming_lanes)]
        solid += [left - road.oncoming_lanes * road.lane_m]
    else:
        (solid if road.walk_m else yellow).append(left)
    white = sum(map(stripe, solid), np.zeros_like(x)) + sum(map(stripe, dashes)) * ((z % 7.5) < 4.2)
    if road.walk_m:
        white += 0.7 * (stripe(road.edges[0] - 0.1, 0.2) + stripe(road.edges[1] + 0.1, 0.2))
    if road.crossing_m is not None:
        on_road = (x > road.edges[0] + 0.4) & (x < road.edges[1] - 0.4)
        white += on_road & (np.abs(z - road.crossing_m - 1.75) < 1.75) & ((x % 1.2) < 0.6)
        white += (x > left) & (x < right) & (np.abs(z - road.crossing_m + 1.3) < 0.22)
    _cover(colours, white, WHITE)
    _cover(colours, sum(map(stripe, yellow), np.zeros_like(x)), YELLOW)


def _cover(colours: np.ndarray, share: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Lays a slightly worn coat of paint on part of each pixel."""
    where = share > 0
    coat = 0.9 * np.minimum(share[where], 1)[:, None]
    colours[where] += coat * (np.asarray(colour, np.float32) - colours[where])


def _lit(
    scene: Scene, light: Light, x: np.ndarray, z: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The factor by which light changes the ground's colours: the hour's, shadows, headlights."""
    bright = np.ones(x.shape, np.float32)
    if light.sun > 0.5:
        shift = rng.integers(0, TILE, 2)
        dapple = _on_plane(noise(12.0, 6), x, z, shift, per_m=5)
        side = np.clip(np.abs(x) / 6 - 0.2, 0, 1.3)
        bright -= 0.38 * np.clip((dapple + side - 1.2) * 3, 0, 1)
    lean = rng.uniform(-0.6, 0.6) * light.sun
    for thing in scene.things:
        if thing.kind in SHADOWED:
            _drop_shadow(
                bright, x, z, thing.x + lean * thing.height, thing.z, thing.width, thing.length
            )
    lit = bright[..., None] * np.asarray(light.ambient, np.float32)
    if light.night:
        beam = np.exp(-((x / (2.4 + 0.1 * z)) ** 2)) * np.exp(-z / 18)
        lit += (1.1 * light.beam * beam)[..., None]
    return lit


def _drop_shadow(
    bright: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    at: float,
    near: float,
    width: float,
    length: float,
) -> None:
    rows = np.flatnonzero((z[:, 0] > near - 1.5) & (z[:, 0] < near + length + 2.0))
    if not rows.size:
        return
    span = slice(rows[0], rows[-1] + 1)
    across = np.clip((0.62 * width - np.abs(x[span] - at)) / 0.35, 0, 1)
    along = np.clip((0.5 * length + 0.5 - np.abs(z[span] - near - 0.5 * length)) / 0.4, 0, 1)
    bright[span] *= 1 - 0.6 * across * along
