"""The classes of BDD100K's three tasks, their order and the toolkit's name mappings.

Sources: bdd100k/bdd100k `configs/det.toml`, `label/label.py`; class ids as in the released masks.
"""

TASKS = ("sem", "driv", "det")

IGNORE = 255  # the value of a pixel that is not evaluated, is padding or has no label

DET = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)

SEM = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)

DRIV = ("direct", "alternative", "background")

# What the ids 0, 1, 2 of the drivable masks released in 2018 are: background, direct, alternative.
DRIV_OF_2018 = (2, 0, 1)

CLASSES = {"sem": SEM, "driv": DRIV, "det": DET}

# The colours in which maps are drawn, RGB; those of sem are Cityscapes', as its classes are.
COLORS = {
    "sem": (
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153)),
        *((153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152)),
        *((70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70)),
        *((0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ),
    "driv": ((219, 94, 86), (86, 180, 233), (0, 0, 0)),
}

# Other spellings of the ten detection classes (2018 release, Scalabel).
DET_ALIASES = {
    "bike": "bicycle",
    "motor": "motorcycle",
    "person": "pedestrian",
    "caravan": "car",
    "van": "car",
}

# Categories outside the ten: the toolkit keeps them as crowd regions of the class at the right,
# so that a detection on them is neither right nor wrong.
DET_CROWD = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}
