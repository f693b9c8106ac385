"""docs/design.md says where to change what: all that it names must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "manyshot"
PAGE = (ROOT / "docs" / "design.md").read_text()
ROOTS = (PACKAGE, PACKAGE / "pipeline", PACKAGE / "train" / "samplers", ROOT)
"""What the paths on the page begin from."""


def test_files_and_folders_exist() -> None:
    spoken = set(re.findall(r"`((?:[\w.]+/)*\w+\.py|(?:[a-z]+/)+)`", PAGE))
    assert len(spoken) > 40
    assert {name for name in spoken if not any((root / name).exists() for root in ROOTS)} == set()


def test_every_part_of_the_package_is_in_the_layout() -> None:
    layout = PAGE.partition("## Layout")[2].partition("\n## ")[0]
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    files = {path.name for path in PACKAGE.glob("*.py")}
    files -= {"__init__.py", "__main__.py", "_version.py"}
    files |= {path.name for path in (PACKAGE / "pipeline").glob("*.py")} - {"__init__.py"}
    stages = {path.stem for path in (PACKAGE / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert len(folders) > 10 and len(stages) > 10
    assert {name for name in folders | files | stages if f"`{name}`" not in layout} == set()


def test_functions_and_classes_exist() -> None:
    table = PAGE.partition("## Where to change what")[2].partition("\n## ")[0]
    spoken = set(re.findall(r"`((?:[A-Z]\w+\.)?_?[A-Za-z]\w+)`", table))
    source = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    assert len(spoken) > 15
    for name in spoken:
        owner, _, member = name.rpartition(".")
        assert re.search(rf"^\s*(def|class) {member}\b|^{member}\b", source, re.MULTILINE), name
        assert not owner or re.search(rf"^class {owner}\b", source, re.MULTILINE), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
