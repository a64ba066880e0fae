"""Features on the disk of a node: made once, the same for all, and never in a trial's way."""

import threading
import time

import pytest
import torch

from orchestrator.training.feature_cache import FOLDER, FeatureCache

MADE_FROM = {"images": "abc", "engine": ["fp32", "fused"]}


class Maker:
    """Counts how often features are made."""

    def __init__(self, seconds: float = 0) -> None:
        self.times = 0
        self._seconds = seconds

    def __call__(self) -> torch.Tensor:
        self.times += 1
        time.sleep(self._seconds)
        return torch.randn(40, 12, generator=torch.Generator().manual_seed(self.times))


@pytest.fixture
def make() -> Maker:
    return Maker()


def file_in(folder):
    (path,) = (folder / FOLDER).glob("*.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_process_finds_them_to_the_last_bit(tmp_path, make, dtype):
    made = FeatureCache(tmp_path).get(MADE_FROM, lambda: make().to(dtype))
    found = FeatureCache(tmp_path).get(MADE_FROM, make)
    assert make.times == 1
    assert found.dtype == dtype and found.equal(made)


def test_whatever_decides_a_digit_makes_others(tmp_path, make):
    cache = FeatureCache(tmp_path)
    for made_from in (MADE_FROM, {**MADE_FROM, "images": "abd"}, {"images": "abc"}):
        cache.get(made_from, make)
    assert make.times == 3


@pytest.mark.parametrize("damage", ["torn", "altered", "foreign"])
def test_damaged_features_are_noticed_and_made_again(tmp_path, make, caplog, damage):
    made = FeatureCache(tmp_path).get(MADE_FROM, make)
    path = file_in(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[-5] ^= 1
    path.write_bytes({"torn": content[:-7], "altered": content, "foreign": b"no"}[damage])
    again = FeatureCache(tmp_path).get(MADE_FROM, make)
    assert make.times == 2 and not again.equal(made)
    assert "is damaged and will be made again" in caplog.text
    assert FeatureCache(tmp_path).get(MADE_FROM, make).equal(again) and make.times == 2


def test_of_many_that_want_the_same_at_once_one_makes_them(tmp_path):
    slow, found = Maker(seconds=0.3), []
    threads = [
        threading.Thread(target=lambda: found.append(FeatureCache(tmp_path).get(MADE_FROM, slow)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slow.times == 1 and len(found) == 6
    assert all(features.equal(found[0]) for features in found)


def test_a_disk_that_takes_nothing_costs_no_trial(tmp_path, make, caplog):
    (tmp_path / FOLDER).write_text("not a folder")
    features = FeatureCache(tmp_path).get(MADE_FROM, make)
    assert features.shape == (40, 12) and make.times == 1
    assert "features could not be kept" in caplog.text


def test_what_was_used_longest_ago_goes_first(tmp_path, make):
    cache = FeatureCache(tmp_path, max_bytes=3 * 2300)  # a file has 40 x 12 x 4 bytes and a header
    for name in "abcd":
        cache.get({"images": name}, make)
        time.sleep(0.02)  # a file's time is a tick of the kernel's
    for name in "bcd":
        cache.get({"images": name}, make)
    assert make.times == 4
    cache.get({"images": "a"}, make)
    assert make.times == 5
    cache.get({"images": "c"}, make)  # used again: now d was used longest ago
    cache.get({"images": "e"}, make)
    cache.get({"images": "c"}, make)
    assert make.times == 6
    cache.get({"images": "d"}, make)
    assert make.times == 7


def test_what_is_larger_than_the_bound_is_kept_alone_and_a_killed_makers_half_goes(tmp_path, make):
    cache = FeatureCache(tmp_path, max_bytes=1)
    cache.get(MADE_FROM, make)
    half = tmp_path / FOLDER / "abc.safetensors.12345678.part"
    half.write_text("half")
    cache.get({"images": "b"}, make)
    assert not half.exists()
    cache.get({"images": "b"}, make)
    assert make.times == 2 and file_in(tmp_path)
