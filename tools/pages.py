"""Hooks of MkDocs: pages of the repository outside docs/ that the documentation links to.

A link of a page leads to a file of the repository, so that it works where the repository is read.
In the site those files are pages too: Markdown as it is, recipes and scripts as code, a folder as
its README or the list of its files. They are at their path in the repository, and the pages of
docs/ at their path in docs/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:)([^)#\s]+)(?=[)#])")
"""What is between the brackets of a link that leads to a file, up to an anchor."""
LANGUAGES = {".py": "python", ".toml": "toml"}


def target(page: Path, link: str) -> Path:
    """The file or folder that a link on a page leads to, from the repository's root.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(posixpath.normpath((page.parent / link).as_posix()))
    if (ROOT / path / "README.md").exists():
        return path / "README.md"
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"{page} links to {link}, and {path} is not there")
    return path


def address(path: Path) -> str:
    """Where a file of the repository is among the sources of the site."""
    if path.parts[0] == "docs":
        return PurePosixPath(*path.parts[1:]).as_posix()
    plain = path.as_posix()
    return f"{plain}.md" if path.suffix in LANGUAGES or (ROOT / path).is_dir() else plain


def text_of(path: Path) -> str:
    """The page of a file or folder outside docs/."""
    if (ROOT / path).is_dir():
        files = sorted(p.name for p in (ROOT / path).iterdir() if p.suffix in LANGUAGES)
        return f"# {path.as_posix()}/\n\n" + "\n".join(f"- [{name}]({name})" for name in files)
    text = (ROOT / path).read_text()
    if path.suffix in LANGUAGES:
        return f"# {path.as_posix()}\n\n```{LANGUAGES[path.suffix]}\n{text}```\n"
    return text


def relinked(path: Path, text: str | None = None) -> str:
    """The text of a page with its links as the site has them; code stays as it is."""
    text = text_of(path) if text is None else text
    inside = path / "README.md" if (ROOT / path).is_dir() else path
    here = posixpath.dirname(address(path))
    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = LINK.sub(
            lambda found: posixpath.relpath(address(target(inside, found[1])), here or "."),
            parts[i],
        )
    return "".join(parts)


def links(path: Path) -> set[Path]:
    """What the page of a file or folder links to, from the repository's root."""
    if path.suffix not in (".md", "") or path.is_absolute():
        return set()
    inside = path / "README.md" if (ROOT / path).is_dir() else path
    prose = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    return {target(inside, link) for link in LINK.findall(prose)}


def linked() -> list[Path]:
    """All files and folders outside docs/ that its pages lead to, by way of one another too."""
    waiting = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    waiting.append(Path("CONTRIBUTING.md"))
    waiting.append(Path("benchmarks/README.md"))
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += links(path)
    return sorted(path for path in found if path.parts[0] != "docs")


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the files outside docs/ to those of the site."""
    from mkdocs.structure.files import File

    for path in linked():
        if path.suffix in (".md", "") or path.suffix in LANGUAGES:
            files.append(File.generated(config, address(path), content=relinked(path)))
        else:
            files.append(File.generated(config, address(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Leads the links of pages in docs/ to where the site has what they mean."""
    if page.file.generated_by is not None:
        return markdown
    return relinked(Path("docs") / page.file.src_uri, markdown)
