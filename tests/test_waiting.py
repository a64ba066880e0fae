"""What another process will have done is waited for, but not where there is no hope."""

from itertools import count

from orchestrator.support.waiting import last_lines, wait_until


def test_it_is_asked_until_it_is_done():
    asked = count()
    assert wait_until(lambda: next(asked) == 3, seconds=60, pause=0.001)
    assert next(asked) == 4


def test_what_is_done_at_once_is_not_hopeless():
    assert wait_until(lambda: True, seconds=0, hopeless=lambda: True)


def test_it_ends_with_the_hope_or_with_the_time():
    asked = count()
    assert not wait_until(lambda: False, seconds=3600, hopeless=lambda: next(asked) == 2, pause=0)
    assert not wait_until(lambda: False, seconds=0, pause=3600)


def test_the_end_of_a_log_is_shown_whatever_is_in_it():
    log = b"".join(b"line %d\n" % number for number in range(20)) + b"at last: \xff"
    lines = last_lines(log).splitlines()
    assert len(lines) == 15 and lines[0] == "line 6" and lines[-1].startswith("at last: ")
