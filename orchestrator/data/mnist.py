"""MNIST, FashionMNIST and KMNIST as torchvision leaves them: four IDX files in `<name>/raw`."""

from pathlib import Path

from orchestrator.data.idx_files import read_idx, read_images, there
from orchestrator.data.known_set import Published, held_rows, known_set
from orchestrator.data.task import DataError, Example

FILES = {"train": "train", "test": "t10k"}
CLASS_NAMES = {
    "fashionmnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip


def _home(path: Path) -> Path | None:
    for folder in (path, path / "raw"):
        if all(all(_names(folder, begin)) for begin in FILES.values()):
            return folder
    return None


def _names(folder: Path, begin: str) -> tuple[str | None, str | None]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    images, labels = (there(folder, f"{begin}-{kind}") for kind in kinds)
    return images, labels


def _name(path: Path) -> str:
    path = path.absolute()
    return (path.parent if path.name == "raw" else path).name


def _read(root: Path) -> Published:
    images: dict[str, list[Example]] = {}
    sources: dict[str, Path] = {}
    for split, begin in FILES.items():
        pixels, labels = _names(root, begin)
        assert pixels and labels, "the files went away while they were read"
        found = read_idx(str(root / labels))
        if found.ndim != 1 or len(found) != len(read_images(str(root / pixels))):
            raise DataError(f"{root / labels} has not one label for each image of {pixels}")
        images[split] = held_rows(root, pixels, "idx", found.tolist())
        sources[split] = root / pixels
    name = _name(root)
    digits = tuple(str(digit) for digit in range(10))
    return Published(
        title=f"{name} (IDX files)",
        class_names=CLASS_NAMES.get(name.lower(), digits),
        images=images,
        sources=sources,
    )


MNIST = known_set("mnist", _home, _read, _name)
