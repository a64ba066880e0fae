"""Decoded once, shared by everybody, never wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from suites import write_task

from orchestrator.data.cache import (
    ImageCache,
    open_final_splits,
    open_search_splits,
    task_fingerprint,
)
from orchestrator.data.images import ContentHashes
from orchestrator.data.task import DataError, Task
from orchestrator.data.transform import ImageTransform
from orchestrator.data.vtab import read_vtab_task

SMALL = ImageTransform(image_size=16, resize="squash", interpolation="bicubic")
FILE_BYTES = 24 * 16 * 16 * 3


@pytest.fixture
def task(tmp_path) -> Task:
    return read_vtab_task(write_task(tmp_path / "task"))


@pytest.fixture
def cache(tmp_path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


def arrow_files(cache: ImageCache) -> list[Path]:
    return sorted(cache.root.rglob("*.arrow"))


def test_images_and_labels_are_those_of_the_files(task, cache):
    decoded = cache.open(task.splits["train"], SMALL)
    for example, pixels, label in zip(
        task.splits["train"].examples, decoded.images, decoded.labels, strict=True
    ):
        assert np.array_equal(pixels, SMALL.apply(Image.open(example.path)))
        assert label == example.label
    assert (decoded.images.shape, decoded.images.dtype) == ((24, 16, 16, 3), np.uint8)
    assert decoded.labels.dtype == np.int64


def test_the_mapped_file_is_not_copied_and_cannot_be_written(task, cache):
    decoded = cache.open(task.splits["train"], SMALL)
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(decoded.path) in line
    ]
    assert any(low <= decoded.images.ctypes.data < high for low, high in ranges)
    with pytest.raises(ValueError, match="read-only"):
        decoded.images[0, 0, 0, 0] = 1


def test_the_file_is_arrow_that_others_can_read(task, cache):
    path = cache.open(task.splits["val"], SMALL).path
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.column_names == ["image", "label", "sha256", "crc32"]
    assert table["label"].to_pylist() == [0, 1, 2] * 8


def test_nothing_is_decoded_twice(task, cache):
    open_search_splits(task, SMALL, cache)
    assert cache.decoded_images == 48
    second = ImageCache(cache.root)
    first_images = open_search_splits(task, SMALL, cache)["train"].images
    assert np.array_equal(open_search_splits(task, SMALL, second)["train"].images, first_images)
    assert second.decoded_images == 0


def test_trainval_is_made_of_train_and_val_without_decoding(task, cache):
    search = open_search_splits(task, SMALL, cache)
    again = ImageCache(cache.root)
    final = open_final_splits(task, SMALL, again)
    assert again.decoded_images == 24  # test alone
    both = np.concatenate([search["train"].images, search["val"].images])
    assert np.array_equal(final["trainval"].images, both)


def test_search_splits_are_train_and_val_alone(task, cache):
    assert set(open_search_splits(task, SMALL, cache)) == {"train", "val"}
    with pytest.raises(DataError, match="has no trainval split"):
        open_final_splits(task.for_search(), SMALL, cache)


def change_label(task: Task) -> None:
    path = task.root / "train800.txt"
    path.write_text(path.read_text().replace("000001.png 1", "000001.png 2"))


def change_order(task: Task) -> None:
    path = task.root / "train800.txt"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([second, first, *rest]))


def change_image(task: Task) -> None:
    Image.new("RGB", (9, 9), "red").save(task.splits["train"].examples[0].path)


@pytest.mark.parametrize("change", [change_label, change_order, change_image])
def test_a_change_of_the_data_is_another_file_and_fingerprint(task, cache, change):
    before, fingerprint = cache.open(task.splits["train"], SMALL), task_fingerprint(task)
    change(task)
    changed = read_vtab_task(task.root)
    after = cache.open(changed.splits["train"], SMALL)
    assert after.path != before.path
    assert [int(label) for label in after.labels] == [
        example.label for example in changed.splits["train"].examples
    ]
    assert task_fingerprint(changed) != fingerprint


def test_another_transform_is_another_file(task, cache):
    first = cache.open(task.splits["train"], SMALL)
    other = ImageTransform(image_size=16, resize="center_crop", interpolation="bicubic")
    second = cache.open(task.splits["train"], other)
    assert first.path != second.path
    assert not np.array_equal(first.images, second.images)


def test_fingerprints_are_of_content_and_not_of_place(task, tmp_path):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    before = task_fingerprint(task, hashes=hashes)
    test_alone = task_fingerprint(task, splits=("test",), hashes=hashes)
    assert len({before, test_alone, task_fingerprint(task, SMALL, hashes=hashes)}) == 3
    (task.root / "images/test/000000.png").write_bytes(b"changed")
    moved = read_vtab_task(task.root.rename(tmp_path / "renamed"))
    assert task_fingerprint(moved, hashes=hashes) == before
    assert task_fingerprint(moved, splits=("test",), hashes=hashes) != test_alone
    with pytest.raises(DataError, match="cannot be used"):
        task_fingerprint(task, hashes=hashes)


def test_a_broken_image_is_named_and_leaves_nothing(task, cache):
    (task.root / "images/val/000004.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"val200.txt:5: 'images/val/000004.png' is not an image"):
        open_search_splits(task, SMALL, cache)
    assert [path.suffix for path in (cache.root / "decoded").rglob("*.part")] == []


def test_a_split_with_faults_in_its_list_is_not_opened(task, cache):
    (task.root / "val200.txt").write_text("images/val/000000.png 99\n")
    with pytest.raises(DataError, match="label 99 is out of range"):
        open_search_splits(read_vtab_task(task.root), SMALL, cache)
    with pytest.raises(DataError, match="label 99 is out of range"):
        open_final_splits(read_vtab_task(task.root), SMALL, cache)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_pixel(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def zero_the_end(path: Path) -> None:
    """What a power cut may leave."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def replace_by_text(path: Path) -> None:
    path.write_text("hello")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_other_split(path: Path) -> None:
    other = next(one for one in path.parent.glob("*.arrow") if one != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_pixel, zero_the_end, replace_by_text, empty, replace_by_other_split]
)
def test_a_damaged_file_is_made_again(task, cache, damage, caplog):
    expected = {name: d.images.copy() for name, d in open_search_splits(task, SMALL, cache).items()}
    path = ImageCache(cache.root).open(task.splits["train"], SMALL).path
    damage(path)
    again = ImageCache(cache.root)
    assert np.array_equal(again.open(task.splits["train"], SMALL).images, expected["train"])
    assert again.decoded_images > 0
    assert "is damaged and will be made again" in caplog.text
    caplog.clear()
    ImageCache(cache.root).open(task.splits["train"], SMALL)
    assert caplog.text == ""


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3)
)
def test_no_altered_byte_reaches_a_trial(task, cache, edits):
    decoded = cache.open(task.splits["train"], SMALL)
    expected, path = decoded.images.copy(), decoded.path
    data = bytearray(path.read_bytes())
    for position, change in edits:
        data[position % len(data)] ^= change
    path.unlink()
    path.write_bytes(data)
    again = ImageCache(cache.root).open(task.splits["train"], SMALL)
    assert np.array_equal(again.images, expected)
    assert again.labels.tolist() == [0, 1, 2] * 8


