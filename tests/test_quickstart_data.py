"""The embedded default: three tasks that are always the same, and a ViT that was really trained."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer

import methods
from orchestrator.quickstart import pretrain
from orchestrator.quickstart.glyphs import (
    GLYPHS,
    HELD_OUT_FONTS,
    TRAIN_FONTS,
    build_bank,
    class_names,
    draw_batch,
)
from orchestrator.quickstart.tasks import write_quickstart

ASSETS = Path(methods.__file__).parent / "assets"
TASKS = {
    # name: (group, classes, images in the test split)
    "digits": ("natural", 10, 797),
    "generated_textures": ("specialized", 8, 500),
    "generated_orientation": ("structured", 8, 500),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("quickstart")
    write_quickstart(root)
    return root


def read_split(task: Path, name: str) -> tuple[list[Path], np.ndarray]:
    rows = [line.rsplit(" ", 1) for line in (task / f"{name}.txt").read_text().splitlines()]
    return [task / path for path, _ in rows], np.array([int(label) for _, label in rows])


def read_pixels(task: Path, name: str) -> tuple[torch.Tensor, np.ndarray]:
    paths, labels = read_split(task, name)
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(images).permute(0, 3, 1, 2), labels


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_suite_is_these_three_tasks(root):
    assert {folder.name for folder in root.iterdir()} == set(TASKS)


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(root, tmp_path):
    code = "import sys, pathlib; from orchestrator.quickstart.tasks import write_quickstart as w; "
    subprocess.run(
        [sys.executable, "-c", code + "w(pathlib.Path(sys.argv[1]))", tmp_path],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert hashes(tmp_path) == hashes(root)


@pytest.mark.parametrize("name", TASKS)
def test_the_layout_is_the_one_of_vtab(root, name):
    task = root / name
    group, num_classes, num_test = TASKS[name]
    description = json.loads((task / "task.json").read_text())
    assert description["name"] == name
    assert description["group"] == group
    assert description["num_classes"] == num_classes
    assert description["source"]
    assert isinstance(description["seed"], int)
    rows = [line.split("\t") for line in (task / "classes.txt").read_text().splitlines()]
    assert [int(label) for label, _ in rows] == list(range(num_classes))
    sizes = {"train800": 800, "val200": 200, "train800val200": 1000, "test": num_test}
    for split, size in sizes.items():
        paths, labels = read_split(task, split)
        assert len(paths) == len(set(paths)) == size
        assert set(labels) == set(range(num_classes))
        assert all(path.is_file() for path in paths)
    train, val = ((task / f"{split}.txt").read_text() for split in ("train800", "val200"))
    assert (task / "train800val200.txt").read_text() == train + val


@pytest.mark.parametrize("name", TASKS)
def test_no_picture_stands_twice(root, name):
    seen = Counter()
    for split in ("train800val200", "test"):
        pixels, _ = read_pixels(root / name, split)
        assert pixels.shape[1:] == (3, 32, 32)
        seen.update(image.numpy().tobytes() for image in pixels)
    assert max(seen.values()) == 1


@pytest.mark.parametrize("name", TASKS)
def test_every_split_has_the_class_shares_of_the_whole(root, name):
    splits = [read_split(root / name, split)[1] for split in ("train800", "val200", "test")]
    whole = np.concatenate(splits)
    for labels in splits:
        for label in range(TASKS[name][1]):
            expected = np.mean(whole == label) * len(labels)
            assert abs(np.sum(labels == label) - expected) < 2


def test_the_tasks_have_not_changed_unnoticed(root):
    """Numbers in the documentation were measured on these images; float rounding may differ."""
    expected = {
        # mean and standard deviation of the pixels of the test split
        "digits": (78.587, 88.723),
        "generated_textures": (131.086, 48.506),
        "generated_orientation": (129.383, 44.366),
    }
    for name, (mean, std) in expected.items():
        pixels = read_pixels(root / name, "test")[0].double()
        assert float(pixels.mean()) == pytest.approx(mean, abs=0.005), name
        assert float(pixels.std()) == pytest.approx(std, abs=0.005), name


def test_no_digit_was_drawn_in_pretraining():
    assert not set("0123456789") & set("".join(GLYPHS))
    assert not set(TRAIN_FONTS) & set(HELD_OUT_FONTS)
    assert len(set(class_names())) == len(class_names())


def test_pretraining_images_follow_from_the_seed_and_differ():
    bank = build_bank(HELD_OUT_FONTS)
    labels = torch.arange(len(class_names()))
    first, again, other = (
        draw_batch(bank, labels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert first.dtype == torch.uint8
    assert first.shape == (len(labels), 3, 32, 32)
    assert (first != other).flatten(1).any(1).all()
    assert (first.float().flatten(1).std(1) > 1).all(), "an image without anything on it"


@pytest.mark.slow
def test_the_pretraining_script_writes_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(tmp_path), "--steps", "2"])
    pretrain.main()
    description = json.loads((tmp_path / "vit_quickstart.json").read_text())
    shipped = json.loads((ASSETS / "vit_quickstart.json").read_text())
    assert description.keys() == shipped.keys()
    assert description["recipe"] == shipped["recipe"] | {"steps": 2}
    weights = (tmp_path / "vit_quickstart.safetensors").read_bytes()
    assert description["sha256"] == hashlib.sha256(weights).hexdigest() != shipped["sha256"]
    # Hardly trained: a fresh image is named right hardly more often than by chance.
    assert description["accuracy"]["new_images"] < 0.05 < shipped["accuracy"]["new_images"]


def build_vit(pretrained: bool) -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(**pretrain.ARCHITECTURE, num_classes=0).eval()
    if pretrained:
        vit.load_state_dict(load_file(ASSETS / "vit_quickstart.safetensors"), strict=True)
    return vit


def test_the_shipped_weights_are_those_of_the_recipe():
    description = json.loads((ASSETS / "vit_quickstart.json").read_text())
    weights = (ASSETS / "vit_quickstart.safetensors").read_bytes()
    assert description["sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(weights) < 4 * 2**20
    assert {key: description[key] for key in pretrain.ARCHITECTURE} == pretrain.ARCHITECTURE
    assert description["mean"] == description["std"] == [0.5, 0.5, 0.5]
    assert (
        not build_vit(pretrained=True).state_dict().keys()
        ^ load_file(ASSETS / "vit_quickstart.safetensors").keys()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "margin"),
    [("digits", 0.15), ("generated_textures", 0.3), ("generated_orientation", 0.3)],
)
def test_pretrained_features_beat_those_of_a_random_vit(root, name, margin):
    """A linear classifier on frozen features: the pretraining carries over to other images."""

    @torch.no_grad()
    def probe(vit: VisionTransformer) -> float:
        features, labels = {}, {}
        for split in ("train800", "test"):
            pixels, labels[split] = read_pixels(root / name, split)
            features[split] = vit((pixels.float() / 255 - 0.5) / 0.5).numpy()
        mean, std = features["train800"].mean(0), features["train800"].std(0) + 1e-6
        classifier = LogisticRegression(C=0.1, max_iter=500)
        classifier.fit((features["train800"] - mean) / std, labels["train800"])
        return classifier.score((features["test"] - mean) / std, labels["test"])

    trained, random = probe(build_vit(pretrained=True)), probe(build_vit(pretrained=False))
    assert trained > random + margin, f"{name}: {trained:.3f} against {random:.3f}"
