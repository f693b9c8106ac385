"""What README.md shows, runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def marked_blocks(text: str) -> list[str]:
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("README.md", 4),
        ("docs/kshot.md", 1),
        ("docs/shiftnas.md", 1),
        ("docs/supernet_shifting.md", 2),
        ("docs/trust.md", 2),
    ],
)
def test_marked_blocks_run(
    page: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = marked_blocks(text)
    assert len(blocks) == text.count("<!-- run -->") >= least
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_ci_runs_the_test_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "make test" in README
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    for target in ("run", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "CONTRIBUTING.md"),
        *("docs/kshot.md", "docs/shiftnas.md", "docs/supernet_shifting.md", "docs/trust.md"),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_verbs_in_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from manyshot.cli import main

    for verb in set(re.findall(r"^manyshot (\w+)", README, re.MULTILINE)):
        with pytest.raises(SystemExit) as left:
            main([verb, "--help"])
        assert left.value.code == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.toml")], ids=str
)
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.search(r"\b(EXPECT|TIME|MEASURED|TODO|FIXME)\b", page.read_text())
