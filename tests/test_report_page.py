"""The page: one file, safe whatever a task is called, whole in a real browser."""

import base64
import hashlib
import html
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from plans import make_plan, make_record, run_trial
from synthetic_sweep import synthetic_plan, synthetic_record

from orchestrator.api.report import Report
from orchestrator.plan.plan import GpuShare
from orchestrator.report.by_class import class_table
from orchestrator.report.collect import SweepReport, collect
from orchestrator.report.confusion import confused_table, confusion_matrix, confusion_of
from orchestrator.report.final import FinalResult
from orchestrator.report.hours import DeviceHours, device_hours
from orchestrator.report.loss_figure import losses
from orchestrator.report.method_looks import looks
from orchestrator.report.page import page, study_page
from orchestrator.report.svg import Chart, LinearScale, thinned
from orchestrator.training.confusion import MOST_PAIRS

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> SweepReport:
    plan = synthetic_plan(
        tasks=("caltech101", "eurosat"), spaces=("linear", "spt_deep"), num_trials=16, epochs=20
    )
    return collect(plan, synthetic_record(plan, tmp_path_factory.mktemp("page")))


class Tags(HTMLParser):
    """Tags and attributes of a page, and whether all that was opened is closed."""

    VOID = ("meta", "link", "img", "br", "path", "circle", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in self.VOID or tag in ("path", "circle", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed_and_needs_nothing_else(report):
    text = page(report)
    tags = Tags(text)
    assert tags.open == []
    assert not {"iframe", "object", "embed", "base", "form"} & set(tags.names)
    for name, value in tags.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href"):
            assert value and value.startswith(("#", "data:")), value
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_policy_lets_the_one_script_run_and_no_other(report):
    for text in (page(report), study_page(report.studies[0])):
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in text
        assert "innerHTML" not in script and "eval" not in script and "http" not in script


def test_the_results_are_drawn_before_anything_is_opened(report):
    text = page(report)
    before = text[: text.index("<h2>")]
    assert "Validation accuracy of each method" in before and "Best so far over compute" in before
    assert before.count("<figure") == 2 and "<details" not in before
    for study in report.studies:
        assert f"{study.name}: {study.val_text} %" in before
    printed = [study for study in report.studies if study.published]
    assert printed and before.count(": published test ") == len(printed)
    for space in report.spaces:
        spent = [s for s in report.studies if s.plan.space == space]
        mean = sum(s.val_accuracy or 0.0 for s in spent) / len(spent)
        assert re.search(rf"{space}: {100 * mean:.1f} % after [\d.]+ minutes in workers", before)


def test_methods_differ_in_more_than_colour(report):
    many = replace(
        report,
        studies=[
            replace(report.studies[0], plan=replace(report.studies[0].plan, space=f"space{index}"))
            for index in range(20)
        ],
    )
    seen = {(look.shape, look.colour) for look in looks(many)}
    assert len(seen) == 20
    for one, other in pairwise(looks(many)):
        assert one.shape != other.shape and one.colour != other.colour


def test_a_thinned_line_is_where_the_line_was():
    rough = [(0.1 * x, 100 * math.sin(0.05 * x) + (x * 7 % 5) / 10) for x in range(1000)]
    kept = thinned(rough, 0.5)
    assert len(kept) < len(rough) / 10 and (kept[0], kept[-1]) == (rough[0], rough[-1])
    for x, y in rough:
        (x0, y0), (x1, y1) = next((a, b) for a, b in pairwise(kept) if a[0] <= x <= b[0])
        on_line = y0 + (x - x0) / (x1 - x0) * (y1 - y0)
        # Beside the line by half a pixel, which is more than that above or below a steep one.
        assert abs(y - on_line) <= 0.5 * math.hypot(1, (y1 - y0) / (x1 - x0)) + 1e-9
    peak = [(0.0, 0.0), (0.1, 100.0), (0.2, 50.0)]
    assert thinned(peak, 0.5) == peak
    assert thinned([], 0.5) == [] and thinned(peak[:1], 0.5) == peak[:1]
    assert thinned([(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)], 0.5)[1] == (1.0, 0.0)


def test_what_looks_alike_has_its_class_once():
    unit = LinearScale(0, 1, 0, 100)
    chart = Chart(unit, unit, "", "")
    for index, kind in enumerate(["pruned", "pruned", "complete", "pruned"]):
        chart.dot(index / 4, 0.5, kind, f"#{index}")
    svg = chart.draw("dots", axes=False)
    assert re.findall(r'<g class="(\w+)">', svg) == ["pruned", "complete", "pruned"]
    assert re.findall(r"<title>(.*?)</title>", svg) == ["#0", "#1", "#2", "#3"]  # in their order


def test_a_page_of_a_hundred_studies_stays_at_some_megabytes(tmp_path):
    """Rough curves of 100 epochs, which are the largest."""
    plan = synthetic_plan(tasks=("dtd",), spaces=("vpt_deep",), num_trials=30, epochs=100)
    (study,) = collect(plan, synthetic_record(plan, tmp_path)).studies
    assert len(study_page(study)) < 70_000


def test_no_heading_stands_twice(report):
    headings = re.findall(r"<h[123]>([^<]*)</h", page(report))
    assert len(headings) == len(set(headings))
    one_study = replace(
        report,
        studies=report.studies[:1],
        plan=replace(report.plan, tasks=report.plan.tasks[:1], studies=report.plan.studies[:1]),
    )
    assert f"<h3>{report.studies[0].name}</h3>" not in page(one_study), "its task's is enough"


def test_what_is_typed_is_shown_as_code(report):
    assert "<code>orchestrator finalize</code>" in page(report)
    assert "&lt;code&gt;" not in page(report)


def test_every_link_leads_somewhere(report):
    tags = Tags(page(report))
    targets = {value for name, value in tags.attributes if name == "id"}
    links = {
        value[1:] for name, value in tags.attributes if name == "href" and value and value[0] == "#"
    }
    assert links and links <= targets
    assert {study.anchor for study in report.studies} <= targets


def test_every_drawing_says_what_it_shows(report):
    text = page(report)
    drawings = re.findall(r"<svg [^>]*>", text)
    assert drawings and all('role="img"' in d and 'aria-label="' in d for d in drawings)
    assert text.count("<figcaption>") == text.count("<figure")


def test_what_comes_from_files_is_text(tmp_path):
    plan = make_plan(tasks=(HOSTILE,), spaces=("linear", "vpt_deep"), name=HOSTILE, num_trials=2)
    document = {**plan.spaces["vpt_deep"], "search": {"lr": {"low": 0.1, "high": 1.0}}}
    plan = replace(
        plan,
        spaces={"linear": plan.spaces["linear"], HOSTILE: document},
        studies=(plan.studies[0], replace(plan.studies[1], space=HOSTILE)),
        versions={HOSTILE: HOSTILE},
        backbone=replace(plan.backbone, name=HOSTILE),
        tasks=(replace(plan.tasks[0], group=HOSTILE),),
    )
    record = make_record(plan, tmp_path)
    for study in plan.studies:
        run_trial(record, study.name)
        trial = record.ask(study.name)
        rows = [{"epoch": 1, "val_accuracy": 0.1}]
        facts = {"wall_seconds": 1.0, "device": HOSTILE}
        record.fail(study.name, trial.number, reason=HOSTILE, curve=rows, facts=facts)
    text = page(collect(plan, record))
    tags = Tags(text)
    assert tags.open == []
    assert tags.names.count("script") == 1 and "img" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert any(HOSTILE in word for word in tags.words), "it is shown as what it is"


def test_classes_are_shown_the_worst_first_under_their_own_names(tmp_path):
    names = (HOSTILE, *"bcdefghij")
    plan = make_plan(num_trials=1)
    plan = replace(plan, tasks=(replace(plan.tasks[0], class_names=names),))
    trial = run_trial(make_record(plan, tmp_path), plan.studies[0].name)
    counts = [20, 100, 0, 40, 10, 10, 10, 5, 5, 0]
    right = [0, 90, 0, 40, 5, 10, 10, 5, 5, 0]
    facts = {**trial.facts, "val_images_by_class": counts, "val_correct_by_class": right}
    study = collect(plan, make_record(plan, tmp_path)).studies[0]
    study = replace(study, trials=[replace(trial, facts=facts)])
    table = class_table(study)
    assert table is not None
    rows = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[0] for row in rows] == [HOSTILE, "e", "b", "d", "f", "g", "h", "i", "c", "j"]
    assert rows[0] == [HOSTILE, "20", "0", "0.0 (≤ 16.1)"]
    assert rows[2] == ["b", "100", "90", "90.0 ± 3.0"]
    assert rows[-1] == ["j", "0", "0", "–"]
    tags = Tags(study_page(study))
    assert tags.open == [] and tags.names.count("script") == 1 and "img" not in tags.names
    assert HOSTILE in tags.words
    tested = FinalResult(
        task="caltech101",
        space="vpt_deep",
        test_accuracies={1: 0.5, 2: 0.6},
        num_test=100,
        test_images_by_class=[10] * 10,
        test_correct_by_class={1: [9] * 9 + [1], 2: [9] * 9 + [3]},
    )
    final = class_table(replace(study, final=tested))
    assert final is not None
    assert [cell.text for cell in final.rows[0].cells][-2:] == ["10", "20.0 ± 14.1"]
    assert final.rows[0].cells[0].text == "j"


def _tested(tmp_path, **more):
    """A study of one trial whose winner was tested on 10 classes of 10 images, with two seeds."""
    plan, names = make_plan(num_trials=1), more.pop("class_names", (HOSTILE, *"bcdefghij"))
    number = more.pop("num_classes", 10)
    task = replace(plan.tasks[0], class_names=names, num_classes=number)
    plan = replace(plan, tasks=(task,))
    tmp_path.mkdir(exist_ok=True)
    record = make_record(plan, tmp_path)
    run_trial(record, plan.studies[0].name)
    facts = {
        "num_test": 100,
        "test_accuracies": {1: 0.9, 2: 0.8},
        "test_images_by_class": [10] * 10,
        "test_correct_by_class": {1: [9] * 10, 2: [8] * 10},
    }
    final = FinalResult(task="caltech101", space="vpt_deep", **{**facts, **more})
    return collect(plan, record, [final])


def test_what_is_confused_is_shown_as_it_was_counted(tmp_path):
    pairs = {1: ((0, 1, 3), (5, 2, 1)), 2: ((0, 1, 4), (9, 8, 2))}
    report = _tested(tmp_path, test_confused=pairs)
    found = confusion_of(report.studies[0])
    assert found is not None
    rows = [[cell.text for cell in row.cells] for row in confused_table(found).rows]
    assert rows[0] == [HOSTILE, "b", "3.5", "35.0"]
    assert rows[1] == ["j", "i", "1", "10.0"] and rows[2] == ["f", "c", "0.5", "5.0"]
    matrix = confusion_matrix(found)
    assert matrix and matrix.svg
    assert 'class="right level8"' in matrix.svg and 'class="wrong level4"' in matrix.svg
    assert matrix.svg.count(">8.5</text>") == 10 and matrix.svg.count(">0.5</text>") == 1
    assert matrix.svg.count(", right: 8.5 of 10 images") == 10
    assert len(re.findall(r" taken for \w: ", matrix.svg)) == 3
    assert "f taken for c: 0.5 of 10 images, 5.0 %" in matrix.svg
    text = page(report)
    tags = Tags(text)
    assert tags.open == [] and tags.names.count("script") == 1 and "img" not in tags.names
    assert matrix.title in text and "Classes that are confused most" in text


def test_a_test_from_before_says_that_it_kept_no_confusion(tmp_path):
    assert "was not kept by the version that tested it" in page(_tested(tmp_path))


def test_confusion_of_classes_that_there_are_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"caltech101\.vpt_deep: confuses classes 0 and 10"):
        _tested(tmp_path, test_confused={1: ((0, 10, 3),)})