def build_in_process(arguments: tuple[Path, Path]) -> tuple[int, bytes]:
    root, folder = arguments
    cache = ImageCache(root)
    splits = open_search_splits(read_vtab_task(folder), SMALL, cache)
    return cache.decoded_images, splits["train"].images.tobytes()


def test_processes_that_build_at_the_same_time_decode_once(task, cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(build_in_process, [(cache.root, task.root)] * 3, chunksize=1)
    assert sum(decoded for decoded, _ in results) == 48
    assert len({images for _, images in results}) == 1
    assert len(arrow_files(cache)) == 2


BUILD = """
import sys
from pathlib import Path
from orchestrator.data.cache import ImageCache
from orchestrator.data.transform import ImageTransform
from orchestrator.data.vtab import read_vtab_task
import orchestrator.data.cache as cache_module
transform = ImageTransform(image_size=16, resize="squash", interpolation="bicubic")
{before}
split = read_vtab_task(Path(sys.argv[1])).splits["train"]
ImageCache(Path(sys.argv[2])).open(split, transform)
"""


def test_a_builder_killed_half_way_leaves_nothing_that_counts(task, cache):
    """Killed with SIGKILL when its temporary file has appeared and half of it is written."""
    slow = "decode = cache_module.decode\n"
    slow += "import time\n"
    slow += "cache_module.decode = lambda *a: (time.sleep(0.5), decode(*a))[1]"
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD.format(before=slow), str(task.root), str(cache.root)]
    )
    deadline = time.monotonic() + 60
    while not list(cache.root.rglob("*.part")):
        assert time.monotonic() < deadline and builder.poll() is None
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    assert len(list(cache.root.rglob("*.part"))) == 1
    assert arrow_files(cache) == []
    cache.open(task.splits["val"], SMALL)
    assert list(cache.root.rglob("*.part")) == []
    cache.open(task.splits["train"], SMALL)
    assert cache.decoded_images == 48


