"""What stands where in a street of the demo data: cities, suburbs and highways, drawn at random.

Lengths are metres in the road's frame (see `scene`); all chance comes from the generator.
"""

from collections.abc import Iterator

import numpy as np

from bench.data.demo.scene import Camera, Colour, Road, Scene, Thing

FARTHEST_M = 52.0  # of what moves; a car there is about 25 pixels high
STREET_END_M = 150.0  # nothing is built farther away

# Width, height and length.
VEHICLES_M = {"car": (1.85, 1.5, 4.3), "truck": (2.5, 3.3, 8.0), "bus": (2.6, 3.1, 11.0)}

CAR_COLOURS: tuple[Colour, ...] = (
    (212, 214, 216), (42, 44, 48), (150, 152, 156), (168, 34, 34), (36, 66, 132), (92, 98, 104),
    (226, 226, 220), (128, 108, 84), (30, 88, 66), (214, 160, 40),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (188, 48, 44), (40, 70, 150), (220, 190, 60), (60, 130, 80), (210, 210, 210), (40, 40, 46),
)  # fmt: skip
FACADES: tuple[Colour, ...] = (
    (156, 96, 76), (176, 152, 122), (142, 138, 134), (190, 174, 150), (120, 84, 70), (164, 120, 96),
    (116, 118, 126),
)  # fmt: skip
SIGNS: tuple[Colour, ...] = ((206, 32, 36), (28, 92, 190), (248, 200, 24), (236, 236, 236))
HIGHWAY_SIGN: Colour = (18, 118, 66)


def sample_scene(rng: np.random.Generator, *, empty: bool = False) -> Scene:
    """Draws a street; an `empty` one has nothing that a detector counts."""
    place = _one_of(rng, {"city street": 0.55, "residential": 0.2, "highway": 0.25})
    camera = Camera(
        height_m=rng.uniform(1.45, 1.7),
        focal_px=rng.uniform(800, 960),
        horizon_px=rng.uniform(290, 345),
        yaw=rng.uniform(-0.10, 0.10),
        bend=rng.uniform(-0.004, 0.004) if rng.random() < 0.5 else 0.0,
    )
    road = _road(rng, place)
    users = _without_collisions(list(_users(rng, place, road)))
    things = [*_roadside(rng, place, road), *_furniture(rng, place, road), *users]
    if empty:
        things = [thing for thing in things if thing.category is None]
    return Scene(
        place=place,
        weather=_one_of(rng, {"clear": 0.4, "partly cloudy": 0.25, "overcast": 0.2, "foggy": 0.15}),
        timeofday=_one_of(rng, {"daytime": 0.62, "dawn/dusk": 0.18, "night": 0.2}),
        camera=camera,
        road=road,
        bonnet_px=int(rng.integers(30, 76)) if rng.random() < 0.75 else 0,
        things=tuple(things),
    )


def _one_of(rng: np.random.Generator, chances: dict[str, float]) -> str:
    return str(rng.choice(list(chances), p=list(chances.values())))


def _road(rng: np.random.Generator, place: str) -> Road:
    fewest, most = {"city street": (1, 2), "residential": (0, 1), "highway": (1, 3)}[place]
    count = int(rng.integers(fewest, most + 1))
    left = int(rng.integers(0, count + 1))
    fewest, most = {"city street": (0, 2), "residential": (1, 1), "highway": (0, 0)}[place]
    city, parking = place == "city street", place != "highway"
    return Road(
        lane_m=rng.uniform(3.5, 4.0),
        offset_m=rng.uniform(-0.35, 0.35),
        left_lanes=left,
        right_lanes=count - left,
        oncoming_lanes=int(rng.integers(fewest, most + 1)),
        left_parking_m=2.3 if parking and rng.random() < 0.5 else 0.8,
        right_parking_m=2.3 if parking and rng.random() < 0.6 else 0.8,
        walk_m=0.0 if place == "highway" else rng.uniform(3.0, 5.5),
        crossing_m=rng.uniform(9, 22) if city and rng.random() < 0.4 else None,
    )


def _roadside(rng: np.random.Generator, place: str, road: Road) -> Iterator[Thing]:
    """Buildings, trees and hedges on both sides, beyond the pavement."""
    for sign, edge in ((-1, road.edges[0]), (1, road.edges[1])):
        line = abs(edge) + road.walk_m
        if place == "highway":
            yield from _trees(rng, sign, line + 4.0, spacing=(5, 14))
        elif place == "residential":
            yield from _houses(rng, sign, line + 4.0, floors=(2, 4), gap=(5, 14))
            yield from _trees(rng, sign, line + 1.6, spacing=(11, 24))
        else:
            yield from _houses(rng, sign, line, floors=(3, 10), gap=(0, 2.5))
            if rng.random() < 0.6:
                yield from _trees(rng, sign, line - 1.0, spacing=(16, 34), height=(5.0, 7.0))