def test_counts_of_other_classes_than_there_are_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"caltech101\.vpt_deep: counts 9 classes, where there are"
    ):
        _tested(tmp_path, test_correct_by_class={1: [9] * 10, 2: [8] * 9})


def test_where_nothing_is_confused_that_stands_there(tmp_path):
    text = page(_tested(tmp_path, test_confused={1: (), 2: ()}))
    assert "No test image was given a wrong class." in text
    assert "Classes that are confused most" not in text


def test_thousands_of_images_are_no_powers_of_ten(tmp_path):
    pairs = {1: ((0, 1, 1235), (1, 0, 2)), 2: ((0, 1, 1233),), 3: ((0, 1, 1234),)}
    found = confusion_of(_tested(tmp_path, test_confused=pairs).studies[0])
    matrix = found and confusion_matrix(found)
    assert matrix and matrix.svg and "e+03" not in matrix.svg and ">0.667<" not in matrix.svg
    assert ">1234</text>" in matrix.svg and ">0.7</text>" in matrix.svg
    assert found and confused_table(found).rows[0].cells[2].text == "1,234"
    (device,) = [DeviceHours(device="H100", hours=99.96, num_trials=7)]
    assert str(device) == "100 GPU hours on H100, 7 trials"


def test_of_many_classes_only_pairs_that_every_seed_told_are_averaged(tmp_path):
    """A seed keeps its most frequent pairs: how many images it has of others is not known."""
    first = [(0, 1, 50), *((label, 0, 9) for label in range(1, MOST_PAIRS))]
    second = [(0, 1, 40), *((label, 1, 9) for label in range(2, MOST_PAIRS + 1))]
    wide = dict(num_classes=200, class_names=(), test_images_by_class=(), test_correct_by_class={})
    report = _tested(tmp_path, test_confused={1: first, 2: second}, **wide)
    found = confusion_of(report.studies[0])
    assert found and found.wrong == {(0, 1): 45.0}
    (note,) = confused_table(found).notes
    assert f"among the {MOST_PAIRS} most frequent of each" in note
    # One that kept fewer has no others.
    few = confusion_of(
        _tested(tmp_path / "few", test_confused={1: first, 2: second[:3]}, **wide).studies[0]
    )
    assert few and few.wrong[0, 1] == 45.0 and few.wrong[1, 0] == 4.5
    none = _tested(tmp_path / "none", test_confused={1: [*first[1:], (0, 2, 1)], 2: second}, **wide)
    assert "differs from seed to seed" in page(none)


