"""What a trial tells of itself is spelt once."""

from dataclasses import replace

import pytest
from plans import trial_facts

from orchestrator.report.results import RESULTS_SCHEMA
from orchestrator.tracking import content, final_content
from orchestrator.training.facts import FinalFacts, TrialFacts, described


def test_a_fact_that_was_not_told_is_not_stored():
    facts = trial_facts([])
    assert "val_images_by_class" not in facts.stored()
    assert facts.stored()["part_size"] is None, "said: the whole batch"
    assert replace(facts, val_images_by_class=[3, 4]).stored()["val_images_by_class"] == [3, 4]


def test_every_fact_but_those_of_the_machine_has_its_column_and_says_what_it_is():
    columns = {column.name: column.metadata[b"description"].decode() for column in RESULTS_SCHEMA}
    for name, (_, text) in described(TrialFacts).items():
        assert columns.get(name) == (None if name in ("host", "memory_share") else text)


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (content.TOTALS, TrialFacts),
        (content._FACT_TAGS, TrialFacts),
        (final_content._TOTALS, FinalFacts),
    ],
)
def test_trackers_show_facts_that_there_are(names, facts):
    assert set(names) <= described(facts).keys()