def _houses(
    rng: np.random.Generator,
    sign: int,
    line: float,
    *,
    floors: tuple[int, int],
    gap: tuple[float, float],
) -> Iterator[Thing]:
    """A row of houses whose fronts stand on `x = sign * line`."""
    z = rng.uniform(-6, 4)
    while z < STREET_END_M:
        length, depth = rng.uniform(9, 22), 14.0
        yield Thing(
            kind="building",
            x=sign * (line + depth / 2),
            z=z,
            width=depth,
            length=length,
            height=3.2 * rng.integers(floors[0], floors[1] + 1) + 0.8,
            colour=FACADES[rng.integers(len(FACADES))],
            shape=int(rng.integers(1 << 16)),
        )
        z += length + rng.uniform(*gap)


def _trees(
    rng: np.random.Generator,
    sign: int,
    line: float,
    *,
    spacing: tuple[float, float],
    height: tuple[float, float] = (5.0, 9.5),
) -> Iterator[Thing]:
    z = rng.uniform(6, 16)
    while z < STREET_END_M * 0.8:
        tall = rng.uniform(*height)
        hedge = rng.random() < 0.25
        yield Thing(
            kind="hedge" if hedge else "tree",
            x=sign * (line + rng.uniform(0, 2.5)),
            z=z,
            width=tall * rng.uniform(0.55, 0.8) if not hedge else rng.uniform(2, 4),
            height=tall if not hedge else rng.uniform(1.0, 1.8),
            colour=(
                int(rng.integers(38, 74)),
                int(rng.integers(84, 122)),
                int(rng.integers(30, 56)),
            ),
            shape=int(rng.integers(1 << 16)),
        )
        z += rng.uniform(*spacing)


def _furniture(rng: np.random.Generator, place: str, road: Road) -> Iterator[Thing]:
    """Poles at the kerbs, with the lights and signs that hang on them."""
    for sign, edge in ((-1, road.edges[0]), (1, road.edges[1])):
        kerb, z = edge + sign * 0.5, rng.uniform(9, 20)
        while z < 75:
            roll = rng.random()
            if place == "highway" and roll < 0.45:
                yield from _sign(
                    rng, kerb + sign * 1.5, z, size=(3.6, 2.2), foot=3.6, colour=HIGHWAY_SIGN
                )
            elif roll < 0.4 and z < 42:
                yield from _sign(
                    rng, kerb, z, size=(1.0, 1.0), foot=2.2, colour=SIGNS[rng.integers(len(SIGNS))]
                )
            elif place != "highway" and roll < 0.6:
                yield Thing(kind="pole", x=kerb, z=z, width=0.26, height=7.5, shape=-sign)
            z += rng.uniform(14, 30)
    if place == "city street" and (road.crossing_m is not None or rng.random() < 0.45):
        yield from _signals(rng, road, (road.crossing_m or rng.uniform(12, 20)) + 5.0)


def _sign(
    rng: np.random.Generator,
    x: float,
    z: float,
    *,
    size: tuple[float, float],
    foot: float,
    colour: Colour,
) -> Iterator[Thing]:
    width, height = size
    yield Thing(kind="pole", x=x, z=z + 0.1, width=0.2, height=foot + 0.4)
    yield Thing(
        kind="traffic sign", x=x, y=foot, z=z, width=width, height=height, colour=colour,
        shape=int(rng.integers(4)) if width < 2 else 3,
    )  # fmt: skip


def _signals(rng: np.random.Generator, road: Road, z: float) -> Iterator[Thing]:
    """Traffic lights of one crossing: on posts at both kerbs and one on an arm over the road."""
    light = _one_of(rng, {"R": 0.45, "Y": 0.1, "G": 0.45})
    for sign, edge in ((-1, road.edges[0]), (1, road.edges[1])):
        x = edge + sign * 0.6
        arm = sign == 1
        yield Thing(kind="pole", x=x, z=z + 0.2, width=0.3, height=5.9 if arm else 3.0)
        hung = [(x, 2.9)]
        if arm:
            over = road.offset_m + rng.uniform(0.2, 1.2)
            yield Thing(
                kind="pole", x=(x + over) / 2, y=5.6, z=z + 0.2, width=x - over, height=0.22
            )
            hung.append((over, 4.5))
        for where, foot in hung:
            yield Thing(
                kind="traffic light", x=where, y=foot, z=z, width=0.55, height=1.4, light=light
            )


