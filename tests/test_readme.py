"""What README.md shows, runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def marked_blocks(text: str) -> list[str]:
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL)


def test_marked_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other pages are run by tests/test_docs.py."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(15, 20)).save("photo.png")
    blocks = marked_blocks(README)
    assert len(blocks) == README.count("<!-- run -->") >= 1
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_a_file_of_a_network_is_used_as_shown_without_manyshot(tmp_path: Path) -> None:
    """The class is that of pixels which manyshot itself reads, resizes and normalises."""
    page = (ROOT / "docs" / "howto" / "export.md").read_text()
    [block] = [block for block in marked_blocks(page) if "torch.export.load" in block]
    assert "manyshot as" not in block and "import manyshot" not in block
    folders = [tmp_path / "grey", tmp_path / "coloured"]
    shapes = ((1, 8, 8), (3, 10, 6))
    expected = [exported(*of) for of in zip(folders, shapes, strict=True)]
    without = (
        "import os, sys; sys.modules['manyshot'] = None\n"
        f"block = {block!r}\n"
        "for folder in sys.argv[1:]:\n    os.chdir(folder)\n    exec(block, {})"
    )
    command = [sys.executable, "-c", without, *map(str, folders)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == expected


def exported(folder: Path, shape: tuple[int, int, int]) -> str:
    """Writes a network and a photo into a folder; the class of the photo, by hand."""
    import torch
    from torch import nn

    import manyshot as ms
    from manyshot.data.augment import fit

    folder.mkdir()
    channels, height, width = shape
    rows, columns = np.meshgrid(np.arange(15), np.arange(20), indexing="ij")
    pixels = np.stack([17 * rows, 12 * columns, 250 - 8 * rows], -1).astype(np.uint8)
    pixels = pixels[:, :, 0] if channels == 1 else pixels
    Image.fromarray(pixels).save(folder / "photo.png")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 7))
    mean, std = [0.3, 0.4, 0.5][:channels], [0.2, 0.3, 0.4][:channels]
    names = [f"class {i}" for i in range(7)]
    data = {"name": "mine", "fingerprint": "0", "image_shape": list(shape), "class_names": names}
    data |= {"mean": mean, "std": std}
    ms.export.export(
        module,
        example=torch.zeros(1, *shape),
        folder=folder / "out",
        stem="digits",
        formats=["pt2"],
        card={"data": data},
        normalise=(mean, std),
    )
    image = torch.tensor(pixels).view(15, 20, channels).permute(2, 0, 1)
    sized = fit(image, height, width) / 255
    by_hand = (sized - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    logits = module(by_hand[None])[0].detach()
    best, second = logits.topk(2).values
    assert best - second > 0.1  # more than resizing by another library changes
    return names[int(logits.argmax())]


def test_ci_runs_the_test_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "make test" in README
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    for target in ("run", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_verbs_in_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from manyshot.cli import main

    verbs = set(re.findall(r"`manyshot ([a-z]+)", README))
    assert {"run", "truth", "export"} <= verbs
    for verb in verbs:
        with pytest.raises(SystemExit) as left:
            main([verb, "--help"])
        assert left.value.code == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.toml")],
    ids=str,
)
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.search(r"\b(EXPECT|TIME|MEASURED|TODO|FIXME)\b", page.read_text())
