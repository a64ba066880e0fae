"""Labelled images without end, to pretrain the quickstart's ViT on: glyphs, shapes and textures.

The glyphs are letters and symbols in the fonts that matplotlib carries inside its package.
The digits 0-9 are left out, and the letters that look like one most (Cyrillic Ze, Be and Che):
the quickstart adapts the ViT to handwritten digits, and that must be a transfer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 32
MASTER_SIZE = 64

# Glyphs that differ only in size, or not at all in some fonts, share a class.
LATIN = (
    "A B Cc D E F G H Il J Kk L M N Oo Pp Q R Ss T Uu Vv Ww Xx Y Zz a b d e f g h i j m n q r t y"
)
GREEK = "α β γ δ ε ζ η λ μ ξ π σ φ ψ ω Γ Λ Ξ Π Σ Ω"
CYRILLIC = "Б Дд Жж Ии Йй Лл Цц Шш Щщ Ъъ Ыы Ээ Юю Яя"
SYMBOLS = "& @ # $ % ? ! + = < * ~ { ± ¶ § € £ ¥"
GLYPHS = [glyph for kind in (LATIN, GREEK, CYRILLIC, SYMBOLS) for glyph in kind.split()]

TRAIN_FONTS = [
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "cmr10", "cmb10", "cmti10", "cmmi10",
]  # fmt: skip
HELD_OUT_FONTS = [
    "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "STIXGeneralBolIta",
    "cmss10", "cmtt10",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Clean white-on-black pictures (masters) of every glyph and shape, ready to be distorted."""

    masters: Tensor
    """uint8, (masters, 1, 64, 64)."""
    of_class: tuple[Tensor, ...]
    """The masters of class c, as indices: glyphs first, then shapes."""


def class_names() -> list[str]:
    """The name of every class, in the order of the labels."""
    return [*GLYPHS, *SHAPES, *TEXTURES]


def build_bank(fonts: list[str]) -> Bank:
    """Render every glyph in every one of `fonts` that has it, and every shape."""
    folder = Path(get_data_path(), "fonts", "ttf")
    faces = {name: ImageFont.truetype(folder / f"{name}.ttf", 48) for name in fonts}
    masters: list[Image.Image] = []
    of_class = []
    for glyphs in GLYPHS:
        first = len(masters)
        for name, face in faces.items():
            # Computer Modern's TrueType files hold other glyphs at the codes that are not letters.
            if (glyphs.isascii() and glyphs.isalpha()) or not name.startswith("cm"):
                masters += [_render_glyph(glyph, face) for glyph in glyphs]
        of_class.append(torch.arange(first, len(masters)))
    for draw in SHAPES.values():
        first = len(masters)
        masters += [_render_shape(draw, outline) for outline in (False, True)]
        of_class.append(torch.arange(first, len(masters)))
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in masters]))
    return Bank(masters=stacked[:, None], of_class=tuple(of_class))


def draw_batch(
    bank: Bank, labels: Tensor, generator: torch.Generator, strength: float = 1.0
) -> Tensor:
    """One new image for each label: uint8, (batch, 3, 32, 32).

    `strength` below 1 distorts less: a young ViT learns little from the hardest images.
    """
    num_drawn = len(bank.of_class)
    masks = torch.zeros(len(labels), 1, IMAGE_SIZE, IMAGE_SIZE)
    drawn = labels < num_drawn
    if drawn.any():
        masks[drawn] = _distorted_masks(bank, labels[drawn], generator, strength)
    for index, texture in enumerate(TEXTURES.values(), start=num_drawn):
        chosen = labels == index
        if chosen.any():
            masks[chosen] = _texture_masks(texture, int(chosen.sum()), generator)
    return _coloured(masks, generator, strength)


# ---- glyphs and shapes