def test_hours_are_those_of_the_devices(report):
    trials = [t for study in report.studies for t in study.trials]
    seconds = sum(trial.facts["wall_seconds"] for trial in trials)
    (cpu,) = device_hours(trials, None)
    assert cpu.hours == pytest.approx(seconds / 3600) and cpu.num_trials == len(trials)
    assert f"<dd>{cpu}</dd>" in page(report) and "CPU hours, 64 trials" in str(cpu)
    on_gpu = [replace(t, facts={**t.facts, "device": "H100", "cpu_threads": 8}) for t in trials]
    half = GpuShare(gpus_per_trial=0.5, gpu="H100")
    (shared,) = device_hours(on_gpu, half)
    assert shared.hours == pytest.approx(seconds / 7200) and "GPU hours on H100" in str(shared)
    (whole,) = device_hours(on_gpu, replace(half, gpu="another"))
    assert whole.hours == pytest.approx(seconds / 3600)
    assert len(device_hours([*trials, *on_gpu], half)) == 2


def test_losses_of_the_best_trial_are_drawn(report):
    study = report.studies[0]
    assert study.best
    found = losses(study)
    assert found.svg and found.svg.count('class="run ') == 2
    assert f"train loss, at the end {study.best.curve[-1]['train_loss']:.3g}" in found.caption
    rows = [{**row, "val_loss": abs(row["epoch"] - 7) + 1} for row in study.best.curve]
    overfitted = replace(study, trials=[replace(study.best, curve=rows)])
    assert "lowest after epoch 7 with 1." in losses(overfitted).caption


