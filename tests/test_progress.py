"""Progress off a terminal: plain lines now and then on standard error, and always the last."""

import re

import pytest

from manyshot.progress import Bars, Silent
from manyshot.show import count


def test_silence(capsys):
    with Silent().stage("train", 3) as advance:
        advance(3, "loss 1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("every_s", "shown"), [(1000, ["10/10"]), (0, ["1/10", "4/10", "10/10"])])
def test_plain_lines(capsys, every_s, shown):
    with Bars(every_s).stage("train", 10) as advance:
        for done in (1, 4, 10):
            advance(done, f"loss {done}.5")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[1] for line in lines] == shown
    form = r"train    10/10  [\d.e+]+/s, \d+:\d\d gone, 0:00 left  loss 10\.5"
    assert re.fullmatch(form, lines[-1])


def test_a_resumed_stage_counts_its_own_pace(capsys):
    with Bars(0).stage("train", 10, done=4) as advance:
        advance(4, "")
        advance(10, "")
    first, last = capsys.readouterr().err.splitlines()
    assert "0/s" in first
    assert "? left" in first
    assert last.startswith("train    10/10")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (12345, "12.3K"), (30e6, "30M"), (1.5e9, "1.5G")],
)
def test_counts_for_people(number, text):
    assert count(number) == text
