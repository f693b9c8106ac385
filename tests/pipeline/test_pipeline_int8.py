"""Winners as files of 8-bit integers, scored beside what they were made of."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest

import manyshot as ms
from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.recipe import Recipe
from manyshot.run_folder import ControlRecord
from manyshot.tables.run import winners
from pipeline_runs import export_architecture, lines, outcome, run, small

INT8 = ("finish.mode=inherit", "export.formats=['int8', 'json']", "search.budgets=['macs<=90%']")


@pytest.fixture(scope="module")
def quantised(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "run"
    run(small(*INT8), folder, trained=base[0])
    return folder


def test_its_score_is_beside_the_other(quantised):
    opened, [row] = ms.Run(quantised), lines(quantised, "finish.jsonl")
    winner = opened.winners[0]
    test = Workspace.build(opened.recipe).splits.test
    session = onnxruntime.InferenceSession(winner.file("int8"))
    pixels = test.images.numpy().astype(np.float32) / 255
    (logits,) = session.run(None, {"images": pixels})
    accuracy = (logits.argmax(1) == test.labels.numpy()).mean()
    assert winner.file("int8").name == f"{row['arch']}.int8.onnx"
    assert row["int8"]["test_score"] == pytest.approx(accuracy)
    assert (row["int8"]["tested_on"], row["int8"]["calibration_images"]) == (row["tested_on"], 64)
    card = json.loads(winner.file("json").read_text())
    assert card["scores"]["test accuracy of int8"] == row["int8"]["test_score"]
    assert card["scores"]["test accuracy"] == row["test_score"]
    [shown] = winners(opened.result).rows
    assert f"{100 * accuracy:.2f}" in shown["Test int8"]
    [record] = records.read_json(quantised / "result.json")["winners"]
    assert record["int8_score"] == row["int8"]["test_score"]


def test_nothing_is_done_again_and_a_later_test_is_of_it_too(quantised, tmp_path):
    folder = shutil.copytree(quantised, tmp_path / "run")
    before = outcome(folder)
    run(small(*INT8), folder)
    assert outcome(folder) == before
    line = export_architecture(small(*INT8), folder, "3-0-2-1")
    assert line["int8"] == {"calibration_images": 64}
    path = folder / line["files"]["int8"]
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    line = export_architecture(small(*INT8), folder, "3-0-2-1", test=True)
    assert 0 < line["int8"]["test_score"] <= 1 and line["int8"]["tested_on"] == line["tested_on"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, time)
    card = json.loads((folder / line["files"]["json"]).read_text())
    assert card["scores"]["test accuracy of int8"] == line["int8"]["test_score"]


def test_controls_have_no_such_file(quantised):
    result = ms.Run(quantised).result
    [winner] = result.winners
    fields = {name: getattr(winner, name) for name in ControlRecord.model_fields if name != "kind"}
    control = ControlRecord(kind="random", **fields)
    rows = winners(result.model_copy(update={"controls": (control,)})).rows
    assert [bool(row["Test int8"]) for row in rows] == [True, False]


def test_without_it_no_column_is_shown(base):
    [*rows] = winners(ms.Run(base[0]).result).rows
    assert rows and not any("Test int8" in row for row in rows)
    assert Recipe().export.formats == ["pt2", "json"]
