"""The catalogue: rows, names, selections."""

import subprocess
import sys

import pytest

from zoo.catalog import CATALOG, ZooError, find, select
from zoo.manifests import manifest

TABLE_2 = ["supervised", "moco_v1", "moco_v2", "simclr", "swav", "byol", "detco", "densecl"]
TABLE_2 += ["clip"]


def shorts(*patterns: str) -> list[str]:
    return [row.short for row in select(patterns)]


def test_rows_are_the_paper_s_in_the_order_of_its_table():
    assert [row.short for row in CATALOG] == TABLE_2


def test_names_labels_and_files_are_unique():
    for field in ("name", "short", "label", "file", "url"):
        assert len({getattr(row, field) for row in CATALOG}) == len(CATALOG), field


def test_every_row_has_a_manifest_with_tensors():
    assert all(manifest(row.layout).layout == row.layout for row in CATALOG)
    assert all(len(manifest(row.layout).tensors) >= 265 for row in CATALOG)


def test_find_takes_short_and_full_names():
    assert find("moco_v2") is find("moco_v2_200ep")
    assert find("byol").padding == "same"


def test_an_unknown_name_is_answered_with_the_nearest_one_and_all_known_ones():
    with pytest.raises(ZooError) as error:
        find("moco_v3")
    assert str(error.value) == (
        "Unknown checkpoint 'moco_v3'. Did you mean 'moco_v2'? Known: byol, clip, densecl, detco, "
        "moco_v1, moco_v2, simclr, supervised, swav (bench zoo ls)."
    )


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ZooError, match=r"^Unknown checkpoint 'xyzzy'\. Known: "):
        find("xyzzy")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("all",), TABLE_2),
        (("everything",), TABLE_2),
        (("clip", "moco_v2", "moco_v2_200ep"), ["moco_v2", "clip"]),
        (("moco*",), ["moco_v1", "moco_v2"]),
        (("detection", "segmentation"), ["detco", "densecl"]),
        (("classification", "!moco*", "!byol"), ["supervised", "simclr", "swav"]),
        (("!classification",), ["detco", "densecl", "clip"]),
    ],
)
def test_select_gives_each_row_once_in_the_catalogue_s_order(patterns, expected):
    assert shorts(*patterns) == expected


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("dino*",), "No checkpoint matches 'dino\\*'"),
        (("clop",), "Did you mean 'clip'"),
        (("all", "!biol"), "Did you mean 'byol'"),
        (("clip", "!clip"), "leaves no checkpoint"),
    ],
)
def test_select_refuses_what_means_nothing(patterns, said):
    with pytest.raises(ZooError, match=said):
        select(patterns)


def test_catalogue_manifests_and_stand_in_identities_need_no_torch():
    code = (
        "import sys; from pathlib import Path; from zoo.catalog import CATALOG; "
        "from zoo.store import Zoo; zoo = Zoo(Path('nowhere')); "
        "print(len({zoo.identity(row, stand_in=True) for row in CATALOG}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "False"]
