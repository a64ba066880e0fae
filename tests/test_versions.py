"""What a result may depend on is told apart, so that `resume` can ask before it mixes results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.support.own_process import ROOT
from orchestrator.training.versions import code_digest


def test_code_that_decides_a_result_is_other_software_to_resume(tmp_path: Path):
    """One byte of any file of it; not of what only draws conclusions from results."""
    decides = ("methods", "orchestrator/data", "orchestrator/training")
    for folder in (*decides, "orchestrator/report"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    before = code_digest(tmp_path)
    assert before == code_digest()
    files = sorted(file for folder in decides for file in (tmp_path / folder).rglob("*.py"))
    assert {"augment.py", "final_trial.py", "split.py", "walk.py", "decide.py"} <= {
        file.name for file in files
    }
    digests = {}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        digests[file] = code_digest(tmp_path)
        file.write_bytes(content)
    assert before not in digests.values()
    assert len({*digests.values()}) == len(files)
    with (tmp_path / "orchestrator/report/table.py").open("a") as code:
        code.write("\n# words it otherwise\n")
    assert before == code_digest(tmp_path)


def test_code_that_moves_from_one_file_to_the_next_is_other_software(tmp_path: Path):
    for folder in ("methods", "orchestrator/data", "orchestrator/training"):
        (tmp_path / folder).mkdir(parents=True)
    one, other = tmp_path / "methods/a.py", tmp_path / "methods/b.py"
    digests = set()
    for first, second in ((b"xy", b""), (b"x", b"y"), (b"", b"xy")):
        one.write_bytes(first)
        other.write_bytes(second)
        digests.add(code_digest(tmp_path))
    assert len(digests) == 3


FROM_A_CHECKOUT = """
import json
from importlib.metadata import MetadataPathFinder
from pathlib import Path

from orchestrator.training.versions import versions

of_all = MetadataPathFinder.find_distributions

def but_ours(context):
    return [d for d in of_all(context) if d.name != "visual-prompt-orchestrator"]

MetadataPathFinder.find_distributions = but_ours
print(json.dumps(versions()))
"""


def test_a_checkout_that_is_not_installed_says_so_and_is_told_apart_by_its_code():
    done = subprocess.run(
        [sys.executable, "-c", FROM_A_CHECKOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["visual-prompt-orchestrator"] == "not installed"
    assert found["code"] == code_digest() and found["torch"][0].isdigit()
