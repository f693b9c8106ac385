"""The script that a run writes beside an ONNX file, and how the run checks it."""

import copy
import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import manyshot as ms
from manyshot.export.write import FORMATS
from manyshot.pipeline.stages.exports import ExportFailed, formats_of
from manyshot.tasks import make_task
from photos import columns
from pipeline_runs import export_architecture, lines, outcome, run, small

beginning = importlib.import_module("manyshot.pipeline.verbs.run")
ONNX = ("finish.mode=inherit", "export.formats=['onnx', 'json']", "search.budgets=['macs<=90%']")


@pytest.fixture(scope="module")
def of_photos(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    sets = ("data.name=folder", f"data.root={photos}", "data.validation=24", "data.image_size=8")
    run(small(*ONNX, *sets, "data.train_size=64"), folder)
    return folder


def test_files_of_a_folder_are_tried_as_they_are(of_photos, photos):
    opened = ms.Run(of_photos)
    winner, [row] = opened.winners[0], lines(of_photos, "finish.jsonl")
    assert row["files"].keys() == row["sha256"].keys() == {"onnx", "predict", "json"}
    assert row["files"]["predict"] == f"subnets/{row['arch']}.predict.py"
    assert row["script"] == {
        "images": 8, "agree": 8, "largest_difference": row["script"]["largest_difference"],
        "part": "test", "files": "as they are",
    }  # fmt: skip
    assert row["script"]["largest_difference"] < 0.01
    card = json.loads(winner.file("json").read_text())
    assert card["files"] == {"onnx": f"{row['arch']}.onnx", "predict": f"{row['arch']}.predict.py"}
    assert card["checks"] == {"predict": row["script"]}
    files = sorted(map(str, (photos / "test").glob("*/*")))
    command = [sys.executable, str(winner.file("predict")), *files]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    rows = columns(done.stdout)
    assert [path for path, _, _ in rows] == files
    named = [name for _, name, _ in rows]
    right = sum(f"/{name}/" in file for name, file in zip(named, files, strict=True))
    assert right / len(files) == pytest.approx(row["test_score"], abs=1e-6)


def test_arrays_are_tried_as_png_files(base, tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "try_formats", lambda *_: None)  # as done with photos above
    run(small(*ONNX), tmp_path / "run", trained=base[0])
    [row] = lines(tmp_path / "run", "finish.jsonl")
    assert row["script"]["files"] == "arrays written as PNG"
    assert (row["script"]["images"], row["script"]["agree"]) == (8, 8)
    record = export_architecture(small(*ONNX), tmp_path / "run", "3-0-2-1")
    assert record["script"]["part"] == "validation"  # test images are for networks that are tested
    before = outcome(tmp_path / "run")
    run(small(*ONNX), tmp_path / "run")
    assert outcome(tmp_path / "run") == before


def test_a_script_that_disagrees_is_a_failed_format(of_photos, tmp_path, monkeypatch):
    folder = shutil.copytree(of_photos, tmp_path / "run")
    [row] = lines(folder, "finish.jsonl")
    (folder / row["files"]["onnx"]).unlink()
    recipe, write = ms.Run(folder).recipe, FORMATS["onnx"]

    def other(job, path):
        job = dataclasses.replace(job, module=copy.deepcopy(job.module))
        with torch.no_grad():
            next(job.module.parameters()).mul_(-3)
            list(job.module.parameters())[-1].copy_(torch.tensor([9.0, -9.0]))
        return write(job, path)

    monkeypatch.setitem(FORMATS, "onnx", other)
    with pytest.raises(
        ExportFailed, match="could not be written as predict .*ScriptFailed: .*says"
    ):
        export_architecture(recipe, folder, row["arch"])
    [failed] = lines(folder, "finish.jsonl")
    assert failed["files"].keys() == {"onnx", "json"} and "script" not in failed
    assert not (folder / row["files"]["predict"]).exists()
    card = json.loads((folder / row["files"]["json"]).read_text())
    assert card["checks"] is None and card["files"].keys() == {"onnx"}
    monkeypatch.undo()
    (folder / row["files"]["onnx"]).unlink()
    run(recipe, folder)
    assert lines(folder, "finish.jsonl") == [row]


@pytest.mark.parametrize(
    ("task", "shape", "formats", "expected"),
    [
        ("classification", (3, 8, 8), ["onnx"], True),
        ("classification", (1, 8, 8), ["pt2", "onnx"], True),
        ("classification", (1, 8, 8), ["pt2", "json"], False),
        ("classification", (4, 8, 8), ["onnx"], False),  # no image file has four channels
        ("classification", (), ["onnx"], False),  # data of one's own
        ("dense", (3, 8, 8), ["onnx"], False),
        ("multi_label", (3, 8, 8), ["onnx"], False),
        ("regression", (3, 8, 8), ["onnx"], False),
    ],
)
def test_only_classifiers_of_images_have_a_script(task, shape, formats, expected):
    ws = SimpleNamespace(
        recipe=SimpleNamespace(export=SimpleNamespace(formats=formats)),
        task=make_task(task),
        splits=SimpleNamespace(image_shape=shape),
    )
    assert ("predict" in formats_of(ws)) == expected
