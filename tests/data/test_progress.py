import sys

import pytest

from fsl_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def run(items, clock, *, seconds, **options):
    passed = []
    for item in progress.track(items, description="reading", **options):
        passed.append(item)
        clock.now += seconds
    return passed


def test_passes_every_item_on_and_says_nothing_of_a_short_job(capsys, clock):
    assert run(range(5), clock, seconds=0.1) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_prints_a_line_every_ten_seconds_where_stderr_is_no_terminal(capsys, clock):
    run(range(25), clock, seconds=1.0, unit="drawings")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 10 of 25 drawings, 1/s, 15 s left",
        "reading: 20 of 25 drawings, 1/s, 5 s left",
    ]


def test_a_rate_below_one_a_second_is_not_shown_as_none(capsys, clock):
    run(range(3), clock, seconds=12.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 1 of 3 photos, 0.08/s, 24 s left"


def test_counts_without_a_total_where_the_length_is_unknown(capsys, clock):
    run(iter(range(11)), clock, seconds=1.0)
    assert capsys.readouterr().err == "reading: 10 photos, 1/s\n"


def test_an_iterator_with_a_stated_total_gets_a_time_left(capsys, clock):
    run(iter(range(11)), clock, seconds=1.0, total=20)
    assert capsys.readouterr().err == "reading: 10 of 20 photos, 1/s, 10 s left\n"


def test_draws_a_bar_on_a_terminal_after_a_second(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(range(4), clock, seconds=0.6)
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "4/4" in shown
    assert "photos/s" in shown


def test_draws_no_bar_for_a_short_job_on_a_terminal(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(range(4), clock, seconds=0.1)
    assert capsys.readouterr() == ("", "")


def test_a_job_that_counts_for_itself_prints_the_same_lines(capsys, clock):
    counter = progress.Counter("searching", unit="queries")
    for done in range(5, 30, 5):
        clock.now += 5.0
        counter(done, 25)
    assert capsys.readouterr().err.splitlines() == [
        "searching: 10 of 25 queries, 1/s, 15 s left",
        "searching: 20 of 25 queries, 1/s, 5 s left",
    ]
