"""Random resized crops and mirror images, made on the device from the decoded images.

As torchvision's RandomResizedCrop and RandomHorizontalFlip, but for a batch at once, with corners
that need not lie on pixels, and cut out of the square that was decoded. A crop is only ever
enlarged, so that no antialiasing is needed.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

SCALE = (0.08, 1.0)
"""Area of a crop, as a share of the image."""
RATIO = (3 / 4, 4 / 3)
"""Width over height of a crop."""
_ATTEMPTS = 10


def draw_crops(count: int, *, seed: int, epoch: int) -> Tensor:
    """One crop for each image of an epoch: (count, 2, 3), from output to input coordinates in
    [-1, 1]. The same for the same seed and epoch, however steps are cut up or taken up again."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    area = torch.empty(count, _ATTEMPTS).uniform_(*SCALE, generator=generator)
    log_ratio = torch.empty(count, _ATTEMPTS).uniform_(
        math.log(RATIO[0]), math.log(RATIO[1]), generator=generator
    )
    width, height = (area * log_ratio.exp()).sqrt(), (area / log_ratio.exp()).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    none_fits = ~fits.any(dim=1)
    width, height = (side.gather(1, first).squeeze(1) for side in (width, height))
    width[none_fits], height[none_fits] = 1.0, 1.0
    place = torch.rand(2, count, generator=generator) * 2 - 1
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    crops = torch.zeros(count, 2, 3)
    crops[:, 0, 0], crops[:, 0, 2] = width * mirror, (1 - width) * place[0]
    crops[:, 1, 1], crops[:, 1, 2] = height, (1 - height) * place[1]
    return crops


def cut_out(images: Tensor, crops: Tensor) -> Tensor:
    """The crops (B, 2, 3) of images (B, 3, H, W), at the size of the images."""
    grid = affine_grid(crops, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
