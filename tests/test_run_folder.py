"""Typed records: what real runs wrote is read, and nothing malformed is."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from manyshot import records, report, run_folder
from manyshot.cli import main
from manyshot.records import RecordError
from manyshot.run_folder import (
    RECIPE,
    TRUTH_LOG,
    TRUTHS,
    CompareFolder,
    FinishLine,
    RankFolder,
    RunFolder,
    SamplerLine,
    SearchLine,
    TargetsLine,
    TrainLine,
    TruthFolder,
    TruthLine,
    said_of_near,
    sampler_line,
    why_no_run,
)

LINE = {
    "schema": 2,
    "generation": 0,
    "role": "candidate",
    "arch": "0-2-1",
    "proxy_score": 0.25,
    "proxy_loss": 1.5,
    "macs": 4986,
    "params": 298,
    "weights_version": 0,
    "calibration": "c",
    "validation_images": 64,
    "weights": "w",
    "images_forwarded": 128,
}


def raw(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


READERS = {
    "train.jsonl": RunFolder.train_lines,
    "sampler.jsonl": RunFolder.targets_lines,
    "codes.jsonl": RunFolder.codes_lines,
    "search.jsonl": RunFolder.search_lines,
    "order.jsonl": RunFolder.order_lines,
    "shifting.jsonl": RunFolder.shifting_lines,
    "finish.jsonl": RunFolder.finish_lines,
}


@pytest.mark.parametrize("name", READERS)
def test_lines_of_a_real_run_hold_all_that_is_in_the_file(everything, name):
    """Whatever is read and written again is what the run wrote, number by number."""
    expected = raw(everything / name)
    assert expected
    again = [line.plain() for line in READERS[name](RunFolder(everything))]
    assert [json.dumps(line, sort_keys=True) for line in again] == [
        json.dumps(line, sort_keys=True) for line in expected
    ]


@pytest.mark.parametrize("name", ["result", "space", "environment"])
def test_records_of_a_real_run_hold_all_that_is_in_the_file(everything, name):
    record = getattr(RunFolder(everything), name)()
    assert record.plain() == json.loads((everything / f"{name}.json").read_text())


def test_a_ranking_and_its_scores_hold_all_that_is_in_the_file(compared_runs):
    rank = RunFolder(compared_runs[0]).rank("made")
    assert [found.path for found in RunFolder(compared_runs[0]).ranks()] == [rank.path]
    assert rank.ranking().plain() == json.loads((rank.path / "rank.json").read_text())
    lines = [line.plain() for line in rank.score_lines()]
    assert lines == raw(rank.path / "scores.jsonl")


def nothing(ranking, name):
    ranking["sets"][0]["predictors"][name]["kendall"] = {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: nothing(r, "macs"), "predictors.macs need kendall.value"),
        (lambda r: nothing(r, "proxy"), "predictors.proxy and predictors.macs need kendall.value"),
        (lambda r: r["sets"][0]["predictors"].pop("macs"), "predictors.macs need kendall.value"),
        (lambda r: r["sets"][0]["predictors"].pop("proxy"), "has no predictors.proxy"),
        (lambda r: r["sets"][0]["predictors"]["macs"]["kendall"].update(low=None), "two bounds"),
    ],
)
def test_a_ranking_whose_figures_contradict_each_other_is_none(
    compared_runs, tmp_path, damage, said
):
    """Whoever reads one compares taus without asking whether they are there."""
    [rank] = RunFolder(compared_runs[0]).ranks()
    ranking = json.loads((rank.path / "rank.json").read_text())
    assert ranking["sets"][0]["predictors"]["proxy"]["beats"]["value"] is not None
    damage(ranking)
    (tmp_path / "rank.json").write_text(json.dumps(ranking))
    with pytest.raises(RecordError, match=said) as caught:
        RankFolder(tmp_path).ranking()
    assert str(tmp_path / "rank.json") in str(caught.value)


def test_a_folder_names_every_file_that_a_run_wrote(everything):
    """No name is spelled anywhere else."""
    names = {value for key, value in vars(run_folder).items() if key.isupper()}
    there = {path.name for path in everything.iterdir()}
    assert there <= names


def test_what_is_not_there_yet_is_none_or_empty(tmp_path):
    folder = RunFolder(tmp_path / "new")
    assert [read(folder) for read in READERS.values()] == [[]] * len(READERS)
    assert [folder.result(), folder.space(), folder.environment(), folder.latency()] == [None] * 4
    assert folder.rank("a/b").path == tmp_path / "new" / "rank" / "a-b"
    assert folder.rank("a/b").ranking() is None and folder.ranks() == []
    assert CompareFolder(tmp_path).comparison() is None and TruthFolder(tmp_path).lines() == []
    assert not folder.has_begun and not folder.has_records
    with pytest.raises(RecordError, match="there is no folder .*new"):
        folder.recipe()


def without(key):
    return {k: value for k, value in LINE.items() if k != key}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (without("macs"), "has no 'macs'"),
        ({**LINE, "arch": 5}, r"has 'arch' = 5: input should be a valid string"),
        ({**LINE, "arch": "0--1"}, r"has 'arch' = '0--1': string should match"),
        ({**LINE, "macs": "4986"}, r"has 'macs' = '4986'"),
        ({**LINE, "macs": 4986.5}, r"has 'macs' = 4986.5"),
        ({**LINE, "macs": True}, r"has 'macs' = True"),
        ({**LINE, "generation": -1}, r"has 'generation' = -1"),
        ({**LINE, "proxy_loss": float("nan")}, r"has 'proxy_loss' = nan.*finite"),
        ({**LINE, "proxy_loss": float("inf")}, r"has 'proxy_loss' = inf.*finite"),
        ({**LINE, "proxy_loss": None}, r"has 'proxy_loss' = None"),
        ({**LINE, "proxy_score": "0.25"}, r"has 'proxy_score' = '0.25'"),
        ({**LINE, "role": "before"}, r"has 'role' = 'before'"),
        ({**LINE, "validation": 64}, r"has an unknown key 'validation'"),
        ({**LINE, "schema": 1}, r"has schema 1; this version reads 2"),
        (without("schema"), r"has schema None; this version reads 2"),
        ([LINE], "is not a record"),
        (5, "is not a record"),
    ],
)
def test_a_malformed_line_is_named_with_its_number_and_key(tmp_path, line, said):
    log = RunFolder(tmp_path).search_log
    log.write_text(f"{json.dumps(LINE)}\n{json.dumps(line)}\n{json.dumps(LINE)}\n")
    with pytest.raises(RecordError, match=rf"search\.jsonl, line 2 {said}") as caught:
        RunFolder(tmp_path).search_lines()
    assert str(log) in str(caught.value)
    if "schema" not in said:
        assert "restore it from a copy" in str(caught.value)


def test_half_a_line_is_dropped_at_the_end_and_nowhere_else(tmp_path):
    log, text = RunFolder(tmp_path).search_log, json.dumps(LINE)
    log.write_text(f"{text}\n{text[:40]}")
    assert len(RunFolder(tmp_path).search_lines()) == 1
    log.write_text(f"{text[:40]}\n{text}\n")
    with pytest.raises(RecordError, match="line 1 is not a record"):
        RunFolder(tmp_path).search_lines()


def test_keeping_lines_drops_what_is_torn_or_unwanted_and_nothing_else(tmp_path):
    log, other = RunFolder(tmp_path).search_log, {**LINE, "generation": 1}
    first = f"{json.dumps(LINE)}\n"
    log.write_text(f'{first}{json.dumps(other)}\n{{"sche')
    kept = records.keep(log, SearchLine, lambda line: line.generation == 0)
    assert [line.generation for line in kept] == [0] and log.read_text() == first
    with log.open("a") as file:
        file.write("[]\n")
    before = log.read_bytes()
    with pytest.raises(RecordError, match="line 2 is not a record"):
        records.keep(log, SearchLine)
    assert log.read_bytes() == before


@pytest.mark.parametrize(("name", "reader"), READERS.items())
def test_any_key_may_be_missing_or_foreign_and_is_never_another_error(
    everything, tmp_path, name, reader
):
    """Every key of every kind of line, once absent and once of a type that none has."""
    line = raw(everything / name)[-1]
    path = RunFolder(tmp_path).path / name
    for key in line.keys() - {"schema", "kind"}:  # of another kind all may be anything
        for broken in ({k: v for k, v in line.items() if k != key}, {**line, key: {"a": [None]}}):
            path.write_text(f"{json.dumps(broken)}\n")
            try:
                reader(RunFolder(tmp_path))
            except RecordError as error:
                assert f"{name}, line 1 " in str(error) and repr(key)[1:-1] in str(error)
            else:
                assert key not in broken, "only a key that may be absent"


@pytest.mark.parametrize("name", ["result", "space", "environment"])
def test_any_key_of_a_record_may_be_missing_and_is_never_another_error(everything, tmp_path, name):
    content = json.loads((everything / f"{name}.json").read_text())
    for key in content.keys() - {"schema"}:
        for broken in ({k: v for k, v in content.items() if k != key}, {**content, key: 5.5}):
            (tmp_path / f"{name}.json").write_text(json.dumps(broken))
            try:
                getattr(RunFolder(tmp_path), name)()
            except RecordError as error:
                assert f"{name}.json has " in str(error) and key in str(error)
            else:
                optional = {("environment", "memory_format"), ("space", "images")}
                optional |= {("result", "controls"), ("result", "dose"), ("result", "verdict")}
                assert (name, key) in optional and key not in broken


def test_a_space_that_contradicts_itself_is_no_space(everything, tmp_path):
    record = json.loads((everything / "space.json").read_text())
    record["space"]["uses"] = {"9": [[[0, [1]]]]}
    (tmp_path / "space.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="space.json describes no search space"):
        RunFolder(tmp_path).space().search_space()


def test_writers_refuse_what_readers_would():
    with pytest.raises(ValidationError):
        TrainLine(step=1, epoch=0.5, images=32, lr=0.1, loss=float("nan"))
    with pytest.raises(ValidationError):
        SearchLine(**{**LINE, "macs": "many"})
    line = TrainLine(step=1, epoch=0.5, images=32, lr=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        line.step = 2
    assert line.plain() == {"schema": 1, "step": 1, "epoch": 0.5, "images": 32, "lr": 0.1}


def test_a_sharing_scheme_may_watch_other_numbers_and_nothing_else(tmp_path):
    line = {"schema": 1, "step": 1, "epoch": 0.5, "images": 32, "lr": 0.1}
    log = RunFolder(tmp_path).train_log
    log.write_text(json.dumps({**line, "their_spread": 0.5}) + "\n")
    [read] = RunFolder(tmp_path).train_lines()
    assert read.plain() == {**line, "their_spread": 0.5}
    log.write_text(json.dumps({**line, "their_spread": "wide"}) + "\n")
    with pytest.raises(RecordError, match="line 1 has 'their_spread' = 'wide'"):
        RunFolder(tmp_path).train_lines()


def test_samplers_of_others_report_what_they_like(tmp_path):
    folder = RunFolder(tmp_path)
    report = {"probabilities": "mine", "anything": [None, {"a": 1}]}
    line = sampler_line(3, report)
    assert type(line) is SamplerLine
    records.append(folder.sampler_log, line)
    [read] = folder.sampler_lines()
    assert read.plain() == {"schema": 1, "step": 3, **report}
    assert folder.targets_lines() == []
    with pytest.raises(ValidationError, match="targets"):
        sampler_line(3, {"kind": "target costs"})


def test_reports_over_target_costs_are_typed(everything):
    assert all(type(line) is TargetsLine for line in RunFolder(everything).targets_lines())
    assert len(RunFolder(everything).sampler_lines()) == len(RunFolder(everything).targets_lines())


def test_lines_of_a_truth_that_are_no_trainings_are_passed_over(tmp_path):
    truth = TruthFolder(tmp_path)
    line = TruthLine(arch="0-1", seed=3, metric=run_folder.ACCURACY, test_score=0.5)
    records.write_lines(truth.log, [{"about": "two machines"}, line])
    assert truth.lines() == [line]
    records.append(truth.log, {"schema": 2, "arch": "0-1", "seed": 4})
    with pytest.raises(RecordError, match=r"truth\.jsonl, line 3 has no 'metric'"):
        truth.lines()


def test_final_weights_are_those_that_the_search_left(everything, tmp_path):
    folder, recipe = RunFolder(tmp_path), RunFolder(everything).recipe()
    assert recipe.shifting.name == "population"
    with pytest.raises(RecordError, match=r"has no supernet\.safetensors: train it first"):
        folder.final_weights(recipe)
    folder.weights.touch()
    with pytest.raises(RecordError, match=r"has no shifted\.safetensors.*--resume"):
        folder.final_weights(recipe)
    folder.shifted.touch()
    assert folder.final_weights(recipe) == tmp_path / "shifted.safetensors"
    frozen = recipe.model_copy(update={"shifting": type(recipe.shifting)()})
    assert folder.final_weights(frozen) == tmp_path / "supernet.safetensors"


def test_a_run_goes_on_past_a_damaged_record_with_words_alone(everything, tmp_path, capsys):
    """The command line says what is wrong, and ends with 1."""
    folder = shutil.copytree(everything, tmp_path / "run")
    text = (folder / "search.jsonl").read_text().replace('"arch": "', '"arch": 5, "was": "', 1)
    (folder / "search.jsonl").write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["run", "--resume", str(folder), "--quiet"])
    said = capsys.readouterr().err
    assert left.value.code == 1
    assert said.startswith("error: ") and "search.jsonl, line 1 has 'arch' = 5" in said
    assert "Traceback" not in said


def test_absent_and_undefined_differ():
    """An optional key is left out; a value that there must be, and is undefined, is null."""
    watched = run_folder.WatchedSet(
        architectures=1, mean_score_before=0.5, mean_score_after=0.5, tau_before_after=None
    )
    assert watched.plain()["tau_before_after"] is None
    memory = run_folder.MemoryFormat(name="contiguous", why="")
    line = FinishLine(
        arch="0", mode="inherit", fingerprint="f", memory_format=memory, weights="w", files={}
    )
    assert "test_score" not in line.plain()


def test_runs_near_a_path_that_is_none_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/digits", "runs/photos", "runs/old/kept", "truth/digits", "empty"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / RECIPE).touch()
    (tmp_path / "truth" / "digits" / TRUTH_LOG).touch()
    (tmp_path / "empty" / RECIPE).unlink()
    (tmp_path / "a_file").touch()
    listed = "runs/digits, runs/photos"
    for path, said in {
        "digits": "there is no folder digits; did you mean runs/digits? Others near it: "
        "runs/photos",
        "runs/photo": "there is no folder runs/photo; did you mean runs/photos? Others near it: "
        "runs/digits",
        "zzz": f"there is no folder zzz; near it: {listed}",
        "runs/old": "runs/old is not a run: it has no recipe.toml; near it: runs/old/kept, "
        f"{listed}",
        "empty": f"empty is not a run: it has no recipe.toml; near it: {listed}",
        "a_file": f"a_file is a file, and a run is a folder; near it: {listed}",
    }.items():
        assert why_no_run(Path(path)) == said
    assert said_of_near(Path("digit"), TRUTHS, TRUTH_LOG) == "did you mean truth/digits?"
    for number in range(8):
        (tmp_path / f"runs/more-{number}").mkdir()
        (tmp_path / f"runs/more-{number}" / RECIPE).touch()
    assert why_no_run(Path("zzz")).endswith("runs/more-3 and 5 more")


def test_a_page_of_nothing_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        report.write(tmp_path / "none")
    assert not (tmp_path / "none").exists()
