"""Published numbers: right ones, from one backbone, with their doubts."""

import csv
import statistics
from dataclasses import replace
from importlib import resources

import pytest
from plans import make_plan
from synthetic_sweep import synthetic_plan

from methods import METHODS
from orchestrator.data.fgvc import FINE_GRAINED_TASKS
from orchestrator.data.vtab import OFFICIAL_TASKS
from orchestrator.plan.plan import save_plan
from orchestrator.plan.space import load_space, parse_space, shipped_spaces
from orchestrator.record.record import open_record
from orchestrator.report.averages import MethodColumn
from orchestrator.report.collect import collect
from orchestrator.report.published import (
    is_official,
    published,
    published_backbone,
    published_method,
)
from orchestrator.report.table import test_table as accuracies_beside_published

VIT_B = ("ViT-B/16", "orig_in21k")


def rows() -> list[dict[str, str]]:
    path = resources.files("orchestrator.report") / "published_results.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_every_row_has_a_known_task_an_accuracy_and_a_source():
    tasks = {*OFFICIAL_TASKS, *FINE_GRAINED_TASKS}
    for row in rows():
        assert row["task"] in tasks or row["task"].startswith("mean_"), row
        assert 0 < float(row["accuracy_percent"]) < 100, row
        assert row["source"], row


@pytest.mark.parametrize(
    ("method", "pretraining", "task", "percent", "doubtful"),
    [
        # Jia et al. 2022, as listed again by later papers; spec section 10.
        ("VPT-Deep", "orig_in21k", "cifar", 78.8, False),
        ("VPT-Deep", "orig_in21k", "mean_19tasks", 69.43, False),
        ("Full", "orig_in21k", "kitti", 65.5, True),
        ("Linear", "orig_in21k", "mean_19tasks", 52.94, False),
        ("VPT-Deep", "mae", "mean_natural7", 36.02, True),  # by GateVPT's authors
        ("GateVPT", "moco_v3", "mean_structured8", 49.10, False),
        ("SPT-Shallow", "mae", "mean_natural7", 62.53, True),  # best test epoch
        ("CVPT", "orig_in21k", "mean_5tasks", 90.5, False),  # not the ablation's 89.3
        ("BPT-Deep", "mae", "mean_5tasks", 84.60, True),  # from a note on the paper
        ("VFPT", "moco_v3", "mean_natural7", 77.47, False),
        ("SSF", "augreg_in21k", "cifar", 69.0, True),
        ("Adapter-8 (VPT zero-init)", "orig_in21k", "mean_natural7", 70.67, True),
    ],
)
def test_known_numbers_are_found_with_their_doubts(method, pretraining, task, percent, doubtful):
    found = published(method, "ViT-B/16", pretraining, task)
    assert found is not None
    assert found.accuracy == pytest.approx(percent / 100)
    assert bool(found.doubt) is doubtful


def test_means_over_nineteen_tasks_are_those_of_the_cells():
    for method in ("VPT-Deep", "VPT-Shallow", "Linear", "Full", "Bias", "Partial-1"):
        cells = [published(method, *VIT_B, task) for task in OFFICIAL_TASKS]
        assert all(cells)
        printed = published(method, *VIT_B, "mean_19tasks")
        mean = statistics.fmean(cell.accuracy for cell in cells if cell)
        assert printed and printed.accuracy == pytest.approx(mean, abs=6e-4), method


def test_a_number_without_doubt_goes_before_one_with():
    found = published("VPT-Deep", *VIT_B, "kitti")
    assert found and found.accuracy == pytest.approx(0.728) and not found.doubt
    assert published("Full", *VIT_B, "kitti", accept_doubtful=False) is None


