"""Files of older formats are brought up to date step by step; those of newer ones are refused."""

import pytest

from orchestrator.support.formats import Format


def _with_colour(document):
    return {**document, "colour": "grey"}


def _with_shade(document):
    others = {name: value for name, value in document.items() if name != "colour"}
    return {**others, "shade": document["colour"]}


LETTERS = Format("a letter", (_with_colour, _with_shade))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"format": 1, "text": "x"}, {"text": "x", "shade": "grey"}),
        ({"format": 2, "text": "x", "colour": "red"}, {"text": "x", "shade": "red"}),
        ({"format": 3, "text": "x", "shade": "dark"}, {"text": "x", "shade": "dark"}),
    ],
)
def test_a_document_goes_through_the_steps_that_it_has_not_been_through(written, read):
    before = dict(written)
    assert LETTERS.up_to_date(written, source="a file") == read
    assert written == before


def test_what_is_written_is_of_the_newest_format():
    stamped = LETTERS.stamped({"text": "x", "shade": "dark"})
    assert next(iter(stamped.items())) == ("format", 3)
    assert LETTERS.up_to_date(stamped, source="a file") == {"text": "x", "shade": "dark"}


def test_a_newer_format_is_refused_and_names_the_version_that_reads_it():
    newer = {"format": 4, "versions": {"visual-prompt-orchestrator": "0.7.1"}}
    with pytest.raises(
        ValueError,
        match=r"a file: was written in format 4 by visual-prompt-orchestrator '0\.7\.1'; this "
        r"version reads formats up to 3: install that version",
    ):
        LETTERS.up_to_date(newer, source="a file")


@pytest.mark.parametrize("versions", [None, [], {}, {"visual-prompt-orchestrator": 7}])
def test_a_newer_format_is_refused_where_it_does_not_say_who_wrote_it(versions):
    with pytest.raises(ValueError, match="by a later version of visual-prompt-orchestrator"):
        LETTERS.up_to_date({"format": 4, "versions": versions}, source="a file")


@pytest.mark.parametrize("number", [0, -1, 1.0, "1", True, None, [1]])
def test_a_format_is_a_whole_number_from_one(number):
    with pytest.raises(ValueError, match=r"a file: format: expected a whole number from 1 to 3"):
        LETTERS.up_to_date({"format": number}, source="a file")


@pytest.mark.parametrize("document", [None, [], "format: 1", {"text": "x"}])
def test_what_has_no_format_is_no_letter(document):
    with pytest.raises(ValueError, match=r"a file: is not a letter \(no `format` line\)"):
        LETTERS.up_to_date(document, source="a file")
