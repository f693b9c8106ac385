"""The documentation: its blocks run, its links lead somewhere, it is whole and current."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyshot as ms
from manyshot.recipe import Recipe
from tools import pages, reference

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MARKED = re.compile(r"<!-- run -->\n```python\n(.*?)```", re.DOTALL)
HAVE_BLOCKS = [page for page in PAGES if MARKED.search(page.read_text())]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.stem == "pretrained" else page
        for page in HAVE_BLOCKS
    ],
    ids=name_of,
)
def test_marked_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(15, 20)).save("photo.png")
    text = page.read_text()
    blocks = MARKED.findall(text)
    assert len(blocks) == text.count("<!-- run -->")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, name_of(page), "exec"), names)
    capsys.readouterr()


def test_most_pages_have_blocks_that_run() -> None:
    howto = {page.stem for page in (DOCS / "howto").glob("*.md")}
    assert len(howto) > 8
    assert {page.stem for page in HAVE_BLOCKS} >= {*howto, "index", "kshot", "trust"} - {
        "processes"  # it shows how several are started
    }


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_blocks_that_do_not_run_say_why(page: Path) -> None:
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```python"):
            before = lines[number - 1]
            assert re.fullmatch(r"<!-- (run|not run: .{10,}) -->", before), f"line {number + 1}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text):
        target = page.parent / link if link else page
        assert target.exists(), f"{link} is not there"
        if anchor and "/reference/" not in target.as_posix():
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
            assert anchor in [re.sub(r"[\s-]+", "-", title) for title in plain], anchor


def in_nav() -> list[str]:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    return re.findall(r": (\S+\.md)$", nav, re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = in_nav()
    assert len(listed) == len(set(listed))
    of_docs = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert set(listed) - of_docs == {"CONTRIBUTING.md", "benchmarks/README.md"}
    assert of_docs - set(listed) == set()


def test_files_outside_are_pages_with_links_that_hold() -> None:
    """Every address that a page of the site leads to is one that the site has."""
    outside = pages.linked()
    assert {Path("LOG.md"), Path("recipes/digits.toml"), Path("CONTRIBUTING.md")} <= set(outside)
    inside = [page.relative_to(ROOT) for page in PAGES]
    have = {pages.address(path) for path in [*outside, *inside]}
    assert len(have) == len(outside) + len(inside)  # no two at one address
    have |= {path.relative_to(DOCS).as_posix() for path in (DOCS / "figures").iterdir()}
    for path in [*outside, *inside]:
        if path.suffix not in (".md", ".toml", ".py", ""):
            continue
        here = Path("/site", pages.address(path)).parent
        prose = re.sub(r"```.*?```", "", pages.relinked(path), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", prose):
            there = (here / link).resolve().relative_to("/site").as_posix()
            assert there in have, f"{path} leads to {link}"


def test_a_link_to_nothing_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/trust\.md links to \.\./missing\.md"):
        pages.target(Path("docs/trust.md"), "../missing.md")


REFERENCE = reference.pages()


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_pages_of_reference_are_current(name: str) -> None:
    written = (DOCS / "reference" / name).read_text()
    assert written == REFERENCE[name], "run `python -m tools.reference`"


def test_reference_has_no_page_of_something_gone() -> None:
    assert {p.name for p in (DOCS / "reference").glob("*.md")} == set(REFERENCE)


def test_every_public_name_is_on_a_page_of_reference() -> None:
    """Counted from the modules, not from what wrote the pages."""
    listed = set()
    for page in (DOCS / "reference").glob("*.md"):
        listed |= set(re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE))
    modules = [name for name in ms.__all__ if inspect.ismodule(getattr(ms, name))]
    wanted = {f"manyshot.{name}" for name in ms.__all__ if name not in (*modules, "__version__")}
    for module in [*modules, "pipeline"]:
        public = importlib.import_module(f"manyshot.{module}").__all__
        wanted |= {f"manyshot.{module}.{name}" for name in public}
    assert len(wanted) > 150 and wanted - listed == set()
    for name in listed - wanted:  # of modules without `__all__`
        module, _, attribute = name.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(module), attribute))


def keys() -> set[str]:
    """All keys of a recipe, from its JSON schema."""
    schema = Recipe.model_json_schema()

    def walk(part: dict, path: str) -> set[str]:
        found = set()
        for name, value in part.get("properties", {}).items():
            options = [value, *value.get("anyOf", []), *value.get("allOf", [])]
            refs = [option["$ref"] for option in options if "$ref" in option]
            inner = [schema["$defs"][ref.rpartition("/")[2]] for ref in refs]
            sections = [part for part in inner if "properties" in part]
            below = set().union(*(walk(part, f"{path}{name}.") for part in sections))
            found |= below or {f"{path}{name}"}
        return found

    return walk(schema, "")


def test_every_key_of_a_recipe_is_documented() -> None:
    found, section = set(), ""
    for line in (DOCS / "reference" / "recipe.md").read_text().splitlines():
        if title := re.match(r"## (?:\[(\S+)\])?", line):
            section = f"{title[1]}." if title[1] else ""
        if row := re.match(r"\| `(\w+)` \| .+ \| .+ \| (.*) \|$", line):
            assert row[2], f"{section}{row[1]} says nothing"
            found.add(f"{section}{row[1]}")
    assert len(found) > 90 and keys() == found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_keys_and_verbs_on_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    known = keys()
    for key in set(re.findall(r"--set ['\"]?([a-z_][\w.]*)=", text)) - {"section.key"}:
        plain = key if key in known else key.rpartition(".")[0]
        assert (
            key in known
            or ".options" in f".{plain}"
            or plain == "costs"
            or (key == "network.convert")
        ), key
    verbs = set(reference.ORDER)
    blocks = "".join(re.findall(r"^```\n.*?^```", text, re.DOTALL | re.MULTILINE))
    for verb in set(re.findall(r"^manyshot (\w+)", blocks, re.MULTILINE)):
        assert verb in verbs, verb
    for section, body in re.findall(r"^\[([\w.]+)\][^\n]*\n((?:\w[^\n]*\n)+)", text, re.MULTILINE):
        for key in re.findall(r"^(\w+) = ", body, re.MULTILINE):
            assert f"{section}.{key}" in known, f"[{section}] {key}"


def test_the_site_is_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for address in ("index", "howto/network", "reference/recipe", "benchmarks/index"):
        assert (tmp_path / f"{address}.html").exists()
    api = (tmp_path / "reference/manyshot.html").read_text()
    assert 'id="manyshot.convert"' in api and "ratios" in api
    loaded = r"<(?:script|img|iframe)[^>]+src=[\"']?https?:|<link[^>]+href=[\"']?https?:"
    for page in tmp_path.rglob("*.html"):
        outside = re.findall(loaded + r"[^>]*", page.read_text())
        assert [tag for tag in outside if 'rel="canonical"' not in tag] == []