def test_backbones_and_pretrainings_are_never_mixed():
    assert published("SSF", *VIT_B, "cifar") is None  # those runs used the AugReg weights
    assert published("VPT-Deep", "ViT-B/16", "augreg_in21k", "cifar") is None
    assert published("VPT-Deep", "ViT-S/16", "orig_in21k", "cifar") is None


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("vit_base_patch16_224.orig_in21k", 224, VIT_B),
        ("vit_base_patch16_224.mae", 224, ("ViT-B/16", "mae")),
        ("vit_base_patch16_224.moco_v3", 224, ("ViT-B/16", "moco_v3")),
        ("swin_base_patch4_window7_224.ms_in22k", 224, ("Swin-B", "ms_in22k")),
        ("swin_base_patch4_window12_384.ms_in22k", 384, "no published numbers for the backbone"),
        ("vit_base_patch16_224", 224, "unknown"),
        ("vit_base_patch16_224.dino", 224, "'dino'"),
        ("vit_tiny_patch16_224.augreg_in21k", 224, "no published numbers for the backbone"),
        ("vit_base_patch16_224.mae", 112, "224 pixels, these have 112"),
        ("vit_quickstart", 32, "no published numbers for the backbone"),
    ],
)
def test_a_backbone_is_the_papers_or_there_is_a_reason(name, image_size, expected):
    plan = replace(make_plan().backbone, name=name, image_size=image_size)
    found = published_backbone(plan)
    if isinstance(expected, tuple):
        assert found == expected
    else:
        assert isinstance(found, str) and expected in found


def test_a_space_is_called_as_papers_call_it():
    assert published_method(load_space("vpt_deep")) == "VPT-Deep"
    assert published_method(load_space("vpt_shallow")) == "VPT-Shallow"
    assert published_method(load_space("linear")) == "Linear"


def test_a_space_that_searches_what_makes_the_method_has_no_name():
    document = {"method": "vpt", "search": {"deep": {"choices": [True, False]}}}
    assert published_method(parse_space(document, name="both", source="both.yaml")) is None


def test_every_name_stands_in_the_table():
    known = {row["method"] for row in rows()}
    assert {name for method in METHODS.values() for name in method.published_as} <= known
    assert all(isinstance(published_method(load_space(s)), str | None) for s in shipped_spaces())


def test_a_task_with_other_classes_is_not_the_official_one():
    plan = synthetic_plan(tasks=("caltech101",))
    assert is_official(plan, "caltech101")
    reduced = replace(plan, tasks=(replace(plan.tasks[0], num_classes=101),))
    assert not is_official(reduced, "caltech101")


def shown(folder, space: str, backbone: str) -> tuple[dict[str, str], str]:
    """What the table of published accuracies says of a space, by row, and its notes."""
    plan = synthetic_plan(spaces=(space,), num_trials=1)
    plan = replace(plan, backbone=replace(plan.backbone, name=backbone))
    save_plan(plan, folder)
    table = accuracies_beside_published(collect(plan, open_record(plan, folder)))
    assert table.columns[1] == f"{space} published test"
    return {row.cells[0].text: row.cells[1].text for row in table.rows}, "\n".join(table.notes)


def test_means_of_papers_stand_where_their_numbers_per_task_are_not_known(tmp_path):
    rows, notes = shown(tmp_path, "vpt_deep", "swin_base_patch4_window7_224.ms_in22k")
    assert rows["cifar"] == "–" and rows["mean of tasks"] == "–"
    assert rows["mean of natural tasks"] == "76.8" and rows["mean of groups"] == "70.7"
    assert "Swin-B ms_in22k" in notes and "vpt_deep: VFPT paper" in notes and "†" not in notes


def test_a_mean_with_a_doubt_is_marked_and_the_doubt_told(tmp_path):
    rows, notes = shown(tmp_path, "spt_shallow", "vit_base_patch16_224.mae")
    assert rows["mean of natural tasks"] == "62.5†" and rows["mean of groups"] == "65.6†"
    assert "† spt_shallow: the released code keeps the best test epoch; secondary source" in notes


def test_a_mean_of_numbers_of_which_one_has_a_doubt_is_marked():
    groups = {task: known.group for task, known in OFFICIAL_TASKS.items()}
    column = MethodColumn(
        space="x",
        values=dict.fromkeys(groups, 0.5),
        expected=groups,
        doubtful=frozenset({"kitti"}),
    )
    assert str(column.over_tasks("structured")) == str(column.over_groups()) == "50.0†"
    assert str(column.over_tasks()) == "50.0†" and str(column.over_tasks("natural")) == "50.0"
