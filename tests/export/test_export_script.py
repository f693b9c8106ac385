"""The script beside an ONNX file: it names what the network that was scored names, anywhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import manyshot as ms
from manyshot.export import SCRIPT_TOLERANCE, ScriptFailed, about_images, export, tried
from photos import columns

NAMES = ("zèbre\tété\u2028", "apple", '"猫\n')


def photo(path: Path, shape: tuple[int, int], shade: int, seed: int, mode: str = "RGB") -> None:
    """A smooth picture, so that rounding moves nothing by much."""
    noise = np.random.default_rng(seed).integers(0, 120, (6, 7, 3)) + shade
    small = Image.fromarray(noise.astype(np.uint8))
    image = small.resize(shape[::-1], Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """An image folder with names that are not ASCII, and images of many sizes."""
    root = tmp_path_factory.mktemp("bilder ö") / "daten ä"
    for part, count in (("train", 9), ("test", 3)):
        for label, name in enumerate(NAMES):
            for i in range(count):
                shape = (20 + 3 * i, 40 - 2 * i)
                photo(root / part / name / f"{i} ü.png", shape, 60 * label, 9 * label + i)
    return ms.data.load("folder", root=root, image_size=[16, 24], validation=3)


@pytest.fixture(scope="module")
def module(splits):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["normalises", "does not"])
def script(splits, module, request, tmp_path_factory):
    paths = export(
        module,
        example=torch.rand(2, 3, 16, 24),
        folder=tmp_path_factory.mktemp("dateien ß"),
        stem="0-1",
        formats=["onnx", "predict", "json"],
        card={"data": about_images(splits)},
        normalise=(splits.mean, splits.std) if request.param else None,
    )
    assert paths["predict"].name == "0-1.predict.py"
    assert json.loads(paths["json"].read_text())["files"]["predict"] == "0-1.predict.py"
    return paths["predict"]


@pytest.fixture(scope="module")
def isolated(tmp_path_factory):
    """A folder for PYTHONPATH in which importing torch, torchvision or manyshot fails."""
    folder = tmp_path_factory.mktemp("isolated")
    for name in ("torch", "torchvision", "manyshot"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported what it must not')")
    return folder


@pytest.fixture(scope="module")
def call(isolated):
    def run(script: Path, *images: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
        environment = {"PYTHONPATH": str(isolated), "PATH": "", **more}
        command = [sys.executable, script, *images]
        return subprocess.run(command, capture_output=True, env=environment, timeout=600)

    return run


def printed(done) -> list[list[str]]:
    assert done.returncode == 0, done.stderr.decode()
    return columns(done.stdout.decode())


def logits_of(module, splits, dataset) -> torch.Tensor:
    """What scores are measured by."""
    batches = ms.data.fixed(dataset, None, 64, mean=splits.mean, std=splits.std, seed=0)
    with torch.no_grad():
        return torch.cat([module(images) for images, _ in batches])


def test_isolation_isolates(isolated):
    for name in ("torch", "manyshot"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env={"PYTHONPATH": str(isolated)}, capture_output=True,
        )  # fmt: skip
        assert b"imported what it must not" in done.stderr


def test_it_names_what_the_network_names(script, module, splits, call):
    files = [splits.test.root / path for path in splits.test.paths]
    rows = printed(call(script, *files, LANG="C", LC_ALL="C"))
    odds = logits_of(module, splits, splits.test).softmax(1)
    best = [NAMES.index(name) for name in sorted(NAMES)]
    assert splits.class_names == tuple(NAMES[i] for i in best)
    assert [row[0] for row in rows] == [str(file) for file in files]
    assert [row[1] for row in rows] == [splits.class_names[i] for i in odds.argmax(1).tolist()]
    for row, expected in zip(rows, odds.max(1).values.tolist(), strict=True):
        assert float(row[2]) == pytest.approx(expected, abs=2e-3)
    trial = tried(script, files, logits_of(module, splits, splits.test), splits.class_names)
    assert (trial.images, trial.agree) == (9, 9) and trial.largest_difference < 2e-3


def kinds(folder: Path) -> dict[str, Path]:
    """One picture in every way that files hold pixels, and what is special about each."""
    photo(folder / "rgb.png", (30, 41), 60, 1)
    whole = Image.open(folder / "rgb.png")
    grey = whole.convert("L")
    alpha = np.linspace(0, 255, 30 * 41).reshape(30, 41).astype(np.uint8)
    veiled = whole.copy()
    veiled.putalpha(Image.fromarray(alpha))
    half = grey.convert("LA")
    half.putalpha(Image.fromarray(alpha))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 250)
    made = {
        "grey.png": grey, "one.png": grey.convert("1"), "rgba.png": veiled, "la.png": half,
        "palette.png": whole.convert("P", palette=Image.Palette.ADAPTIVE), "deep.png": deep,
        "cmyk.jpg": whole.convert("CMYK"), "lossy.webp": whole, "page.tif": whole,
        "plain.bmp": whole,
        "exact.png": whole.resize((24, 16)),
    }  # fmt: skip
    for name, image in made.items():
        image.save(folder / name)
    whole.convert("P").save(folder / "hole.png", transparency=5)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        whole.save(folder / f"exif{orientation}.jpg", exif=exif)
        whole.save(folder / f"exif{orientation}.tif", exif=exif)
        deep.save(folder / f"deep{orientation}.png", exif=exif)
    whole.save(folder / "broken exif.jpg", exif=b"Exif\0\0nonsense")
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_is_read_as_for_scores(channels, splits, call, tmp_path):
    """A network that gives the mean of each row of pixels sees what turns and converts them."""
    files = kinds(tmp_path / "kinds")
    rows = nn.Sequential(nn.AvgPool2d((1, 24)), nn.Flatten(), nn.Linear(16 * channels, 4))
    torch.manual_seed(1)
    nn.init.normal_(rows[2].weight, std=2)
    about = {**about_images(splits), "image_shape": [channels, 16, 24]}
    del about["class_names"]
    moments = ([0.4] * channels, [0.25] * channels)
    about |= {"mean": list(moments[0]), "std": list(moments[1])}
    script = export(
        rows, example=torch.rand(2, channels, 16, 24), folder=tmp_path, stem="a",
        formats=["onnx", "predict"], card={"data": about}, normalise=moments,
    )["predict"]  # fmt: skip
    as_set = ms.data.ImageFolderSet(
        root=tmp_path / "kinds",
        paths=tuple(files),
        contents=("",) * len(files),
        labels=torch.zeros(len(files), dtype=torch.int64),
        class_names=("0", "1", "2", "3"),
        image_shape=(channels, 16, 24),
    )
    batches = ms.data.fixed(as_set, None, 64, mean=moments[0], std=moments[1], seed=0)
    with torch.no_grad():
        odds = torch.cat([rows(images) for images, _ in batches]).softmax(1)
    lines = printed(call(script, *files.values()))
    for name, (_, label, value), expected in zip(files, lines, odds, strict=True):
        assert expected[int(label)] == expected.max(), name
        assert float(value) == pytest.approx(float(expected.max()), abs=0.01), name
    assert (
        len({tuple(row.tolist()) for row in odds.round(decimals=3)}) > 8
    )  # they can be told apart


def test_what_cannot_be_read_is_named(script, call, tmp_path):
    folder, text, floats = tmp_path / "folder", tmp_path / "a.png", tmp_path / "f.tif"
    folder.mkdir()
    text.write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats)
    for path in (folder, text, floats, tmp_path / "nowhere.png"):
        done = call(script, path)
        assert done.returncode == 1 and f"error: {path}: " in done.stderr.decode()
    done = call(script)
    assert done.returncode == 1 and "IMAGE..." in done.stderr.decode()


def test_a_script_that_disagrees_fails(script, module, splits, tmp_path):
    files = [splits.test.root / path for path in splits.test.paths]
    logits = logits_of(module, splits, splits.test)
    with pytest.raises(ScriptFailed, match=r"(?s)says .* with .* and the network"):
        tried(script, files, logits + torch.tensor([20.0, 0, 0]), splits.class_names)
    with pytest.raises(ScriptFailed, match="which is no class"):
        tried(script, files, logits, ("x", "y", "z"))
    alone = Path(shutil.copy(script, tmp_path))
    with pytest.raises(ScriptFailed, match=r"0-1.predict.py fails: .*0-1.onnx"):
        tried(alone, files, logits, splits.class_names)
    for text, words in {
        "print('hello')": "in place of a line per image",
        "import sys\nfor p in sys.argv[1:]: print('p', 'apple', 'much', sep='\\t')": "is none: ",
        "import sys\nfor p in sys.argv[1:]: print('p', '\"', 1, sep='\\t')": "in which a class",
        "import sys\nfor p in sys.argv[1:]: print('p', 'apple', 'nan', sep='\\t')": "no numbers",
    }.items():
        alone.write_text(text)
        with pytest.raises(ScriptFailed, match=words):
            tried(alone, files, logits, splits.class_names)
    assert SCRIPT_TOLERANCE < 0.05


def test_a_script_needs_to_know_the_images(module, tmp_path, files):
    with pytest.raises(ValueError, match="needs image_shape, normalised_by, resize in data"):
        export(
            module, example=torch.rand(2, 3, 16, 24), folder=tmp_path, stem="a",
            formats=["predict"], card={"data": {"name": "x", "fingerprint": "0"}},
        )  # fmt: skip
    assert files(tmp_path) == []
