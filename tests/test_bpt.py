"""BPT's prompts are a product of two matrices, one of which may start by whitening."""

import pytest
import torch
from reference_vectors import Vectors, close, equals_published
from tiny_backbones import FAMILIES, tiny_batch, tiny_vit
from tiny_swin import tiny_swin

from methods import METHODS, tune
from methods.assemble import restore
from methods.bpt import drawn_columns, drawn_in_each_row, mean_image, whitening_matrix
from methods.families import family_of
from methods.projections import projections
from methods.walk import tokens_entering

BPT = METHODS["bpt"]
FILE = "methods_2024/bpt"
NAMES = (
    "deep_large_values deep_rank_2 deep_rank_8 deep_whiten_fixed deep_whiten_trained"
    " mae_deep_rank_2 mae_deep_whiten_fixed mae_shallow_rank_8 shallow_rank_2"
    " shallow_rank_20_over_tokens shallow_rank_8 shallow_whiten_drawn_trained"
    " shallow_whiten_fixed shallow_whiten_trained"
)
CASES = NAMES.split()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_code(shared, case, dtype):
    as_published(Vectors(shared, FILE), case, dtype)


def as_published(vectors, case, dtype):
    settings = vectors.settings(case)
    method = BPT(
        num_tokens=settings["tokens"],
        channels=settings["rank"],
        deep=settings["mode"] == "deep",
        tuned_bases=None if settings["b_trained"] else 0,
    )
    num_bases = len(vectors.data[f"case/{case}/param/b"])
    bases = [f"tuning.bases.{place}" for place in range(num_bases)]
    equals_published(vectors, case, method, {"a": "tuning.prompt", "b": bases}, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_equals_the_published_code_on_values_of_our_own(dtype):
    """By WangYZ1608/BPT at 2f1ca0c: the prompts, the pass and the whitening of its deep class."""
    vectors = Vectors(None, "bpt")
    as_published(vectors, "deep_whitened", dtype)
    vit, tokens = vectors.vit(torch.float64), vectors.tensors("whiten/x", torch.float64)[""]
    expected = torch.from_numpy(vectors.data["whiten64/matrix"])
    for block, of_block, matrix in zip(vit.blocks, tokens, expected, strict=True):
        query, key, _ = projections(family_of(vit), block, 24)
        found = whitening_matrix(of_block.mean(dim=0), query.weight, key.weight, form="code")
        close("matrix", found, matrix, 1e-9, 1e-6)


def test_every_case_is_tried(shared):
    data = Vectors(shared, FILE).data
    assert {key.split("/")[1] for key in data if key.startswith("case/")} == set(CASES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_whitens_as_the_published_code(shared, dtype):
    vectors = Vectors(shared, FILE)
    folder = "whiten64" if dtype == torch.float64 else "whiten"
    expected = torch.from_numpy(vectors.data[f"{folder}/matrix"])
    tokens = vectors.tensors("whiten/x", dtype)[""].mean(dim=1)
    vit = vectors.vit(dtype)
    for block, of_block, matrix in zip(vit.blocks, tokens, expected, strict=True):
        query, key, _ = projections(family_of(vit), block, 48)
        found = whitening_matrix(of_block, query.weight, key.weight, form="code")
        close("matrix", found.to(dtype), matrix, 1e-9 if dtype == torch.float64 else 1e-4, 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_whitened_patches_are_white(family):
    """By the formula of the paper: what a query sees of the patches has covariance 1 behind W."""
    vit, (images, _) = tiny_vit(family, torch.float64), tiny_batch(torch.float64)
    seen = mean_image(vit, images.split(4))
    entered = list(tokens_entering(vit, images))
    width = vit.blocks[0].attn.num_heads * vit.blocks[0].attn.head_dim
    for block, tokens, all_tokens in zip(vit.blocks, seen.tokens, entered, strict=True):
        mean = all_tokens[:, vit.num_prefix_tokens :].mean(dim=0)
        torch.testing.assert_close(tokens, mean, rtol=1e-10, atol=1e-10)
        query, key, _ = (part.weight for part in projections(family_of(vit), block, 24))
        assert query.equal(block.attn.qkv.weight[:width]) or torch.allclose(
            query, block.attn.qkv.weight[:width], rtol=1e-12, atol=1e-12
        )
        sees = query.T @ key @ mean.T
        white = whitening_matrix(tokens, query, key, form="formula") @ sees
        covariance = white @ white.T / len(mean)
        # 16 patches of width 24: white where there is anything, nothing elsewhere.
        rank = int(torch.linalg.matrix_rank(sees))
        expected = torch.cat([torch.zeros(24 - rank), torch.ones(rank)]).double()
        torch.testing.assert_close(
            torch.linalg.eigvalsh(covariance), expected, rtol=1e-7, atol=1e-7
        )


@pytest.mark.parametrize("name", ["dinov3", "sapiens2", "eva02_enormous", "beit", "swin"])
def test_projections_are_those_that_the_block_asks_with(name):
    """However it holds its weights, and also where heads share keys and values (sapiens2)."""
    vit = tiny_swin(dtype=torch.float64) if name == "swin" else tiny_vit(name, torch.float64)
    images, _ = tiny_batch(torch.float64)
    method = BPT(num_tokens=3, channels=4, whiten="fixed")
    family, bases = family_of(vit), tune(vit, method, images, num_classes=2).tuning.bases
    for site, block, basis in zip(family.sites(vit), family.blocks(vit), bases, strict=True):
        assert tuple(basis.shape) == (site.width, 4)
        tokens = torch.eye(site.width, dtype=torch.float64)[None] + 0.5
        q, k, v = family.queries_keys_values(block, tokens)
        query, key, value = projections(family, block, site.width)
        torch.testing.assert_close(tokens @ query.weight.T + query.bias, q)
        if site.value_width < site.query_width:
            k, v = (t.unflatten(-1, (1, 8)).expand(-1, -1, 3, -1).flatten(-2) for t in (k, v))
        torch.testing.assert_close(tokens @ key.weight.T + key.bias, k)
        torch.testing.assert_close(tokens @ value.weight.T + value.bias, v)


def test_columns_are_drawn_whole_or_as_the_published_code_draws_them():
    matrix = torch.arange(30.0).reshape(5, 6)
    columns = drawn_columns(matrix, 4, torch.Generator().manual_seed(0))
    assert len({int(c) for c in columns[0]}) == 4
    assert all(column.tolist() in matrix.T.tolist() for column in columns.T)
    entries = drawn_in_each_row(matrix, 4, torch.Generator().manual_seed(0))
    for row, drawn in zip(matrix.tolist(), entries.tolist(), strict=True):
        assert len(set(drawn)) == 4 and set(drawn) <= set(row)
    assert not all(column.tolist() in matrix.T.tolist() for column in entries.T)


@pytest.mark.parametrize("form", ["formula", "code"])
def test_bases_start_in_columns_of_the_whitening_matrix(form):
    vit, (images, _) = tiny_vit(dtype=torch.float64), tiny_batch(torch.float64)
    method = BPT(num_tokens=3, channels=7, whiten="tuned", form=form)
    model = tune(vit, method, images, num_classes=2)
    again = tune(vit, method, mean_image(vit, [images]), num_classes=2)
    for basis, other in zip(model.tuning.bases, again.tuning.bases, strict=True):
        assert basis.equal(other), "statistics stand in for the images"
    seen = mean_image(vit, images)
    for block, tokens, basis in zip(vit.blocks, seen.tokens, model.tuning.bases, strict=True):
        query, key, _ = (part.weight for part in projections(family_of(vit), block, 24))
        matrix = whitening_matrix(tokens, query, key, form=form)
        columns = {tuple(column) for column in matrix.T.tolist()}
        assert (form == "formula") == all(tuple(c) in columns for c in basis.T.tolist())
        assert all(set(b) <= set(r) for b, r in zip(basis.tolist(), matrix.tolist(), strict=True))


def test_only_the_last_bases_are_trained_and_the_others_are_kept_with_them():
    vit, (images, _) = tiny_vit(), tiny_batch()
    method = BPT(num_tokens=3, channels=4, tuned_bases=1)
    model = tune(vit, method, num_classes=2, seed=1).eval()
    trained = {name: tuple(tensor.shape) for name, tensor in model.tuned_state().items()}
    assert trained["tuning.prompt"] == (3, 3, 4) and trained["tuning.bases.2"] == (24, 4)
    kept = {"tuning.bases.0", "tuning.bases.1"}
    assert model.saved_state().keys() - trained.keys() == kept
    one = tune(vit, BPT(num_tokens=3, channels=4), num_classes=2, seed=1)
    for basis, other in zip(model.tuning.bases, one.tuning.bases, strict=True):
        assert basis.equal(other), "the same start"
    for whiten, num_tuned in (("fixed", None), ("tuned", 2)):
        method = BPT(num_tokens=3, channels=4, whiten=whiten, tuned_bases=num_tuned)
        model = tune(vit, method, images, num_classes=2).eval()
        state = {name: tensor.clone() for name, tensor in model.saved_state().items()}
        again = restore(vit, method, state, num_classes=2).eval()
        assert again(images).equal(model(images)), "without images"
        assert again.tuned_state().keys() == model.tuned_state().keys()
        del state["tuning.bases.0"]
        with pytest.raises(ValueError, match=r"tuning\.bases\.0 is missing"):
            restore(vit, method, state, num_classes=2)


def test_a_network_in_training_mode_is_looked_at_without_its_own_dropout():
    """timm's Swin has stochastic depth, and is made in training mode."""
    vit, (images, _) = tiny_swin(drop_path_rate=0.5), tiny_batch()
    method = BPT(num_tokens=3, channels=4, whiten="fixed")
    expected = tune(vit, method, images, num_classes=2).tuning.bases
    found = tune(vit.train(), method, images, num_classes=2).tuning.bases
    assert vit.training and all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "images", "words"),
    [
        ({"whiten": "fixed", "channels": 8}, None, "whiten='fixed' looks at training images"),
        ({"whiten": "tuned", "channels": 8}, [], "no images"),
        ({"whiten": "tuned", "channels": 25}, "batch", "only 24 columns"),
        ({"tuned_bases": 4}, None, "tuned_bases=4, but only 3 of"),
        ({"deep": False, "tuned_bases": 2}, None, "tuned_bases=2, but only 1 of"),
        ({"whiten": "fixed", "tuned_bases": 1}, None, "whiten='fixed' trains none"),
        ({"whiten": "fix"}, None, "did you mean 'fixed'"),
    ],
)
def test_what_does_not_fit_is_said(options, images, words):
    if images == "batch":
        images, _ = tiny_batch()
    with pytest.raises(ValueError, match=words):
        tune(tiny_vit(), BPT(**options), images, num_classes=3)