def _users(rng: np.random.Generator, place: str, road: Road) -> Iterator[Thing]:
    """Who drives, stands, walks and rides."""
    left, right = road.ours
    ours = 1 + road.left_lanes + road.right_lanes
    for lane in range(ours):
        nearest = rng.uniform(9, 30) if lane == road.left_lanes else rng.uniform(5, 24)
        yield from _queue(rng, left + (lane + 0.5) * road.lane_m, nearest, gap=(7, 26))
    for lane in range(road.oncoming_lanes):
        x = left - (lane + 0.5) * road.lane_m
        yield from _queue(rng, x, rng.uniform(7, 24), gap=(7, 28), oncoming=True)
    for x, room in (
        (road.edges[0] + 1.3, road.left_parking_m),
        (road.edges[1] - 1.3, road.right_parking_m),
    ):
        if room > 2:
            yield from _queue(
                rng, x, rng.uniform(4, 16), gap=(1, 9), parked=True, oncoming=x < left
            )
    if place != "highway":
        yield from _walkers(rng, road, most=7 if place == "city street" else 4)
        if rng.random() < 0.5:
            yield from _cyclist(rng, right - 0.3, rng.uniform(6.5, 19))
        if rng.random() < 0.3:
            yield from _cyclist(
                rng, left + 0.5 - (1.0 if road.oncoming_lanes else 0.0), rng.uniform(10, 24)
            )


def _without_collisions(users: list[Thing]) -> list[Thing]:
    """Leaves out who walks or rides where a vehicle stands."""
    vehicles = [user for user in users if user.length]

    def hit(user: Thing) -> bool:
        return any(
            abs(user.x - car.x) < car.width / 2 + 0.4
            and car.z - 0.8 < user.z < car.z + car.length + 0.6
            for car in vehicles
        )

    return vehicles + [user for user in users if not user.length and not hit(user)]


def _queue(
    rng: np.random.Generator,
    x: float,
    nearest: float,
    *,
    gap: tuple[float, float],
    parked: bool = False,
    oncoming: bool = False,
) -> Iterator[Thing]:
    """Vehicles one behind another in a lane, from the nearest to the farthest that still counts."""
    z = nearest
    while z < FARTHEST_M:
        kind = "car" if parked else str(rng.choice(["car", "truck", "bus"], p=[0.74, 0.15, 0.11]))
        if kind != "car":
            z += 6.0
        width, height, length = {
            "car": (1.85, 1.5, 4.3),
            "truck": (2.5, 3.3, 8.0),
            "bus": (2.6, 3.1, 11.0),
        }[kind]
        shape = int(rng.integers(1 << 16))
        yield Thing(
            kind=kind,
            x=x + rng.uniform(-0.25, 0.25),
            z=z,
            width=width,
            height=height * (1.18 if kind == "car" and shape % 3 == 0 else 1.0),
            length=length,
            colour=CAR_COLOURS[rng.integers(len(CAR_COLOURS))],
            oncoming=oncoming,
            shape=shape,
        )
        z += length + rng.uniform(*gap)


def _walkers(rng: np.random.Generator, road: Road, *, most: int) -> Iterator[Thing]:
    for _ in range(rng.integers(1, most + 1)):
        side = int(rng.integers(2))
        x = road.edges[side] + (2 * side - 1) * rng.uniform(0.5, max(road.walk_m - 0.6, 0.8))
        z = rng.uniform(8, 26)
        if road.crossing_m is not None and rng.random() < 0.35:
            x, z = rng.uniform(*road.edges), road.crossing_m + rng.uniform(0.5, 3.0)
        yield Thing(
            kind="pedestrian", x=x, z=z, width=0.62, height=rng.uniform(1.6, 1.9),
            colour=CLOTHES[rng.integers(len(CLOTHES))], shape=int(rng.integers(1 << 16)),
        )  # fmt: skip


def _cyclist(rng: np.random.Generator, x: float, z: float) -> Iterator[Thing]:
    yield Thing(
        kind="rider", x=x, y=0.55, z=z + 0.05, width=0.6, height=1.25,
        colour=CLOTHES[rng.integers(len(CLOTHES))], shape=int(rng.integers(1 << 16)),
    )  # fmt: skip
    yield Thing(kind="bicycle", x=x, z=z, width=0.66, height=1.05)