def _render_glyph(glyph: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = face.getbbox(glyph)
    middle = ((left + right) / 2, (top + bottom) / 2)
    image = Image.new("L", (MASTER_SIZE, MASTER_SIZE))
    at = (MASTER_SIZE / 2 - middle[0], MASTER_SIZE / 2 - middle[1])
    ImageDraw.Draw(image).text(at, glyph, fill=255, font=face)
    return image


def _render_shape(draw: Callable[[], list[tuple[float, float]]], outline: bool) -> Image.Image:
    """A polygon in the unit disc, drawn four times too large and reduced: smooth edges."""
    size = 4 * MASTER_SIZE
    points = [(size * (0.5 + 0.36 * x), size * (0.5 + 0.36 * y)) for x, y in draw()]
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    if outline:
        pen.line([*points, points[0], points[1]], fill=255, width=20, joint="curve")
    else:
        pen.polygon(points, fill=255)
    return image.resize((MASTER_SIZE, MASTER_SIZE), Image.Resampling.BOX)


def _round(radius: Callable[[float], float], num_points: int) -> list[tuple[float, float]]:
    """The closed curve with this radius at every angle."""
    angles = [2 * math.pi * k / num_points for k in range(num_points)]
    return [(radius(a) * math.cos(a), radius(a) * math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    tips = _round(lambda a: 1.0, 10)
    return [(x, y) if k % 2 == 0 else (0.42 * x, 0.42 * y) for k, (x, y) in enumerate(tips)]


def _crescent() -> list[tuple[float, float]]:
    outer = [math.radians(a) for a in range(60, 301, 10)]
    far = [(math.cos(a), math.sin(a)) for a in outer]
    near = [(0.25 + 0.5 * x, y) for x, y in reversed(far)]
    return far + near


def _plus() -> list[tuple[float, float]]:
    a, b = 0.3, 0.95
    return [
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
        (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
    ]  # fmt: skip


SHAPES: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "disc": lambda: _round(lambda a: 0.9, 60),
    "triangle": lambda: _round(lambda a: 1.0, 3),
    "square": lambda: _round(lambda a: 1.0, 4),
    "hexagon": lambda: _round(lambda a: 1.0, 6),
    "star": _star,
    "plus": _plus,
    "ellipse": lambda: [(x, 0.5 * y) for x, y in _round(lambda a: 1.0, 60)],
    "bar": lambda: [(-1.0, -0.25), (1.0, -0.25), (1.0, 0.25), (-1.0, 0.25)],
    "crescent": _crescent,
    "flower": lambda: _round(lambda a: 0.7 + 0.3 * math.cos(5 * a), 90),
    "arrow": lambda: [
        (-1, -0.2), (0.1, -0.2), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.2), (-1, 0.2),
    ],
    "wedge": lambda: [(0.0, 0.0), *_round(lambda a: 1.0, 60)[:45]],
}  # fmt: skip


def _distorted_masks(
    bank: Bank, labels: Tensor, generator: torch.Generator, strength: float
) -> Tensor:
    """Every label's glyph or shape, turned, stretched, bent, thickened, with scraps around it."""

    def draw(classes: Tensor, degrees: float, shift: float, bend: float) -> Tensor:
        picks = torch.stack(
            [
                masters[int(torch.randint(len(masters), (), generator=generator))]
                for masters in (bank.of_class[int(c)] for c in classes)
            ]
        )
        # A glyph turned upside down is another glyph; a shape stays what it is.
        turn = torch.where(classes < len(GLYPHS), math.radians(degrees), math.pi)
        grid = _sampling_grid(turn, shift, bend, generator, strength)
        masters = bank.masters[picks].float() / 255
        return F.grid_sample(masters, grid, align_corners=False)

    masks = draw(labels, degrees=18, shift=0.16, bend=0.09)
    # Thicker or thinner: blur, then cut at a level that differs from image to image.
    soft = F.avg_pool2d(masks, 3, stride=1, padding=1)
    level = _uniform(0.25, 0.6, (len(masks), 1, 1, 1), generator)
    masks = torch.lerp(masks, ((soft - level) * 4 + 0.5).clamp(0, 1), 0.6)
    scraps = draw(torch.randint(len(GLYPHS), labels.shape, generator=generator), 180, 0.1, 0.05)
    aside = torch.randint(0, 2, (len(masks), 2), generator=generator) * 2 - 1
    for index in torch.nonzero(torch.rand(len(masks), generator=generator) < 0.3 * strength)[:, 0]:
        # A scrap peeps in from a side, half of it outside.
        moved = torch.roll(scraps[index], tuple((aside[index] * 16).tolist()), dims=(1, 2))
        masks[index] = torch.maximum(masks[index], 0.8 * moved * (masks[index] < 0.1))
    return masks


def _sampling_grid(
    turn: Tensor, shift: float, bend: float, generator: torch.Generator, strength: float
) -> Tensor:
    """Where each pixel looks in its master: a random affine map, then a smooth displacement."""
    count = len(turn)
    angle = strength * turn * _uniform(-1, 1, (count,), generator)
    shear = strength * _uniform(-0.25, 0.25, (count,), generator)
    # Above 1 the picture gets smaller.
    size = 0.75 + strength * _uniform(-0.2, 0.3, (count,), generator)
    stretch = 1 + strength * _uniform(-0.2, 0.2, (count,), generator)
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    zeros = torch.zeros(count)
    skewed = torch.stack([size * stretch, shear, zeros, size / stretch], 1).view(-1, 2, 2)
    moved = strength * _uniform(-shift, shift, (count, 2, 1), generator)
    theta = torch.cat([skewed @ turned, moved], dim=2)
    grid = F.affine_grid(theta, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    coarse = strength * bend * torch.randn(count, 2, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, IMAGE_SIZE, mode="bicubic", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 1)


# ---- textures: each maps coordinates (and a smooth random field) to brightness in [-1, 1]

Texture = Callable[[Tensor, Tensor, Tensor], Tensor]


def _bricks(u: Tensor, v: Tensor, field: Tensor) -> Tensor:
    along = (u + torch.floor(v)) / 2 % 1  # every second row is half a brick further
    return torch.where((v % 1 < 0.25) | (along < 0.12), -1.0, 1.0)


TEXTURES: dict[str, Texture] = {
    "stripes": lambda u, v, field: torch.sin(2 * math.pi * u),
    "checks": lambda u, v, field: torch.sign(torch.sin(math.pi * u) * torch.sin(math.pi * v)),
    "dots": lambda u, v, field: torch.where(
        (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1, 1.0, -1.0
    ),
    "rings": lambda u, v, field: torch.sin(2 * math.pi * torch.sqrt(u**2 + v**2)),
    "bricks": _bricks,
    "zigzag": lambda u, v, field: torch.sin(2 * math.pi * (u + (v % 2 - 1).abs())),
    "clouds": lambda u, v, field: field,
    "islands": lambda u, v, field: torch.sign(field),
}


def _texture_masks(texture: Texture, count: int, generator: torch.Generator) -> Tensor:
    axis = torch.linspace(-0.5, 0.5, IMAGE_SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = _uniform(0, 2 * math.pi, (count, 1, 1), generator)
    periods = _uniform(2.5, 7, (count, 1, 1), generator)
    u = periods * (angle.cos() * x - angle.sin() * y) + _uniform(-1, 1, (count, 1, 1), generator)
    v = periods * (angle.sin() * x + angle.cos() * y) + _uniform(-1, 1, (count, 1, 1), generator)
    cells = int(torch.randint(4, 9, (), generator=generator))
    coarse = torch.randn(count, 1, cells, cells, generator=generator)
    field = F.interpolate(coarse, IMAGE_SIZE, mode="bicubic", align_corners=True)
    return (0.5 + 0.5 * texture(u, v, field[:, 0]).clamp(-1, 1))[:, None]


# ---- from a mask to a picture


def _coloured(masks: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Ink on a ground, both shaded, then blurred and noisy as a bad camera would see it."""
    count = len(masks)
    grey = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).float()
    ground, ink = (torch.rand(count, 3, 1, 1, generator=generator) for _ in range(2))
    ground, ink = (torch.lerp(c, c.mean(1, keepdim=True), grey) for c in (ground, ink))
    # Push ink and ground apart until their brightness differs by at least a quarter.
    gap = (ink - ground).mean(1, keepdim=True)
    side = torch.where(gap >= 0, 1.0, -1.0)
    push = (
        side
        * (_uniform(0.8 - 0.5 * strength, 0.9, gap.shape, generator) - gap.abs()).clamp(min=0)
        / 2
    )
    shade = F.interpolate(
        torch.randn(count, 1, 3, 3, generator=generator), IMAGE_SIZE, mode="bicubic"
    )
    shade = strength * shade * _uniform(0, 0.12, (count, 1, 1, 1), generator)
    images = torch.lerp(ground - push, ink + push, masks) + shade
    images = torch.lerp(images, _blurred(images, generator), strength)
    noise = torch.randn(images.shape, generator=generator)
    images = images + strength * noise * _uniform(0, 0.07, (count, 1, 1, 1), generator)
    return (images.clamp(0, 1) * 255).round().byte()


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """A third as they are, the others through fewer pixels: 8 to 24 a side, and back."""
    result = images.clone()
    kinds = torch.randint(0, 6, (len(images),), generator=generator)
    for kind, size in enumerate((8, 11, 16, 24)):
        chosen = kinds == kind
        if chosen.any():
            small = F.interpolate(images[chosen], size, mode="area")
            result[chosen] = F.interpolate(small, IMAGE_SIZE, mode="bicubic", align_corners=False)
    return result


def _uniform(
    low: float, high: float, shape: tuple[int, ...] | torch.Size, generator: torch.Generator
) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
