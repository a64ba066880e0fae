"""The page: one file, safe whatever a task is called, whole in a real browser."""

import base64
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from plans import make_plan, make_record, run_trial
from synthetic_sweep import synthetic_plan, synthetic_record

from orchestrator.report.by_class import class_table
from orchestrator.report.collect import SweepReport, collect
from orchestrator.report.final import FinalResult
from orchestrator.report.method_looks import looks
from orchestrator.report.page import page, study_page

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
        timeout=120,
    )
