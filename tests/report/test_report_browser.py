"""Pages in headless Chromium: one start per page, as wide as a phone; a run as on a desk too.

A browser window cannot be narrower than 500 pixels, so a page is shown in frames of a test page;
a script added to a copy of the page tells that what it sees.
"""

import base64
import copy
import gzip
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_folders import EVIL, copy_of, named, read_json, undefined_macs, with_options, write_json

import manyshot.report as report
from manyshot.report import figures, labels, plotly_js

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
PHONE, TABLET, DESK = 390, 768, 1100
BOLD = "<b>bold</b>"
LISTEN = """<script>
const real = matchMedia;
window.matchMedia = (query) => {
  const media = real(query), add = media.addEventListener.bind(media);
  media.addEventListener = (kind, listener) => { window.changed = listener; add(kind, listener); };
  return media;
};
</script>"""
PROBE = """<script>
const look = async () => {
  const root = document.documentElement, plots = [...document.querySelectorAll(".drawing")];
  if (root.dataset.drawn === undefined) return setTimeout(look, 20);
  if (window.changed) {
    root.style.setProperty("--ink", "rgb(1, 2, 3)");
    await window.changed();
  }
  const button = [...document.querySelectorAll("button")].find((b) => b.textContent === "BUTTON");
  if (button) {
    button.click();
    await new Promise((done) => setTimeout(done, 300));
  }
  const across = (button ?? document.body).closest("figure")?.querySelector(".xtitle");
  const marks = ".point, .points path, .lines path, .hm image";
  const texts = [...document.querySelectorAll(".drawing text")];
  parent.postMessage({
    title: document.title,
    heading: document.querySelector("h1").textContent,
    width: innerWidth,
    room: root.clientWidth,
    needed: root.scrollWidth,
    told: Number(root.dataset.drawn),
    plots: plots.length,
    drawn: plots.filter((plot) => plot.dataset.drawn === "yes").length,
    unmarked: plots.filter((plot) => !plot.querySelector(marks))
      .map((plot) => plot.parentElement.ariaLabel),
    labels: plots.map((plot) => [...plot.querySelectorAll(".annotation-text-g")].map((label) => {
      const { left, right, top, bottom } = label.getBoundingClientRect();
      const { left: from, right: to } = plot.getBoundingClientRect();
      return { text: label.textContent, left, right, top, bottom, from, to };
    })),
    kinds: plots.flatMap((plot) => (plot.data ?? []).map((trace, i) =>
      [trace.type, plot._fullData[i].type])),
    across: across?.textContent ?? "",
    widest: Math.max(0, ...plots.map((plot) => plot.firstElementChild?.clientWidth ?? 0)),
    texts: texts.map((text) => text.textContent).join("|"),
    page: getComputedStyle(document.body).backgroundColor,
    letters: texts.length ? getComputedStyle(texts[0]).fill : "",
    ink: getComputedStyle(document.querySelector("h1")).color,
  }, "*");
};
look();
</script>"""
SHOW = """<!doctype html><body><script>
onmessage = (event) => {
  const seen = document.createElement("pre");
  seen.textContent = JSON.stringify(event.data);
  document.body.append(seen);
};
</script>
"""

pytestmark = pytest.mark.skipif(
    BROWSER is None,
    reason=f"no browser on PATH (none of {', '.join(BROWSERS)}): install one, such as chromium",
)


class Seen(HTMLParser):
    """What a page said of itself in each frame, by width."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.frames: dict[int, dict[str, Any]] = {}
        self._inside = False
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            found = json.loads(data)
            self.frames[found["width"]] = found


def look_at(
    folder: Path,
    widths: tuple[int, ...] = (PHONE,),
    *,
    dark: bool = False,
    again: bool = False,
    press: str = "",
) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """What frames of the report in `folder` say, and what the browser's console does.

    With `again` the colour scheme changes after all is drawn, and then the first button that says
    `press` is pressed.
    """
    page = report.write(folder).read_text(encoding="utf-8")
    assert page.count("</body>") == 1
    page = page.replace("</body>", f"{PROBE.replace('BUTTON', press)}</body>")
    if again:
        page = page.replace("<body>", f"<body>{LISTEN}", 1)
    (folder / "probed.html").write_text(page, encoding="utf-8")
    frames = "".join(
        f'<iframe src="probed.html" style="width:{w}px;height:900px;border:0"></iframe>'
        for w in widths
    )
    (folder / "frames.html").write_text(SHOW + frames)
    command = [
        *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu"),
        *("--enable-logging=stderr", "--v=0", "--window-size=1200,2000"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--user-data-dir={folder / 'profile'}",
        *("--virtual-time-budget=6000", "--dump-dom", (folder / "frames.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(done.stdout).frames, console


def check(frames: dict[int, dict[str, Any]], console: list[str], figures: int) -> None:
    assert console == []
    assert PHONE in frames
    for seen in frames.values():
        assert seen["needed"] <= seen["room"], "the page is wider than the screen"
        assert seen["plots"] == seen["drawn"] == seen["told"] == figures
        assert seen["unmarked"] == [], "figures without marks"
        assert seen["letters"] == seen["ink"]
        assert seen["kinds"] and all(asked == drawn for asked, drawn in seen["kinds"])
    assert 250 < frames[PHONE]["widest"] <= PHONE


def is_dark(colour: str) -> bool:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 64


def near_winners(folder: Path, apart: float) -> None:
    """Five winners of a run so near one another that their labels would be on one heap."""
    result = read_json(folder / "result.json")
    [first, *_], most = result["winners"], result["winners"][0]["macs"]
    budgets = ("macs<=20%", "macs<=21%", "macs<=90% and params<=80%", "params<=9K", "macs<=22%")
    result["winners"] = [
        {
            **first,
            "budget": budget,
            "arch": f"0-0-{i // 4}-{i % 4}",
            "macs": round(most * (1 + apart * i)),
            "proxy_score": 0.9 - apart * i,
            "test_score": 0.8 + apart * i,
            "test_interval": [0.7 + apart * i, 0.85 + apart * i],
            "files": {},
        }
        for i, budget in enumerate(budgets)
    ]
    write_json(folder / "result.json", result)


def on_one_another(labels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The pairs of labels of a figure of which one covers a part of the other."""
    return [
        (one["text"], other["text"])
        for one, other in itertools.combinations(labels, 2)
        if min(one["right"], other["right"]) > max(one["left"], other["left"])
        and min(one["bottom"], other["bottom"]) > max(one["top"], other["top"])
    ]


