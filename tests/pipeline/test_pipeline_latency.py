"""A latency table is used only where it says what would be measured now."""

import dataclasses
import shutil
import sys

import onnxruntime
import pytest
import torch

from manyshot import records
from manyshot.cost import LatencyTable
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.checks import check_runtime
from manyshot.pipeline.stages import latency
from manyshot.progress import Silent
from manyshot.recipe import RecipeError
from manyshot.run_folder import LATENCY
from pipeline_runs import run, small

BUDGET = ("search.budgets=['latency_ms<=1K']", "finish.mode=inherit")


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A run with a latency budget, which tests only read: its folder, recipe and result."""
    folder = tmp_path_factory.mktemp("timed")
    recipe = small(*BUDGET)
    return folder, recipe, run(recipe, folder)


def table_of(folder):
    return records.read_json(folder / LATENCY)


def test_both_latencies_of_a_winner_are_kept(timed):
    folder, _, result = timed
    [winner] = result["winners"]
    took = result["latency"][winner["arch"]]
    assert winner["latency_ms"] == took["median_ms"]
    arch = tuple(map(int, winner["arch"].split("-")))
    assert took["table_ms"] == LatencyTable.from_dict(table_of(folder))([arch])[0]


@pytest.fixture
def measured(monkeypatch):
    """The networks whose latency was measured directly, one entry each."""
    modules, measure = [], latency.measure

    def watched(module, *args, **kwargs):
        modules.append(module)
        return measure(module, *args, **kwargs)

    monkeypatch.setattr(latency, "measure", watched)
    return modules


@pytest.mark.parametrize("kind", ["base", "timed"])
def test_what_is_on_record_is_not_measured_again(request, tmp_path, measured, kind):
    done, recipe, _ = request.getfixturevalue(kind)
    measured.clear()
    folder = shutil.copytree(done, tmp_path / "run")
    result = (folder / "result.json").read_bytes()
    run(recipe, folder)
    assert measured == []
    assert (folder / "result.json").read_bytes() == result


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 7),
        ("threads", 9),
        ("repeats", 77),
        ("warmup", 77),
        ("clock", "given"),
        ("device", "cpu: abacus"),
        ("torch_version", "1.0"),
        ("runtime", "onnxruntime"),
        ("runtime_version", "1.0"),
    ],
)
def test_what_was_measured_otherwise_is_measured_again(base, tmp_path, measured, field, value):
    folder = shutil.copytree(base[0], tmp_path / "run")
    result = records.read_json(folder / "result.json")
    timings = list(result["latency"].values())
    assert timings[0][field] != value
    timings[0][field] = value
    records.write_json(folder / "result.json", result)
    again = run(base[1], folder)
    assert len(measured) == 1
    after = list(again["latency"].values())
    assert after[0][field] != value
    assert after[1:] == timings[1:]


def test_a_network_that_has_no_latency_yet_is_measured(base, tmp_path, measured):
    folder = shutil.copytree(base[0], tmp_path / "run")
    result = records.read_json(folder / "result.json")
    arch, _ = result["latency"].popitem()
    records.write_json(folder / "result.json", result)
    assert run(base[1], folder)["latency"][arch]["median_ms"] > 0
    assert len(measured) == 1


def test_a_new_table_stands_beside_the_old_measurement(timed, tmp_path, measured):
    folder = shutil.copytree(timed[0], tmp_path / "run")
    table = table_of(folder)
    table["table"]["constant"] += 1
    records.write_json(folder / LATENCY, table)
    [before], [after] = (r["latency"].values() for r in (timed[2], run(timed[1], folder)))
    assert measured == []
    assert after.pop("table_ms") == pytest.approx(before["table_ms"] + 1)
    assert after == {key: value for key, value in before.items() if key != "table_ms"}


def test_without_a_table_there_is_one_latency(base):
    assert all("table_ms" not in took for took in base[2]["latency"].values())


def test_the_table_of_another_run_is_taken_if_it_is_the_same(timed, tmp_path):
    again = small(*BUDGET, "search.candidates=4")
    run(again, tmp_path / "again", trained=timed[0])
    assert table_of(tmp_path / "again") == table_of(timed[0])


def test_with_other_settings_it_is_measured_anew(timed, tmp_path):
    other = small(*BUDGET, "latency.batch_size=3")
    run(other, tmp_path / "again", trained=timed[0])
    assert table_of(tmp_path / "again")["batch_size"] == 3


def test_the_table_of_another_machine_is_measured_anew(timed, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(timed[0], folder)
    records.write_json(folder / LATENCY, table_of(folder) | {"device": "cpu: abacus"})
    run(timed[1], tmp_path / "again", trained=folder)
    assert table_of(tmp_path / "again")["device"] == table_of(timed[0])["device"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 7),
        ("threads", 9),
        ("inputs", "(1, 1, 9, 9)"),
        ("device", "cpu: abacus"),
        ("dtype", "torch.bfloat16"),
        ("decisions", ["a", "b", "c", "d"]),
        ("repeats", 77),
        ("runtime", "onnxruntime"),
    ],
)
def test_a_run_does_not_go_on_with_another_table(timed, tmp_path, field, value):
    folder = tmp_path / "run"
    shutil.copytree(timed[0], folder)
    records.write_json(folder / LATENCY, table_of(folder) | {field: value})
    with pytest.raises(records.RecordError, match=f"measured with {field} = .*delete the file"):
        run(timed[1], folder)


ONNX = "latency.runtime=onnxruntime"


@pytest.fixture
def pretended(monkeypatch):
    """What was asked to be measured by ONNX Runtime, which torch measures in its place."""
    asked = []

    def instead(measures):
        def by_torch(*args, runtime, **kwargs):
            asked.append((measures.__name__, runtime))
            timing = measures(*args, **kwargs)
            return dataclasses.replace(
                timing, runtime=runtime, runtime_version=onnxruntime.__version__
            )

        return by_torch

    for name in ("measure", "latency_table"):
        monkeypatch.setattr(latency, name, instead(getattr(latency, name)))
    return asked


def test_table_and_winners_are_of_the_runtime(tmp_path, pretended):
    recipe = small(*BUDGET, ONNX)
    result = run(recipe, tmp_path)
    assert pretended[0] == ("latency_table", "onnxruntime")
    assert pretended[1:] == [("measure", "onnxruntime")] * len(result["latency"])
    ran = ("onnxruntime", onnxruntime.__version__)
    records_of = (table_of(tmp_path), *result["latency"].values())
    assert {(record["runtime"], record["runtime_version"]) for record in records_of} == {ran}
    pretended.clear()
    assert run(recipe, tmp_path) == result
    assert pretended == []
    with pytest.raises(records.RecordError, match="another recipe"):
        run(small(*BUDGET), tmp_path)


def test_without_a_table_the_ends_of_the_space_are_tried_first(base, pretended):
    ws = Workspace.build(small(ONNX))
    latency.check_measurable(ws, Silent())
    assert pretended == [("measure", "onnxruntime")] * 2
    pretended.clear()
    latency.check_measurable(Workspace.build(small()), Silent())
    assert pretended == []


def test_a_runtime_without_packages_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    words = r"latency.runtime is 'onnxruntime', which needs .*pip install 'manyshot\[onnx\]'"
    with pytest.raises(RecipeError, match=words):
        run(small(ONNX), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_onnxruntime_is_for_the_cpu():
    settings = small(ONNX).latency
    with pytest.raises(RecipeError, match="on the CPU alone, and the network is on cuda"):
        check_runtime(settings, torch.device("cuda"))
    check_runtime(settings, torch.device("cpu"))
    check_runtime(small().latency, torch.device("cuda"))
