"""`orchestrator data prepare` against a local stand-in of the hub, with the hub's own client."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, running_hub
from PIL import Image
from suites import write_task

from orchestrator.data.fetch import fetch_task
from orchestrator.data.suites import published_tasks
from orchestrator.data.task import DataError, Task

VTAB = "XiN0919/VTAB-1k/vtab-1k.zip"
LISTS = "XiN0919/FGVC/fgvc_split.zip"
CARS = "XiN0919/FGVC/car_ims.tgz"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def fetch(hub: Hub, data: Path, name: str) -> Task:
    """As `data prepare` does, without a new process for every case."""
    ((task, folder),) = published_tasks([name], data_root=data).items()
    return fetch_task(task, folder, progress=lambda *_: None, endpoint=hub.url)


def zip_folder(folder: Path, extra: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for path in sorted(folder.rglob("*")):
            zipped.write(path, f"vtab-1k/{path.relative_to(folder)}")
        for name, data in (extra or {}).items():
            zipped.writestr(name, data)
    return file.getvalue()


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def cars() -> tuple[bytes, bytes]:
    """The lists and the images as they are published: other folder names, other files beside."""
    lists, images = io.BytesIO(), io.BytesIO()
    with (
        zipfile.ZipFile(lists, "w") as zipped,
        tarfile.open(fileobj=images, mode="w:gz") as tar,
    ):
        for number, split in enumerate(("train", "val", "test")):
            names = {f"car_ims/{number}{index}.jpg": index + 1 for index in range(2)}
            zipped.writestr(f"fgvc_split/Stanford-cars/{split}.json", json.dumps(names))
            zipped.writestr(f"fgvc_split/Stanford-cars/{split}_0.1.json", "{}")
            for index, name in enumerate(names):
                data = jpeg(10 * number + index)
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        evil = tarfile.TarInfo("../../evil.jpg")
        tar.addfile(evil)
    return lists.getvalue(), images.getvalue()


def test_a_task_is_fetched_out_of_the_zip_and_counted(hub, tmp_path):
    write_task(tmp_path / "source/cifar100")
    write_task(tmp_path / "source/dtd")
    hub.files[VTAB] = zip_folder(tmp_path / "source", {"vtab-1k/cifar100/../../evil.txt": b"evil"})
    task = fetch(hub, tmp_path / "data", "CIFAR-100")
    assert (task.name, task.root) == ("cifar", tmp_path / "data/vtab-1k/cifar")
    assert "24 images; the official list has 800" in task.problems[0].message
    assert (task.root / "images/test/000007.png").read_bytes() == (
        tmp_path / "source/cifar100/images/test/000007.png"
    ).read_bytes()
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "data/vtab-1k/dtd").exists()

    # The zip is kept for the other tasks in it; what is there is not fetched again.
    blocks = len(hub.ranges)
    assert fetch(hub, tmp_path / "data", "cifar") == task
    assert fetch(hub, tmp_path / "data", "dtd").name == "dtd"
    assert len(hub.ranges) == blocks


def test_the_command_says_what_differs(hub, tmp_path):
    write_task(tmp_path / "source/dtd")
    hub.files[VTAB] = zip_folder(tmp_path / "source")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "data", "prepare", "dtd"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_ENDPOINT": hub.url, "ORCHESTRATOR_DATA": "place"},
    )
    assert done.returncode == 1, done.stderr  # 72 images are not the published ones
    assert "dtd: differs" in done.stdout
    assert "24 images; the official list has 1,880" in done.stdout
    assert (tmp_path / "place/vtab-1k/dtd/val200.txt").exists()


def test_fine_grained_lists_and_images_come_together(hub, tmp_path):
    hub.files[LISTS], hub.files[CARS] = cars()
    task = fetch(hub, tmp_path / "data", "stanford_cars")
    assert "2 classes in train; the official task has 196" in task.problems[0].message
    assert task.root == tmp_path / "data/fgvc/stanford_cars"
    assert (task.root / "car_ims/10.jpg").read_bytes() == jpeg(10)
    assert not list(tmp_path.rglob("evil.jpg"))
    assert not list(tmp_path.rglob("car_ims.tgz"))  # it served no other task


def test_an_interrupted_download_goes_on_where_it_stopped(hub, tmp_path):
    write_task(tmp_path / "source/dtd")
    hub.files[VTAB] = zip_folder(tmp_path / "source", {"vtab-1k/ballast": bytes(40 << 20)})
    hub.fail_after = 1
    with pytest.raises(DataError, match=r"vtab-1k.zip cannot be fetched from http.* by hand"):
        fetch(hub, tmp_path / "data", "dtd")
    assert hub.ranges == [(0, (16 << 20) - 1)]

    hub.fail_after = None
    assert fetch(hub, tmp_path / "data", "dtd").splits.keys() >= {"train", "test"}
    assert [first >> 20 for first, _ in hub.ranges] == [0, 16, 32]


def test_a_damaged_download_is_refused(hub, tmp_path):
    write_task(tmp_path / "source/dtd")
    hub.files[VTAB] = zip_folder(tmp_path / "source")
    hub.damaged = True
    with pytest.raises(DataError, match="arrived damaged"):
        fetch(hub, tmp_path / "data", "dtd")
    hub.damaged = False
    assert fetch(hub, tmp_path / "data", "dtd").name == "dtd"


def test_an_archive_put_there_by_hand_needs_no_network(hub, tmp_path):
    write_task(tmp_path / "source/dtd")
    (tmp_path / "data/vtab-1k/.downloads").mkdir(parents=True)
    archive = tmp_path / "data/vtab-1k/.downloads/vtab-1k.zip"
    archive.write_bytes(zip_folder(tmp_path / "source"))
    assert fetch(hub, tmp_path / "data", "dtd").name == "dtd"
    assert hub.ranges == []


def test_a_copy_that_moved_away_is_one_clear_error(hub, tmp_path):
    with pytest.raises(DataError, match=r"vtab-1k.zip cannot be fetched"):
        fetch(hub, tmp_path / "data", "dtd")


def drop_an_image(source: Path) -> None:
    (source / "dtd/images/val/000003.png").unlink()


def climb(source: Path) -> None:
    (source / "dtd/test.txt").write_text("../../../evil.png 0\n")


def drop_the_lists(source: Path) -> None:
    for path in (source / "dtd").glob("*.txt"):
        path.unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (drop_an_image, r"lacks 1 image of dtd: \['images/val/000003.png'\]"),
        (climb, "leads out of the task's folder"),
        (drop_the_lists, "holds no lists of dtd"),
    ],
)
def test_an_archive_that_is_not_whole_puts_nothing_in_place(hub, tmp_path, fault, message):
    write_task(tmp_path / "source/dtd")
    fault(tmp_path / "source")
    hub.files[VTAB] = zip_folder(tmp_path / "source")
    with pytest.raises(DataError, match=message):
        fetch(hub, tmp_path / "data", "dtd")
    assert not (tmp_path / "data/vtab-1k/dtd").exists()


def test_a_broken_archive_is_named(hub, tmp_path):
    hub.files[VTAB] = b"PK no zip"
    with pytest.raises(DataError, match=r"vtab-1k.zip is broken: .*; delete it"):
        fetch(hub, tmp_path / "data", "dtd")


def test_a_task_that_is_there_under_another_name_is_not_fetched(hub, tmp_path):
    folder = write_task(tmp_path / "data/VTAB-1K/Natural/CIFAR100")
    assert fetch(hub, tmp_path / "data", "cifar").root == folder


def test_an_unknown_name_starts_nothing(tmp_path):
    with pytest.raises(DataError, match="did you mean 'eurosat'"):
        published_tasks(["eurosatt"], data_root=tmp_path / "data")