@pytest.mark.parametrize(
    "apart", [0.003, *(pytest.param(a, marks=pytest.mark.slow) for a in (0.0, 0.03))]
)
def test_labels_of_near_winners_are_beside_one_another(
    everything: Path, tmp_path: Path, apart: float
) -> None:
    """The slow ones are all in one place, and so far apart that labels hardly meet."""
    folder = copy_of(everything, tmp_path / "run")
    near_winners(folder, apart)
    frames, console = look_at(folder, (PHONE, TABLET, DESK))
    assert console == [] and frames.keys() == {PHONE, TABLET, DESK}
    for seen in frames.values():
        labelled = [of_a_figure for of_a_figure in seen["labels"] if len(of_a_figure) == 5]
        assert len(labelled) == 2, "of scores on validation and on test images"
        for five in labelled:
            assert on_one_another(five) == []
            assert all(at["from"] <= at["left"] and at["right"] <= at["to"] for at in five)


def test_labels_on_one_another_are_seen(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(everything, tmp_path / "run")
    near_winners(folder, 0.003)
    above = labels.Place(-8.0, 20.0, leftwards=False)
    monkeypatch.setattr(labels, "places", lambda all_of, *_: [above] * len(all_of))
    frames, _ = look_at(folder)
    assert any(on_one_another(of_a_figure) for of_a_figure in frames[PHONE]["labels"])


def test_a_run_with_markup_for_names(everything: Path, tmp_path: Path) -> None:
    folder = with_options(copy_of(everything, tmp_path / "run"), BOLD, "b", "c", "d")
    named(folder, EVIL)
    frames, console = look_at(folder, (PHONE, TABLET, DESK))
    check(frames, console, figures=27)
    assert frames.keys() == {PHONE, TABLET, DESK}
    assert {kind for kind, _ in frames[DESK]["kinds"]} == {"scatter", "bar", "heatmap"}
    assert frames[DESK]["widest"] > 900
    for seen in frames.values():
        assert seen["heading"] == EVIL and EVIL in seen["title"]
        assert BOLD in seen["texts"], "plotly shows markup as text"
        assert not is_dark(seen["page"]) and is_dark(seen["letters"])


def test_a_rank_in_the_dark(ranking: dict[str, Any], tmp_path: Path) -> None:
    record = copy.deepcopy(ranking)
    undefined_macs(record["sets"][0])
    write_json(tmp_path / "rank.json", record)
    frames, console = look_at(tmp_path, dark=True)
    check(frames, console, figures=3 + len(record["sets"]))
    for seen in frames.values():
        assert is_dark(seen["page"]) and not is_dark(seen["letters"])
        assert "undefined" in seen["texts"]


def test_a_comparison(comparison: dict[str, Any], tmp_path: Path) -> None:
    record = copy.deepcopy(comparison)
    for run in record["runs"]:  # the truth may lack their winners
        run["metrics"] = {name: value or 0.5 for name, value in run["metrics"].items()}
    write_json(tmp_path / "compare.json", record)
    frames, console = look_at(tmp_path, again=True)
    check(
        frames, console, figures=2 + len(comparison["methods"][0]["metrics"])
    )  # two of what was spent
    assert frames[PHONE]["letters"] == "rgb(1, 2, 3)", "figures follow the colours of the page"


def test_the_console_is_heard(
    comparison: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "compare.json", comparison)
    script = base64.b64encode(gzip.compress(b"fetch('https://example.org/')")).decode()
    monkeypatch.setattr(plotly_js, "packed", lambda: script)
    frames, console = look_at(tmp_path)
    assert any("Content Security Policy" in line for line in console)
    assert any("Plotly is not defined" in line for line in console)
    assert all(seen["drawn"] == 0 for seen in frames.values())


def test_a_kind_of_trace_that_the_script_lacks_is_seen(
    comparison: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be drawn as dots, and nothing said."""
    write_json(tmp_path / "compare.json", comparison)
    real = figures.dots
    monkeypatch.setattr(
        figures, "dots", lambda *args, **more: {**real(*args, **more), "type": "parcoords"}
    )
    frames, console = look_at(tmp_path)
    assert ["parcoords", "scatter"] in frames[PHONE]["kinds"]
    with pytest.raises(AssertionError):
        check(frames, console, figures=len(comparison["methods"][0]["metrics"]))


def test_a_button_draws_another_view(everything: Path, tmp_path: Path) -> None:
    folder = copy_of(everything, tmp_path / "run")
    frames, console = look_at(folder, press="Parameters")
    assert console == []
    assert "parameters" in frames[PHONE]["across"] and "MACs" not in frames[PHONE]["across"]
    frames, _ = look_at(folder, press="MACs")
    assert "MACs" in frames[PHONE]["across"] and "parameters" not in frames[PHONE]["across"]
