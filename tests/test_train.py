"""The epoch loop gives the same numbers however it is cut up, and never pretends."""

import pytest
import torch
from timm.models import VisionTransformer
from tiny_training import model_of, pixels_of_two_classes, rows_of, tiny_vit, untimed
from torch.overrides import TorchFunctionMode

from methods import METHODS, TunedViT, pieces
from methods.method import is_same_each_step
from methods.vpt import VPT
from orchestrator.training.checkpoint import load_checkpoint, save_checkpoint
from orchestrator.training.loop import (
    EVAL_BATCH,
    Fit,
    Inputs,
    Training,
    TrialFailed,
    evaluate,
)
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import METRICS


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture(scope="module")
def pixels():
    return pixels_of_two_classes()


def test_a_trial_learns_and_reports_every_epoch(vit, pixels):
    rows = rows_of(model_of(vit, lr=20.0, epochs=12), pixels)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["val_accuracy"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["scaled_lr"] == 0  # the warm-up begins at zero, as the authors' code does


@pytest.mark.parametrize("name", ["linear", "vpt"])
def test_the_same_seed_gives_the_same_numbers(vit, pixels, name):
    assert rows_of(model_of(vit, name), pixels) == rows_of(model_of(vit, name), pixels)


@pytest.mark.parametrize("name", ["linear", "vpt"])
def test_a_cached_prefix_changes_nothing(vit, pixels, name):
    plain = rows_of(model_of(vit, name), pixels)
    cached = rows_of(model_of(vit, name), pixels, cached=True)
    for a, b in zip(plain, cached, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("part", [1, 5, 16])
def test_a_split_step_equals_the_whole_one(vit, pixels, part):
    whole = rows_of(model_of(vit), pixels)
    split = rows_of(model_of(vit), pixels, fit=Fit(part_size=part))
    for a, b in zip(whole, split, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("left_after", [1, 3])
def test_training_left_and_taken_up_again_gives_the_same_numbers(
    vit, pixels, optimizer, left_after, tmp_path
):
    inputs = Inputs(pixels=pixels, prefix=None)
    settings = {"optimizer": optimizer, "lr": 0.1}

    def begin() -> tuple[TunedViT, Training]:
        model = model_of(vit, dropout=0.3, **settings)
        return model, Training(model, inputs, inputs, seed=3)

    whole_model, whole = begin()
    rows = untimed(list(whole.epochs()))
    _, first = begin()
    epochs = first.epochs()
    for _ in range(left_after):
        next(epochs)
    save_checkpoint(first.state(), tmp_path / "0.checkpoint", owner="me")
    torch.manual_seed(99)
    model, second = begin()
    second.restore(load_checkpoint(tmp_path / "0.checkpoint", owner="me"))
    list(second.epochs())
    assert untimed(second.rows) == rows
    for name, tensor in whole_model.tuned_state().items():
        assert tensor.equal(model.tuned_state()[name]), name


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_checkpoint_that_cannot_be_used_is_not_used(damage, tmp_path, caplog):
    path = tmp_path / "0.checkpoint"
    save_checkpoint({"rows": [1, 2]}, path, owner="me")
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"cut": content[:-1], "flipped": flipped, "empty": b""}.get(damage, content))
    assert load_checkpoint(path, owner="other" if damage == "other" else "me") is None
    assert "begins again" in caplog.text


def test_blocks_that_cannot_be_compiled_here_run_as_they_are(vit, pixels, monkeypatch, caplog):
    def no_compiler():
        raise RuntimeError("Failed to find C compiler\nplease set CC")

    monkeypatch.setattr(pieces, "compiled", no_compiler)
    inputs = Inputs(pixels=pixels, prefix=None)
    model = model_of(vit)
    training = Training(model, inputs, inputs, seed=3)
    model.compile_blocks = True  # as on a GPU
    assert untimed(list(training.epochs())) == rows_of(model_of(vit), pixels)
    (warning,) = caplog.messages
    assert "cannot be compiled here: Failed to find C compiler" in warning


def test_a_failure_of_a_later_step_is_not_taken_for_a_missing_compiler(vit, pixels, monkeypatch):
    inputs = Inputs(pixels=pixels, prefix=None)
    model = model_of(vit)
    training = Training(model, inputs, inputs, seed=3)
    epochs = training.epochs()
    next(epochs)
    model.compile_blocks = True
    monkeypatch.setattr(pieces, "compiled", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(epochs)


def test_a_step_of_the_optimizer_that_runs_out_of_memory_is_not_done_twice(vit, pixels):
    inputs = Inputs(pixels=pixels, prefix=None)
    training = Training(model_of(vit), inputs, inputs, seed=3)
    tried = []

    def run_out():
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    training._optimizer.step = run_out  # type: ignore[method-assign]
    with pytest.raises(TrialFailed, match="step of the optimizer"):
        next(training.epochs())
    assert len(tried) == 1


def test_each_class_says_for_itself_that_its_steps_can_be_recorded():
    class Annealed(VPT):
        """Counts steps in Python."""

    assert all(is_same_each_step(method()) for method in METHODS.values())
    assert not is_same_each_step(Annealed())


class _ShortOfMemory(torch.nn.Module):
    """A head that has memory for so many images only."""

    def __init__(self, head: torch.nn.Linear, room: int) -> None:
        super().__init__()
        self.linear, self.weight, self.room = head, head.weight, room
        self.eval_too = False

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if (self.training or self.eval_too) and len(features) > self.room:
            raise torch.OutOfMemoryError(f"{len(features)} images")
        return self.linear(features)


@pytest.mark.parametrize(("room", "part_size", "recompute"), [(12, 8, False), (5, 4, True)])
def test_out_of_memory_splits_the_step_and_is_remembered(vit, pixels, room, part_size, recompute):
    whole = rows_of(model_of(vit), pixels)
    model = model_of(vit)
    model.head = _ShortOfMemory(model.head, room=room)
    fit = Fit()
    split = rows_of(model, pixels, fit=fit)
    assert fit == Fit(part_size=part_size, recompute=recompute)
    for a, b in zip(whole, split, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_no_memory_for_a_single_image_fails_the_trial(vit, pixels):
    model = model_of(vit)
    model.head = _ShortOfMemory(model.head, room=0)
    with pytest.raises(TrialFailed, match="out of memory with one image"):
        rows_of(model, pixels)


def test_blocks_computed_twice_give_the_same_numbers(vit, pixels):
    kept = rows_of(model_of(vit, dropout=0.3), pixels)
    assert rows_of(model_of(vit, dropout=0.3), pixels, fit=Fit(recompute=True)) == kept


def test_validation_out_of_memory_takes_fewer_images(vit, pixels):
    model, fit = model_of(vit), Fit()
    inputs = Inputs(pixels=pixels, prefix=None)
    whole = evaluate(model, inputs, Engine())[:2]
    head = model.head
    model.head = _ShortOfMemory(head, room=10)
    model.head.eval_too = True
    assert evaluate(model, inputs, Engine(), fit)[:2] == pytest.approx(whole)
    assert fit.eval_batch == 8 < EVAL_BATCH["cpu"]


def test_only_the_epochs_that_count_are_validated(vit, pixels):
    every = rows_of(model_of(vit), pixels)
    some = rows_of(model_of(vit), pixels, validate_after=lambda epoch: epoch == 2)
    assert ["val_accuracy" in row for row in some] == [False, True, False, True]
    assert all(row.items() <= full.items() for row, full in zip(some, every, strict=True))


def test_bf16_learns_as_float32_does_and_keeps_what_is_trained_in_float32(pixels):
    torch.manual_seed(0)
    held = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0
    )
    held.eval().requires_grad_(False)
    engine = Engine(precision="bf16")
    full = rows_of(model_of(held, lr=20.0, epochs=12), pixels)
    engine.cast_frozen(held)
    assert held.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    model = model_of(held, lr=20.0, epochs=12)
    rows = rows_of(model, pixels, engine=engine)
    assert {t.dtype for t in model.tuned_state().values()} == {torch.float32}
    assert rows[-1]["val_accuracy"] == pytest.approx(full[-1]["val_accuracy"], abs=0.05)
    assert rows[-1]["train_loss"] == pytest.approx(full[-1]["train_loss"], abs=0.05)
    assert rows[0]["train_loss"] != full[0]["train_loss"]  # it did compute otherwise


def test_unfused_attention_gives_the_same_numbers(vit, pixels):
    fused = rows_of(model_of(vit), pixels)
    unfused = rows_of(model_of(vit), pixels, engine=Engine(attention="unfused"))
    for a, b in zip(fused, unfused, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_a_loss_that_is_not_finite_fails_with_its_place(vit, pixels):
    with pytest.raises(TrialFailed, match=r"loss is (nan|inf) at epoch \d, step \d of 4, lr "):
        rows_of(model_of(vit, lr=1e30), pixels)


def test_accuracy_counts_images(vit, pixels):
    model = model_of(vit)
    inputs = Inputs(pixels=pixels, prefix=None)
    with torch.no_grad():
        model.eval()
        expected = (model(pixels.normalised(slice(None))).argmax(1) == pixels.labels).float().mean()
    assert evaluate(model, inputs, Engine()).score == pytest.approx(expected.item())


class _Waits(TorchFunctionMode):
    """Counts what makes the host wait for a GPU: a value, or a size that depends on values."""

    NAMES = ("tolist", "item", "__bool__", "__int__", "__float__", "cpu", "bincount", "nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        by_mask = name == "__getitem__" and getattr(args[1], "dtype", None) is torch.bool
        self.count += by_mask or name in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("metric", METRICS)
def test_no_batch_of_a_validation_waits_for_the_device(vit, pixels, metric):
    model, counts = model_of(vit), []
    for size in (60, 5):
        with _Waits() as waits:
            evaluate(
                model,
                Inputs(pixels=pixels, prefix=None),
                Engine(),
                Fit(eval_batch=size),
                METRICS[metric],
            )
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


def test_normalisation_happens_on_the_device(pixels):
    images = pixels.normalised(slice(0, 2))
    assert images.shape == (2, 3, 16, 16)
    expected = (pixels.images[1, 3, 4, 2].item() / 255 - 0.5) / 0.5
    assert images[1, 2, 3, 4].item() == pytest.approx(expected)
