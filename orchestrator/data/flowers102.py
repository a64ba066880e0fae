"""Oxford 102 Flowers as torchvision leaves it: `jpg/`, `imagelabels.mat` and `setid.mat`.

https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
"""

from pathlib import Path

from orchestrator.data.known_set import Published, home_with, known_set
from orchestrator.data.mat_files import read_mat
from orchestrator.data.task import DataError, Example

SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger
lily, moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king
protea, spear thistle, yellow iris, globe-flower, purple coneflower, peruvian lily, balloon
flower, giant white arum lily, fire lily, pincushion flower, fritillary, red ginger, grape
hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william,
carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily,
poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion,
petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange
dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania,
azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium,
frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia,
mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""
"""By label, from torchvision's `Flowers102.classes`."""


def _read(root: Path) -> Published:
    labels = [int(label) - 1 for label in read_mat(root / "imagelabels.mat", "labels").reshape(-1)]
    images: dict[str, list[Example]] = {}
    for split, name in SPLITS.items():
        numbers = [int(number) for number in read_mat(root / "setid.mat", name).reshape(-1)]
        if wrong := [one for one in numbers if not 1 <= one <= len(labels)]:
            raise DataError(f"{root / 'setid.mat'}: {name} names image {wrong[0]} of {len(labels)}")
        images[split] = [
            Example(str(root), f"jpg/image_{number:05}.jpg", labels[number - 1], 0)
            for number in numbers
        ]
    return Published(
        title="Oxford 102 Flowers",
        class_names=[name.strip() for name in NAMES.replace("\n", " ").split(",")],
        images=images,
        sources=dict.fromkeys(SPLITS, root / "setid.mat"),
    )


FLOWERS102 = known_set("flowers102", home_with("jpg", "imagelabels.mat", "setid.mat"), _read)
