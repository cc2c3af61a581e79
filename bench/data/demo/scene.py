"""One street of the demo data in numbers: a camera, a road, the hour and a list of things.

Lengths are metres, in the road's own frame: `x` to the right of the camera, `y` up from the ground,
`z` ahead along the road (yaw and bend of the road are the camera's business).
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bench.data.classes import DET, SEM

Colour = tuple[int, int, int]
Distance = TypeVar("Distance", float, np.ndarray)

# Kind of thing -> its semantic class and, where it is counted, its detection class.
SEM_OF = {
    "car": "car",
    "truck": "truck",
    "bus": "bus",
    "pedestrian": "person",
    "rider": "rider",
    "bicycle": "bicycle",
    "traffic light": "traffic light",
    "traffic sign": "traffic sign",
    "pole": "pole",
    "tree": "vegetation",
    "hedge": "vegetation",
    "building": "building",
}
assert set(SEM_OF.values()) <= set(SEM)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole behind the windscreen, and the way the road leaves it."""

    height_m: float
    focal_px: float
    horizon_px: float  # the row of the horizon
    yaw: float  # metres that the road drifts to the right per metre ahead
    bend: float  # 1/m, positive to the right

    def drift(self, z: Distance) -> Distance:
        """How far right of the optical axis the road's `x = 0` lies at distance `z`."""
        return self.yaw * z + 0.5 * self.bend * z * z


@dataclass(frozen=True, kw_only=True)
class Road:
    """A cross-section: our lane, its neighbours, oncoming lanes, parking strips, pavements."""

    lane_m: float
    offset_m: float  # the middle of the ego lane, right of the camera
    left_lanes: int  # lanes of our direction at the left of ours
    right_lanes: int
    oncoming_lanes: int  # behind a double yellow line
    left_parking_m: float
    right_parking_m: float
    walk_m: float  # 0 where grass begins at the road's edge
    crossing_m: float | None  # where a zebra crossing begins

    @property
    def ours(self) -> tuple[float, float]:
        """The left and right ends of the lanes of our direction."""
        left = self.offset_m - (self.left_lanes + 0.5) * self.lane_m
        return left, self.offset_m + (self.right_lanes + 0.5) * self.lane_m

    @property
    def edges(self) -> tuple[float, float]:
        """The kerbs."""
        left, right = self.ours
        left -= self.oncoming_lanes * self.lane_m + self.left_parking_m + 0.5
        return left, right + self.right_parking_m + 0.5


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A box that something is painted into: `x` its middle, `y` its foot, `z` its nearest face."""

    kind: str
    x: float
    z: float
    width: float
    height: float
    y: float = 0.0
    length: float = 0.0
    colour: Colour = (128, 128, 128)
    oncoming: bool = False
    light: str = "NA"  # of a traffic light R, Y or G, as det_20 writes it
    shape: int = 0  # which of a kind's shapes, and the seed of its details

    @property
    def category(self) -> str | None:
        """Its detection class; None for what is not counted."""
        return self.kind if self.kind in DET else None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One street at one moment."""

    place: str  # BDD's `scene`: city street, residential or highway
    weather: str
    timeofday: str
    camera: Camera
    road: Road
    bonnet_px: int  # how high the ego car's bonnet rises at the bottom of the picture
    things: tuple[Thing, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """The frame's attributes as det_20 spells them."""
        return {"weather": self.weather, "timeofday": self.timeofday, "scene": self.place}
