"""What `check_task` finds in files, in bounded time and memory."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from suites import write_task

from orchestrator.data.check import check_task
from orchestrator.data.formats import READ
from orchestrator.data.images import ContentHashes
from orchestrator.data.pixels import MAX_PIXELS, decode
from orchestrator.data.task import MAX_PROBLEMS_SHOWN, DataError
from orchestrator.data.vtab import read_vtab_task


@pytest.fixture
def hashes(tmp_path) -> ContentHashes:
    return ContentHashes(tmp_path / "hashes.sqlite")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_task(tmp_path / "task")


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels in 57 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def compressed_bomb() -> bytes:
    """A megabyte of PNG that is a gigabyte of pixels."""
    file = io.BytesIO()
    Image.new("L", (32_000, 32_000)).save(file, "PNG")
    return file.getvalue()


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()[:-400]


BROKEN_IMAGES = {
    "empty": (b"", "is empty"),
    "text": (b"this is a web page, not a photograph", "is not an image"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    "truncated": (truncated_jpeg(), "is a broken image"),
    "huge": (png_header(60_000, 60_000), "too many pixels"),
    "large": (png_header(10_000, 10_000), "more than 89,478,485"),
    "bomb": (compressed_bomb(), "too many pixels"),
}


@pytest.mark.parametrize("case", BROKEN_IMAGES)
def test_a_broken_image_is_named_with_its_line(folder, hashes, case):
    content, message = BROKEN_IMAGES[case]
    (folder / "images/val/000004.png").write_bytes(content)
    began = time.perf_counter()
    (problem,) = check_task(read_vtab_task(folder), hashes=hashes)
    assert time.perf_counter() - began < 5
    assert message in problem.message
    assert (problem.file, problem.line) == (folder / "val200.txt", 5)
    assert (problem.split, problem.severity) == ("val", "error")


def test_white_shapes_on_a_transparent_ground_are_said_to_vanish(folder, hashes):
    shape = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    shape.paste((255, 255, 255, 255), (4, 4, 12, 12))
    for index in (3, 4):
        shape.rotate(index).save(folder / f"images/val/{index:06}.png")
    for _ in range(2):  # also when everything else is known to be sound
        (problem,) = check_task(read_vtab_task(folder), hashes=hashes)
        assert (
            "2 of 24 images are white all over, such as 'images/val/000003.png'" in problem.message
        )
        assert (problem.split, problem.severity) == ("val", "warning")


def test_the_largest_image_is_still_accepted():
    side = int(MAX_PIXELS**0.5)
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    assert decode(file.getvalue(), "large.png").size == (side, side)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    outside = path.parents[3] / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)


def link_its_folder(path: Path) -> None:
    outside = path.parents[3] / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (Path.unlink, "No such file"),
        (replace_by_directory, "is not a regular file"),
        (replace_by_pipe, "is not a regular file"),
        (replace_by_link, "leads out of the folder of its task"),
        (link_its_folder, "leads out of the folder of its task"),
    ],
)
def test_what_is_no_file_inside_the_task_is_not_opened(folder, hashes, act, message):
    act(folder / "images/test/000000.png")
    first, *_ = check_task(read_vtab_task(folder), hashes=hashes)
    assert message in first.message
    assert (first.file, first.line) == (folder / "test.txt", 1)


def test_a_link_inside_the_task_is_fine(folder, hashes):
    path = folder / "images/test/000000.png"
    path.rename(folder / "elsewhere.png")
    path.symlink_to(folder / "elsewhere.png")
    assert check_task(read_vtab_task(folder), hashes=hashes) == []


def test_a_task_reached_by_a_link_is_fine(folder, hashes, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(folder)
    task = read_vtab_task(tmp_path / "data/linked")
    assert task.name == "linked"
    assert check_task(task, hashes=hashes) == []


def test_the_same_image_under_two_names_is_a_leak(folder, hashes):
    (folder / "images/test/000003.png").write_bytes(
        (folder / "images/train/000006.png").read_bytes()
    )
    (problem,) = check_task(read_vtab_task(folder), hashes=hashes)
    assert (problem.severity, problem.line) == ("error", 4)
    assert "is the same image as 'images/train/000006.png' of train" in problem.message


def test_official_tasks_may_hold_the_copies_they_were_published_with(tmp_path, hashes):
    folder = write_task(tmp_path / "dsprites_ori")
    (folder / "images/test/000003.png").write_bytes(
        (folder / "images/train/000006.png").read_bytes()
    )
    problems = check_task(read_vtab_task(folder), hashes=hashes)
    assert [p.severity for p in problems if "same image" in p.message] == ["warning"]


def test_one_class_is_nothing_to_learn(tmp_path, hashes):
    task = read_vtab_task(write_task(tmp_path / "task", num_classes=1))
    assert any("1 class" in p.message for p in check_task(task, hashes=hashes))


def test_a_train_split_of_one_label_is_an_error(folder, hashes):
    lines = (folder / "train800.txt").read_text().splitlines()
    (folder / "train800.txt").write_text("\n".join(line[:-1] + "2" for line in lines))
    problems = check_task(read_vtab_task(folder), hashes=hashes)
    assert "all images have label 2" in [p.message for p in problems if p.severity == "error"]


def test_a_class_without_images_is_said(folder, hashes):
    (folder / "classes.txt").write_text("0\tred\n1\tgreen\n2\tblue\n3\tultraviolet\n")
    (problem,) = check_task(read_vtab_task(folder), hashes=hashes)
    assert problem.severity == "warning"
    assert "3 (ultraviolet)" in problem.message


def test_many_missing_images_make_few_problems(folder, hashes):
    for path in (folder / "images/train").iterdir():
        path.unlink()
    problems = check_task(read_vtab_task(folder), hashes=hashes)
    assert len(problems) == MAX_PROBLEMS_SHOWN + 1
    assert "4 more" in problems[-1].message


def test_only_the_asked_splits_are_checked(folder, hashes):
    (folder / "images/test/000000.png").write_bytes(b"")
    task = read_vtab_task(folder)
    assert check_task(task, splits=("train", "val"), hashes=hashes) == []
    assert len(check_task(task, hashes=hashes)) == 1


def test_a_second_check_reads_nothing_but_what_changed(folder, tmp_path):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    let_settle(folder)
    task = read_vtab_task(folder)
    assert check_task(task, hashes=hashes) == []
    assert hashes.hashed_files == 72
    again = ContentHashes(hashes.path)
    assert check_task(task, hashes=again) == []
    assert again.hashed_files == 0
    (folder / "images/val/000004.png").write_bytes(b"damaged since")
    (problem,) = check_task(task, hashes=again)
    assert (problem.line, again.hashed_files) == (5, 1)


def let_settle(folder: Path) -> None:
    """Wait until the change times of all files are old enough to be believed."""
    latest = max(path.stat().st_ctime for path in folder.rglob("*.png"))
    time.sleep(max(0.0, latest + 2.1 - time.time()))


def test_a_swapped_file_of_equal_size_and_time_is_noticed(folder, tmp_path):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    let_settle(folder)
    example = read_vtab_task(folder).splits["train"].examples[0]
    (before,) = hashes.of([example])
    status = example.path.stat()
    data = bytearray(example.path.read_bytes())
    data[-5] ^= 1
    example.path.write_bytes(bytes(data))
    os.utime(example.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    let_settle(folder)
    (after,) = hashes.of([example])
    assert before != after


def test_a_memory_that_is_no_database_is_made_again(folder, tmp_path, caplog):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    hashes.path.write_bytes(b"not a database" * 100)
    assert check_task(read_vtab_task(folder), hashes=hashes) == []
    assert "hashed again" in caplog.text
    caplog.clear()
    assert check_task(read_vtab_task(folder), hashes=hashes) == []
    assert caplog.text == ""


def sound_image(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    image=st.sampled_from([sound_image(kind) for kind in sorted(set(READ.values()))]),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.integers(1, 2**16),
)
def test_an_altered_image_is_decoded_or_a_data_error(image, edits, length):
    data = bytearray(image)
    for position, value in edits:
        data[position % len(data)] = value
    try:
        decode(bytes(data[:length]), "altered.tga")
    except DataError as error:
        assert "'altered.tga'" in str(error)
