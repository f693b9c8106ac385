"""Progress off a terminal: plain lines now and then on standard error, and always the last."""

import contextlib
import importlib.machinery
import importlib.util
import itertools
import re
import sys
import time
import types

import pytest

from manyshot.progress import Bars, Silent, showing
from manyshot.watching import tell


def test_silence(capsys):
    with Silent().stage("train", 3) as advance:
        advance(3, "loss 1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("every_s", "shown"), [(1000, ["10/10"]), (0, ["1/10", "4/10", "10/10"])])
def test_plain_lines(capsys, every_s, shown):
    with Bars(every_s).stage("train", 10) as advance:
        for done in (1, 4, 10):
            advance(done, f"loss [b]{done}.5")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [re.findall(r"\d+/10", line) for line in lines] == [[count] for count in shown]
    form = r"train    10/10 [\d.,]+/s 0:00:0\d gone 0:00:00 left loss \[b\]10\.5"
    assert re.fullmatch(form, lines[-1])


def test_a_resumed_stage_counts_the_pace_of_this_process_alone(capsys):
    with Bars(0).stage("train", 1010, done=1000) as advance:
        advance(1000, "")
        time.sleep(0.1)
        advance(1010, "")
    first, last = capsys.readouterr().err.splitlines()
    assert first.split()[1:] == ["1000/1010", "?/s", "0:00:00", "gone", "-:--:--", "left"]
    assert last.startswith("train    1010/1010")
    assert float(last.split()[2].removesuffix("/s")) < 10 / 0.1


def test_a_rate_is_of_the_whole_stage_however_long_a_unit_takes(capsys, monkeypatch):
    hours = itertools.count(0.0, 3600.0)
    bars = Bars(0)
    monkeypatch.setattr(bars._console, "get_time", lambda: next(hours))
    with bars.stage("truth", 100) as advance:
        advance(1, "")
        advance(2, "")
    for line in capsys.readouterr().err.splitlines():
        assert "?" not in line and "-:--:--" not in line


def test_a_large_rate_has_no_exponent(capsys, monkeypatch):
    thousandths = itertools.count(0.0, 0.001)
    bars = Bars(0)
    monkeypatch.setattr(bars._console, "get_time", lambda: next(thousandths))
    with bars.stage("images", 10**6) as advance:
        advance(10**6, "")
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{1,3}(,\d{3})+/s", line.split()[2])


def test_a_bar_cuts_its_note_where_there_is_no_room(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with Bars().stage("train", 10) as advance:
        advance(10, "loss [b]10.5, and this is so long that it does not fit")
    err = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().err)
    last = err.splitlines()[-1]
    assert re.search(r"10/10 [\d.,]+/s 0:00:00 gone 0:00:00 left loss \[b\]1\S* *.*…", last)
    assert len(last) <= 80


class Notebook:
    """What IPython and ipywidgets are asked to do, without them."""

    def __init__(self, monkeypatch, with_widgets=True):
        self.shown, self.cleared = [], 0
        notebook, widgets = self, types.ModuleType("ipywidgets")

        class Output(contextlib.nullcontext):
            def clear_output(self, wait=False):
                notebook.cleared += 1

        widgets.Output = Output
        widgets.__spec__ = importlib.machinery.ModuleSpec("ipywidgets", None)
        display = types.ModuleType("IPython.display")
        display.display = self.shown.append
        package = types.ModuleType("IPython")
        package.display = display
        modules = {"IPython": package, "IPython.display": display}
        modules |= {"ipywidgets": widgets} if with_widgets else {}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)

    def texts(self):
        bundles = [one._repr_mimebundle_((), ()) for one in self.shown if hasattr(one, "html")]
        return [bundle["text/plain"] for bundle in bundles]


def test_a_bar_moves_in_a_notebook(monkeypatch):
    notebook = Notebook(monkeypatch)
    with Bars().stage("train", 10) as advance:
        advance(4, "loss 3")
        advance(10, "loss 2")
    last = [text for text in notebook.texts() if text][-1]
    assert notebook.cleared >= 2 and "10/10" in last and "━" in last and "loss 2" in last


def test_a_notebook_without_widgets_has_plain_lines(monkeypatch, recwarn):
    if importlib.util.find_spec("ipywidgets") is not None:
        pytest.skip("ipywidgets is installed")
    notebook = Notebook(monkeypatch, with_widgets=False)
    with Bars(0).stage("train", 10) as advance:
        advance(4, "loss 3")
        advance(10, "loss 2")
    lines = notebook.texts()
    assert [re.findall(r"\d+/10", line) for line in lines] == [["4/10"], ["10/10"]]
    assert not list(recwarn)  # rich warns of what is missing when it is asked for a bar


def test_work_that_tells_how_far_it_is_becomes_a_stage(capsys):
    tell("images", 1, 2)  # nobody watches
    with showing(Bars(0)):
        tell("images", 64, 100)
        tell("images", 100, 100)
    tell("images", 7, 9)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["images", "64/100"], ["images", "100/100"]]
    with showing(Bars(0)):
        pass
    assert capsys.readouterr().err == ""