def test_a_best_trial_is_shown_with_its_files_if_they_are_its_own(report, tmp_path):
    folder = tmp_path / "my sweep"
    study = report.best_of_task("eurosat")
    assert study and study.best
    path = folder / "best" / "eurosat.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"trial: {{study: {study.name}, number: {study.best.number}}}")
    text = Report(report, folder=folder).html
    again = f'<code class="copy">orchestrator train &#39;{path}&#39;</code>'
    assert again in text
    assert (
        f"best trial of caltech101 yet: <code>orchestrator export &#39;{folder}&#39;</code>" in text
    )
    path.write_text(f"trial: {{study: {study.name}, number: {study.best.number + 1}}}")
    text = Report(report, folder=folder).html
    assert again not in text and "best trial of caltech101, eurosat yet" in text


def test_a_trial_without_counts_by_class_says_so(report):
    assert all(class_table(study) is None for study in report.studies)
    assert page(report).count("Accuracy by class was not kept") == len(report.plan.tasks)


def test_numbers_of_the_page_are_those_of_the_storage(report):
    text = page(report)
    for study in report.studies:
        assert study.best
        shown = 100 * (study.best.val_accuracy or 0.0)
        error = 100 * (study.val_error or 0.0)
        assert (
            f"Best in the search: trial #{study.best.number}, {shown:.1f} ± {error:.1f} % " in text
        )
        for trial in study.trials:
            name = f"#{trial.number} {100 * (trial.val_accuracy or 0.0):.1f} %, {trial.state}"
            assert name in text