def test_a_full_disk_is_one_clear_error(task, cache):
    """A file-size limit makes the kernel refuse the write in the middle of the file."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))"
    builder = subprocess.run(
        [sys.executable, "-c", BUILD.format(before=limit), str(task.root), str(cache.root)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert builder.returncode == 1
    last = builder.stderr.strip().splitlines()[-1]
    assert "DataError: the cache of decoded images in" in last
    assert "ORCHESTRATOR_CACHE" in last
    assert list(cache.root.rglob("*.part")) == []
    cache.open(task.splits["train"], SMALL)


def test_a_cache_folder_that_is_a_file_is_one_clear_error(task, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="ORCHESTRATOR_CACHE"):
        ImageCache(tmp_path / "file").open(task.splits["train"], SMALL)


def test_the_least_recently_used_is_evicted_but_never_what_is_mapped(task, cache):
    bounded = ImageCache(cache.root, max_bytes=int(2.5 * FILE_BYTES))
    held = bounded.open(task.splits["train"], SMALL)
    val_path = bounded.open(task.splits["val"], SMALL).path
    assert len(arrow_files(cache)) == 2
    test_path = bounded.open(task.splits["test"], SMALL).path
    assert arrow_files(cache) == sorted([held.path, test_path])  # val went, though train is older
    assert not val_path.exists()
    path = held.path
    del held
    bounded.open(task.splits["val"], SMALL)
    assert not path.exists()


def test_use_counts_as_recent(task, cache):
    bounded = ImageCache(cache.root, max_bytes=int(2.5 * FILE_BYTES))
    paths = {name: bounded.open(task.splits[name], SMALL).path for name in ("train", "val")}
    bounded.open(task.splits["train"], SMALL)
    bounded.open(task.splits["test"], SMALL)
    assert paths["train"].exists()
    assert not paths["val"].exists()


def test_a_split_larger_than_the_bound_is_decoded_all_the_same(task, cache, caplog):
    tiny = ImageCache(cache.root, max_bytes=100)
    assert len(tiny.open(task.splits["train"], SMALL)) == 24
    assert "more than the cache's bound" in caplog.text


def test_images_stay_mapped_when_another_process_evicts_them(task, cache):
    decoded = cache.open(task.splits["train"], SMALL)
    before = decoded.images.copy()
    decoded.path.unlink()
    assert np.array_equal(decoded.images, before)


def test_a_split_may_be_larger_than_memory(task, tmp_path):
    """210 MiB of pixels, by a process that may allocate 100 MiB."""
    names = (task.root / "train800.txt").read_text()
    (task.root / "train800.txt").write_text(names * 15)
    limit = """
import resource
(used,) = [int(line.split()[1]) for line in open("/proc/self/status") if "VmData" in line]
resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + (100 << 20),) * 2)
"""
    script = BUILD.format(before=limit).replace("image_size=16", "image_size=456")
    arguments = [sys.executable, "-c", script, str(task.root), str(tmp_path / "cache")]
    subprocess.run(arguments, check=True, timeout=300, env=os.environ | {"MALLOC_ARENA_MAX": "2"})
    (path,) = arrow_files(ImageCache(tmp_path / "cache"))
    assert path.stat().st_size > 210 << 20
    path.unlink()
