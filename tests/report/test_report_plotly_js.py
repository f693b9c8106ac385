"""What draws figures is what was published, is of the version they are checked by, and is small."""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import plotly.offline
import pytest
from report_folders import write_json

import manyshot.report as report
from manyshot.report import plotly_js
from tools import plotly_js as tool

ROOT = Path(__file__).parents[2]
PAGE_BYTES = 1_500_000
"""A page is smaller than that, also one of a run with all there is."""
OF_THE_SCRIPT = 800_000
"""And without its records: packed as text the script is the largest part."""


def packed_in(page: str) -> bytes:
    """The script that a page unpacks."""
    [text] = re.findall(r'id="packed">([A-Za-z0-9+/=]+)</script>', page)
    return gzip.decompress(base64.b64decode(text))


def test_the_script_is_what_was_published() -> None:
    script, origin = gzip.decompress(base64.b64decode(plotly_js.packed())), plotly_js.origin()
    assert hashlib.sha256(script).hexdigest() == origin.sha256
    assert len(script) == origin.bytes
    says = script[:300].decode()
    assert f"plotly.js (cartesian - minified) v{origin.version}" in says and "MIT license" in says
    assert plotly_js.licence().startswith("MIT License")


def test_figures_are_checked_by_the_schema_of_the_same_version() -> None:
    """Another plotly knows other keys: what it accepts says nothing about what the script draws."""
    checks = plotly.offline.get_plotlyjs_version()
    draws = plotly_js.origin().version
    assert checks.partition(".")[0] == draws.partition(".")[0], (
        f"the installed plotly checks figures as plotly.js {checks}, and {draws} draws them: "
        "`python -m tools.plotly_js` fetches that of the installed one; pyproject.toml says which "
        "may be installed"
    )


def test_pages_of_all_kinds_are_small_and_carry_script_and_licence(
    everything: Path,
    ranking: dict[str, Any],
    comparison: dict[str, Any],
    tmp_path: Path,
) -> None:
    write_json(tmp_path / "rank" / "rank.json", ranking)
    write_json(tmp_path / "compare" / "compare.json", comparison)
    for folder in (everything, tmp_path / "rank", tmp_path / "compare"):
        path = report.write(folder, tmp_path / "page.html")
        page = path.read_text(encoding="utf-8")
        assert hashlib.sha256(packed_in(page)).hexdigest() == plotly_js.origin().sha256
        assert path.stat().st_size < PAGE_BYTES
        assert f"<!-- plotly.js {plotly_js.origin().version}\nMIT License" in page
        assert "Permission is hereby granted, free of charge" in page
    assert len(page) < OF_THE_SCRIPT


def test_the_tool_keeps_what_it_was_given(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in ((tool.SCRIPT, b"draw();"), (tool.LICENCE, b"MIT License\n")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    tool.write(made.getvalue(), "9.8.7", tmp_path)
    assert gzip.decompress((tmp_path / plotly_js.SCRIPT).read_bytes()) == b"draw();"
    assert (tmp_path / plotly_js.LICENCE).read_bytes() == b"MIT License\n"
    assert json.loads((tmp_path / plotly_js.ORIGIN).read_text()) == {
        "package": "plotly.js-cartesian-dist-min",
        "version": "9.8.7",
        "bytes": 7,
        "sha256": "36bcedf8093d4ca9654347fa2b13db81180c138453cdf8d551a3a6732958395f",
    }


def test_an_archive_without_a_licence_is_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(tool.SCRIPT), io.BytesIO(b""))
    with pytest.raises(KeyError, match="LICENSE"):
        tool.write(made.getvalue(), "9.8.7", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wheel_and_source_archive_hold_script_licence_and_origin(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import *; print(build_wheel('out'), build_sdist('out'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True
    )
    wheel, archive = (source / "out" / name for name in done.stdout.split()[-2:])
    folder = ROOT / "src" / "manyshot" / "report" / "plotly"
    names = {file.name for file in folder.iterdir()}
    assert names == {plotly_js.SCRIPT, plotly_js.LICENCE, plotly_js.ORIGIN}
    with zipfile.ZipFile(wheel) as inside:
        for name in names:
            packed = inside.read(f"manyshot/report/plotly/{name}")
            assert packed == (folder / name).read_bytes()
    with tarfile.open(archive) as inside:
        listed = inside.getnames()
    for name in names:
        assert any(path.endswith(f"/src/manyshot/report/plotly/{name}") for path in listed)