@pytest.mark.browser
def test_a_browser_shows_every_figure_and_complains_of_nothing(report, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    path = tmp_path / "report.html"
    text = page(report).replace("<details", "<details open")
    path.write_text(text, encoding="utf-8")
    dumped = _chromium(tmp_path, path, "--dump-dom")
    assert dumped.stdout.count("<svg") == text.count("<svg") > 20
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    _chromium(tmp_path, path, "--print-to-pdf=" + str(tmp_path / "report.pdf"))
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.browser
def test_a_click_on_a_column_sorts_and_dark_mode_is_dark(report, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    # The policy of the page forbids scripts but its own, also to this test.
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page(report))
    probe = """<script>
    const table = document.querySelector("details.trials table");
    const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === "val %");
    const values = () => [...table.tBodies[0].rows].map(r => r.cells[column].textContent).join(" ");
    const button = table.tHead.rows[0].cells[column].querySelector("button");
    const told = ["sorted"];
    button.click(); told.push(values());
    button.click(); told.push(values());
    told.push(getComputedStyle(document.body).backgroundColor);
    document.title = told.join("|");
    </script>"""
    path = tmp_path / "report.html"
    path.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    seen = {}
    for scheme in ("dark", "light"):
        setting = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
        dumped = _chromium(tmp_path, path, setting, "--dump-dom")
        found = re.search(r"<title>sorted\|(.*?)\|(.*?)\|(.*?)</title>", dumped.stdout)
        assert found, dumped.stdout[:500] + dumped.stderr[-500:]
        falling, rising = ([float(v) for v in found[i].split() if v != "–"] for i in (1, 2))
        assert falling == sorted(falling, reverse=True) and rising == sorted(rising)
        assert len(set(falling)) > 3
        seen[scheme] = found[3]
    assert seen["light"] == "rgb(255, 255, 255)" and seen["dark"] == "rgb(20, 24, 29)"


@pytest.mark.browser
def test_names_with_digits_are_sorted_as_words_and_numbers_as_numbers(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    columns = {
        "name": ["svhn", "cifar-100", "caltech101", "resisc45", "dtd"],
        "number": ["9.5 ± 1.0", "(≥ 98.1)", "–", "1,229", "−3"],
    }
    expected = [
        "caltech101 cifar-100 dtd resisc45 svhn",
        "1,229 (≥ 98.1) 9.5 ± 1.0 −3 –",
    ]
    rows = "".join(
        f"<tr><th>{name}</th><td>{number}</td></tr>"
        for name, number in zip(*columns.values(), strict=True)
    )
    script = (resources.files("orchestrator.report") / "page.js").read_text()
    probe = """
    const table = document.querySelector("table"), told = [];
    for (const column of [0, 1]) {
      table.tHead.rows[0].cells[column].querySelector("button").click();
      told.push([...table.tBodies[0].rows].map(r => r.cells[column].textContent).join(" "));
    }
    document.title = told.join("|");"""
    path = tmp_path / "table.html"
    path.write_text(
        '<meta charset="utf-8"><table><thead><tr><th class="words">name</th><th>number</th></tr>'
        f"</thead><tbody>{rows}</tbody></table><script>{script}{probe}</script>",
        encoding="utf-8",
    )
    found = re.search(r"<title>(.*?)</title>", _chromium(tmp_path, path, "--dump-dom").stdout)
    assert found and html.unescape(found[1]).split("|") == expected


@pytest.mark.browser
def test_the_page_is_no_wider_than_a_phone(report, tmp_path):
    """Only tables and wide drawings scroll sideways, in themselves."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    path = tmp_path / "report.html"
    text = page(report).replace("<details", "<details open")
    # The policy of the page forbids scripts, also to this test.
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    measure = "<script>document.title = document.documentElement.scrollWidth</script>"
    inner = text.replace("</body>", f"{measure}</body>")
    (tmp_path / "inner.html").write_text(inner, encoding="utf-8")
    path.write_text(
        '<iframe id="phone" src="inner.html" style="width:375px;height:800px;border:0"></iframe>'
        "<script>phone.onload = () => "
        "document.body.append('width ' + phone.contentDocument.title)</script>",
        encoding="utf-8",
    )
    dumped = _chromium(tmp_path, path, "--allow-file-access-from-files", "--dump-dom")
    found = re.search(r"width (\d+)", dumped.stdout)
    assert found, dumped.stdout[-500:]
    assert int(found[1]) <= 375


def _chromium(folder: Path, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={folder / 'profile'}",
            *("--enable-logging=stderr", "--v=0", *arguments),
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
