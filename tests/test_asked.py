"""What a sweep is asked for is looked at before torch is there; what changes nothing is said."""

import pytest
from suites import write_pictures

from orchestrator.data.suites import load_suite
from orchestrator.plan.asked import look_at
from orchestrator.plan.request import SweepRequest


@pytest.fixture
def asked(tmp_path):
    """What is said of a request for a folder, or a table, of images."""
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "photos", name, images=20)
    table = tmp_path / "pets.csv"
    rows = [f"{name}/{n}.png,{name}" for name in ("cat", "dog") for n in range(20)]
    table.write_text("\n".join(["image,label", *rows]))

    def ask(suite: str, **options) -> list[str]:
        said: list[str] = []
        request = SweepRequest(
            str(tmp_path / suite), backbone="vit_tiny_patch16_224", methods=["linear"], **options
        )
        look_at(request, name="pets", say=said.append)
        return said

    return ask


def test_a_place_of_images_is_used_by_a_table_only(asked, tmp_path):
    assert asked("pets.csv", data=tmp_path / "photos") == []
    (line,) = asked("photos", data=tmp_path)
    assert line.startswith("--data changes nothing: the images of ")


def test_a_split_that_the_images_bring_is_not_split_again(asked, tmp_path):
    assert asked("photos", split="70/15/15", split_seed=2) == []
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            write_pictures(tmp_path / "ready" / split, name, images=4)
    assert len(load_suite(str(tmp_path / "ready")).tasks) == 1
    (line,) = asked("ready", split_seed=2)
    assert line.startswith("--split and --split-seed change nothing: ")
