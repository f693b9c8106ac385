"""The command line: exact lines, exit codes, and what goes where."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from torch.utils.flop_counter import FlopCounterMode

from few_draws import few_draws
from manyshot import cli, records
from manyshot.recipe import Recipe
from manyshot.zoo import tiny

TINY = [
    "network.options.width=3", "data.validation=64", "data.train_size=128", "train.epochs=1",
    "evaluate.calibration_images=64", "search.candidates=4", "search.generation=2",
    "search.budgets=['macs<=90%']", "finish.mode=inherit", "export.formats=['json']",
    "search.name=random", "latency.warmup=0", "latency.repeats=1", "name=small",
    "controls={largest=false, random=0}",
]  # fmt: skip
NO_RUN = "Invalid value: there is no folder x; nor is there a run near it"
SETS = [word for override in TINY for word in ("--set", override)]


@pytest.fixture(scope="module", autouse=True)
def quick(equal_networks_are_measured_once):
    with few_draws():
        yield


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manyshot.writing._INTERRUPTED", [])  # of tests before, in this process

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that tests only read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(SystemExit) as left:
        cli.main(["run", *SETS, "--out", str(folder), "--quiet"])
    assert left.value.code == 0
    return folder


def test_run_prints_a_table_on_stdout_and_progress_on_stderr(call):
    code, out, err = call("run", *SETS)
    assert code == 0
    [winner] = records.read_json(Path("runs/small/result.json"))["winners"]
    title = "small: 4 of 256 architectures scored, winners: inherit"
    verdict, found, table = out.partition(title)
    assert verdict.startswith("Verdict: ") and found
    rest = table.splitlines()[1:]
    row = [cell.strip() for cell in rest[3].strip("│").split("│")]
    assert row[:2] == ["macs<=90%", winner["arch"]]
    page = Path("runs/small/report.html")
    parts = ("images and network", "timing steps", "trying formats", "latency", "training")
    parts = (*parts, "search", "finishing", "tests")
    time = r"(\d+min )?[\d.]+s"
    took = ", ".join(f"{part} {time}" for part in parts)
    took += f"(, exports {time})?"  # of less than 5 ms they are left out
    assert re.search(
        rf" Files are in runs/small/subnets, the report is {page} It took {time}: {took}; starting "
        r"Python and drawing the page are not counted\.$",
        " ".join(out.split()),
    )
    assert winner["arch"] in page.read_text()
    assert row[6] == f"{winner['test_score']:.2%}"
    assert "train" in err
    assert "search" in err
    assert "4/4" in err


def test_json_is_the_result_and_quiet_is_quiet(call):
    code, out, err = call("run", *SETS, "--json", "--quiet", "--out", "here")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert {"schema": 1, **json.loads(out)} == records.read_json(Path("here/result.json"))


def test_runs_do_not_overwrite_each_other(call):
    assert call("train", *SETS, "--quiet") == (0, "runs/small/supernet.safetensors\n", "")
    assert call("train", *SETS, "--quiet") == (0, "runs/small-2/supernet.safetensors\n", "")
    assert call("train", *SETS, "--quiet")[1] == "runs/small-3/supernet.safetensors\n"
    assert Path("runs/small/supernet.safetensors").exists()


def test_train_then_run_then_search(call):
    assert call("train", *SETS, "--out", "r", "--quiet") == (0, "r/supernet.safetensors\n", "")
    assert call("train", "--resume", "r", "--quiet") == (0, "r/supernet.safetensors\n", "")
    assert sorted(p.name for p in Path("r").iterdir()) == [
        "environment.json", "lock", "recipe.sig", "recipe.toml", "seconds.json", "space.json",
        "subnets", "supernet.safetensors", "train.jsonl", "trainer.pt",
    ]  # fmt: skip
    code, out, _ = call("run", "--resume", "r", "--quiet", "--json")
    assert code == 0
    first = json.loads(out)
    assert call("search", "r", "--quiet", "--json")[0] == 0
    code, out, _ = call(
        "search", "r", "--set", "search.candidates=6", "--set", "search.name=random",
        "--out", "other", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert (first["searched"], json.loads(out)["searched"]) == (4, 6)
    assert Recipe.load(Path("other/recipe.toml")).search.name == "random"
    weights = [Path(folder, "supernet.safetensors").read_bytes() for folder in ("r", "other")]
    assert weights[0] == weights[1]


def test_recipe_prints_what_a_run_would_use(call):
    code, out, err = call("recipe", "--set", "train.epochs=3")
    assert (code, err) == (0, "")
    Path("mine.toml").write_text(out)
    assert Recipe.load(Path("mine.toml")) == Recipe.load(None, ["train.epochs=3"])
    code, out, _ = call("recipe", "mine.toml", "--json")
    assert code == 0 and Recipe.build(json.loads(out), (), "it").train.epochs == 3
    code, _, err = call("recipe", "none.toml")
    assert code == 2
    assert err.startswith("error: there is no recipe none.toml, neither a file nor one that comes")


def test_recipe_explains_keys(call):
    code, out, err = call("recipe", "--keys", "controls")
    assert (code, err) == (0, "")
    assert "[controls] Networks beside each winner" in out
    row = next(line for line in out.splitlines() if line.startswith("│ largest"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "largest", "true or false", "true", "The largest network within the budget.",
    ]  # fmt: skip
    code, out, _ = call("recipe", "--keys", "--json")
    assert code == 0 and json.loads(out)[0]["key"] == "schema"
    assert "did you mean 'train'" in call("recipe", "--keys", "trian")[2]
    assert call("recipe", "--keys", "--set", "seed=1")[0] == 2


def test_a_dry_run_says_what_would_happen_and_writes_nothing(call):
    code, out, err = call("run", *SETS, "--dry-run", "--quiet")
    assert (code, err) == (0, "") and list(Path().iterdir()) == []
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    assert ["all", "128", "64", "449"] in cells
    assert ["subnets/ARCH.{json,safetensors}", "each winner"] in cells
    assert "To be written to runs/small" in out and "Nothing was written." in out
    assert "It takes about " in out
    code, out, _ = call("train", *SETS, "--dry-run", "--quiet", "--out", "there")
    assert code == 0 and "To be written to there" in out and "search.jsonl" not in out
    assert list(Path().iterdir()) == []
    assert call("run", "--resume", "x", "--dry-run")[0] == 2


def test_a_dry_run_of_what_would_fail_fails(call):
    impossible = ("--set", "search.budgets=['macs<=90%', 'macs<=1%']")
    code, out, err = call("run", *SETS, *impossible, "--dry-run", "--quiet", "--json")
    assert code == 2 and "budget 'macs<=1%'" in err and "is impossible" in err
    told = json.loads(out)
    assert [bool(budget["problem"]) for budget in told["budgets"]] == [False, True]
    code, _, err = call("run", *SETS, "--set", "train.batch_size=200", "--dry-run", "--quiet")
    assert code == 2 and "train.batch_size = 200 is more than the 128 training images" in err
    Path("mine").mkdir()
    Path("mine/letter.txt").touch()
    code, _, err = call("run", *SETS, "--out", "mine", "--dry-run", "--quiet")
    assert code == 1 and "which manyshot did not write" in err


def test_init_writes_a_recipe_and_never_over_one(call):
    assert call("init", "--quiet") == (0, "recipe.toml\n", "")
    assert Recipe.load(Path("recipe.toml")).data.name == "digits"
    code, out, err = call("init", "--quiet")
    assert (code, out) == (2, "") and "recipe.toml exists, and is not overwritten" in err


def test_export_prints_paths(call, finished):
    code, out, err = call("export", str(finished), "--arch", "0-1-2-3", "--quiet")
    assert (code, out, err) == (0, f"{finished}/subnets/0-1-2-3.json\n", "")
    code, out, _ = call("export", str(finished), "--arch", "0-1-2-3", "--quiet", "--json")
    record = json.loads(out)
    assert record["arch"] == "0-1-2-3"
    assert record["files"] == {"json": "subnets/0-1-2-3.json"}
    assert "test_score" not in record
    code, out, _ = call("export", str(finished), "--arch", "0-1-2-3", "--test", "--quiet", "--json")
    assert 0 <= json.loads(out)["test_score"] <= 1


def test_export_takes_settings_of_its_own_alone(call, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    arguments = ("export", str(folder), "--arch", "1-1-2-3", "--quiet", "--json")
    code, out, err = call(*arguments, "--set", "export.normalise=false")
    assert code == 0, err
    assert json.loads(out)["normalised"] is False
    code, out, err = call(*arguments, "--set", "finish.mode=scratch")
    assert (code, out) == (2, "") and "only export.... may be set" in err
    code, _, err = call(*arguments, "--set", "export.formatz=[]")
    assert code == 2 and "formats" in err


def by_multiply_adds(module, calls) -> float:
    """A stopwatch that tells milliseconds by what is computed, whatever else the machine does."""
    module.requires_grad_(False)  # else the counter fails on outputs that are parameters
    with FlopCounterMode(display=False) as counter:
        for args, kwargs in calls:
            module(*args, **kwargs)
    return counter.get_total_flops() / 1e6


def test_a_corrected_command_may_use_the_folder_of_a_failed_one(call, monkeypatch):
    """An impossible latency is noticed once a table is measured, before any training."""
    clock = ("by multiply-adds", by_multiply_adds)
    monkeypatch.setattr("manyshot.cost.latency.default_clock", lambda *args: clock)
    budget = "search.budgets=['latency_ms<=0.000001']"
    code, _, err = call("run", *SETS, "--set", budget, "--out", "r", "--quiet")
    assert code == 2
    assert "is impossible: latency_ms of this space reach from" in err
    corrected = ["--set", "search.budgets=['latency_ms<=1K']", "--set", "latency.batch_size=2"]
    code, _, err = call("run", *SETS, *corrected, "--out", "r", "--quiet")
    assert (code, err) == (0, "")
    assert records.read_json(Path("r/latency.json"))["batch_size"] == 2
    impossible = ["--set", budget, "--out", "other", "--quiet"]
    assert call("search", "r", *impossible)[0] == 2
    code, _, err = call("search", "r", "--set", "search.candidates=5", "--out", "other", "--quiet")
    assert (code, err) == (0, "")


def test_space_as_json(call):
    code, out, err = call("space", *SETS, "--samples", "500", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["name"], found["size"]) == ("small", 256)
    assert [d["name"] for d in found["decisions"]] == [f"layer{i}" for i in range(4)]
    for cost in found["costs"].values():
        assert sum(cost["histogram"]) == 500
        assert cost["least"] <= cost["smallest"] <= cost["largest"] <= cost["greatest"]
        assert len(cost["edges"]) == len(cost["histogram"]) + 1
    assert not Path("runs").exists()


def test_space_for_people(call):
    code, out, _ = call("space", *SETS, "--samples", "100")
    rows = out.splitlines()
    assert code == 0
    assert rows[0].strip() == "small: 256 encodings"
    assert "│ 0 │ layer0   │ project, conv1, sep3, conv3 │" in rows
    assert any("macs of 100 uniform random architectures" in row for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "No such option: --nope"),
        (["nope"], "No such command 'nope'."),
        (["run", "--nope"], "No such option: --nope"),
        (["run", "a.toml", "b.toml"], "Got unexpected extra argument(s) (b.toml)"),
        (
            ["run", "none.toml"],
            "there is no recipe none.toml, neither a file nor one that comes with manyshot; "
            "`manyshot recipes` lists these",
        ),
        (["run", "--set", "train.epoch=3"], "--set 'train.epoch=3', on the default recipe: unknown "
         "key 'train.epoch'; did you mean 'train.epochs'?"),
        (["run", "--set", "train.lr"], "--set 'train.lr' is not of the form section.key=value"),
        (["run", "--resume", "x", "--out", "y"], "Invalid value: --resume goes on with a run as it "
         "is: give no recipe, --set, --out"),
        (["run", "r.toml", "--resume", "x"], "Invalid value: --resume goes on with a run as it is: "
         "give no recipe, --set, --out"),
        (["run", "--resume", "x"], NO_RUN),
        (["search", "x"], NO_RUN),
        (["search", "x", "--set", "seed=1"], "Invalid value: other settings need another folder: "
         "give --out too"),
        (["export", "x", "--arch", "0"], NO_RUN),
        (["space", "--set", "device=abacus"], None),
        (["space", "--samples", "0"], None),
        (["search"], None),
        (["export", "x"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_usage_errors_exit_2_with_one_line(call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    if message is not None:
        assert err == f"error: {message}\n"
    assert not Path("runs").exists()


def test_an_impossible_budget_exits_2_before_anything_is_written(call):
    code, out, err = call("run", *SETS, "--set", "search.budgets=['macs<=1%']")
    assert (code, out) == (2, "")
    assert "budget 'macs<=1%' (303.3) is impossible: macs of this space reach from 4,986 to" in err
    assert not Path("runs").exists()


def test_missing_data_exits_1_with_ways_out(call, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MANYSHOT_DATA", raising=False)
    code, out, err = call("run", "--set", "data.name=mnist")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    for way_out in ("--set data.root=DIR", "MANYSHOT_DATA", "--set data.download=true"):
        assert way_out in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "9-0-0-0"], "layer0: option 9 is not in 0..3 (project, conv1, sep3, conv3)"),
        (["--arch", "0-0"], "architecture (0, 0) has 2 entries; this space has 4 decisions"),
        (["--arch", "best"], "architecture 'best' is not of the form '0-2-1'"),
    ],
)
def test_other_errors_exit_1(call, finished, monkeypatch, arguments, message):
    monkeypatch.setattr("manyshot.pipeline.build.load_data", None)  # nothing is built for it
    assert call("export", str(finished), *arguments) == (1, "", f"error: {message}\n")


def test_a_truth_has_no_page_and_says_what_takes_it(call, tmp_path):
    (tmp_path / "truth.jsonl").touch()
    code, out, err = call("report", str(tmp_path))
    assert (code, out) == (1, "")
    assert f"{tmp_path} is a truth: " in err
    assert f"manyshot rank RUN --truth {tmp_path}" in err
    assert not (tmp_path / "report.html").exists()


def test_an_unknown_format_is_a_usage_error(call, finished):
    code, _, err = call("export", str(finished), "--arch", "0-0-0-0", "--format", "tflite")
    assert code == 2
    assert "Input should be 'pt2', 'onnx', 'int8' or 'json'" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("pip install manyshot[onnx]")])
def test_interruptions_and_missing_packages_exit_1(call, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("manyshot.pipeline.run", broken)
    text = (
        "interrupted; go on with the same command"
        if isinstance(error, KeyboardInterrupt)
        else error
    )
    code, out, err = call("run", *SETS, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {text}")


def test_several_processes_need_a_folder(call, monkeypatch):
    """Each would look for a free one by itself."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call("run", *SETS)
    assert code == 2
    assert "several processes need one folder: give --out, --resume" in err


COMMANDS = typer.main.get_command(importlib.import_module("manyshot.cli.shared").app).commands


def test_help_lists_verbs_in_two_panels(call):
    code, out, _ = call("--help")
    assert code == 0
    using, research = out.partition("Using ─")[2].partition("Research ─")[::2]
    verbs = re.compile(r"^│ (\w+) ", re.MULTILINE)
    assert verbs.findall(using)[:3] == ["run", "init", "recipe"]
    assert {"space", "export", "predict", "report"} < {*verbs.findall(using)}
    assert verbs.findall(research) == ["train", "search", "transfer", "truth", "rank", "compare"]
    assert [*verbs.findall(using), *verbs.findall(research)] == list(COMMANDS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_every_verb_ends_with_an_example_that_is_understood(call, verb):
    code, text, err = call(verb, "--help")
    assert (code, err) == (0, "")
    assert "Usage: " in text
    [*_, example] = " ".join(text.split()).partition("Example: ")
    manyshot, said, *arguments = shlex.split(example)
    assert (manyshot, said) == ("manyshot", verb)
    context = COMMANDS[verb].make_context(verb, list(arguments))  # reads, and does nothing
    assert context.params
    Recipe.load(None, context.params.get("set_") or [])


def test_without_arguments_there_is_the_help(call):
    code, out, err = call()
    assert code == 2
    assert "One-shot neural architecture search" in out + err
    assert "error" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "--nope"]])
def test_help_does_not_import_torch(arguments):
    program = (
        "import sys; from manyshot.cli import main\n"
        f"try: main({arguments!r})\n"
        "finally: print(sorted({'torch', 'numpy', 'accelerate'} & set(sys.modules)), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.endswith("[]"), done.stdout + done.stderr


class TestJudging:
    """truth, rank, compare, report: exact lines, exit codes, and what goes where."""

    @pytest.fixture
    def ranked(self, call, finished, tmp_path):
        """A finished run ranked against a CSV file: its folder, and what the ranking printed."""
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        rows = "".join(f"{i % 4}-{i // 4}-0-{i % 3},0.{500 + 7 * i}\n" for i in range(12))
        Path("own.csv").write_text("arch,accuracy\n" + rows)
        return folder, call("rank", str(folder), "--truth", "own.csv", "--quiet")

    def test_truth(self, call):
        sets = [*SETS, "--set", "truth.seeds=[3]", "--set", "truth.training.epochs=1"]
        words = ["truth", *sets, "--arch", "0-1-2-3"]
        assert call(*words, "--quiet") == (0, "truth/small/truth.jsonl\n", "")
        [row] = records.read_lines(Path("truth/small/truth.jsonl"))
        assert (row["arch"], row["seed"]) == ("0-1-2-3", 3)
        code, out, err = call(*words)
        assert (code, err) == (0, "")  # nothing was left to do
        assert len(records.read_lines(Path("truth/small/truth.jsonl"))) == 1
        code, out, err = call("truth", *sets, "--of", "nowhere")
        assert (code, out) == (2, "") and "there is no folder nowhere" in err

    def test_rank(self, ranked):
        folder, (code, out, err) = ranked
        assert (code, err) == (0, "")
        found = records.read_json(folder / "rank/own/rank.json")
        tau = found["sets"][0]["predictors"]["macs"]["kendall"]["value"]
        [row] = [line for line in out.splitlines()[:12] if "│ MACs" in line]
        assert f" {tau:.3f} " in row
        assert "run_to_run" in found["sets"][0] and "only one run judges them" in " ".join(
            out.split()
        )
        assert "report.html" in out and "own" in (folder / "report.html").read_text()

    def test_rank_as_json(self, call, ranked):
        folder, _ = ranked
        code, out, _ = call("rank", str(folder), "--truth", "own.csv", "--quiet", "--json")
        assert code == 0
        assert json.loads(out) == records.read_json(folder / "rank/own/rank.json")

    def test_compare(self, call, ranked):
        folder, _ = ranked
        code, out, err = call("compare", str(folder), "--out", "c")
        assert (code, err) == (0, "") and "small" in out
        assert Path("c/report.html").exists()
        code, out, _ = call("compare", str(folder), "--out", "c", "--json")
        [method] = json.loads(out)["methods"]
        assert method["seeds"] == [0] and "tau global" in method["metrics"]

    def test_report(self, call, ranked):
        folder, _ = ranked
        (folder / "report.html").unlink()
        assert call("report", str(folder)) == (0, f"{folder}/report.html\n", "")
        assert "own" in (folder / "report.html").read_text()

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["rank", "nowhere", "--truth", "x"], 2, "there is no folder nowhere"),
            (["rank", "{}", "--truth", "x", "--local", "0"], 2, "--local is a share in (0, 1]"),
            (["truth", "--arch", "9-9"], 2, "--arch: "),
            (["compare", "nowhere"], 2, "there is no folder nowhere"),
            (["report", "nowhere"], 1, "nowhere"),
            (["truth", "--workers", "0"], 2, "--workers"),
        ],
    )
    def test_errors(self, call, finished, words, code, said):
        found, out, err = call(*(word.format(finished) for word in words))
        assert (found, out) == (code, "") and said in err

    @pytest.mark.parametrize("words", [["truth"], ["rank", "{}", "--truth", "own.csv"]])
    def test_not_under_torchrun(self, call, finished, monkeypatch, words):
        monkeypatch.setenv("WORLD_SIZE", "2")
        code, out, err = call(*(word.format(finished) for word in words))
        assert (code, out) == (2, "") and "is one process: start it without torchrun" in err

    def test_an_unknown_truth_lists_the_published_tables(self, call, finished):
        code, out, err = call("rank", str(finished), "--truth", "nas_bench")
        assert (code, out) == (1, "") and "nas_bench_macro" in err
        assert "train networks alone first, with manyshot truth" in err

    def test_a_ranking_without_a_truth_says_how_one_is_made(self, call, finished):
        code, out, err = call("rank", str(finished))
        assert (code, out) == (2, "")
        said = " ".join(err.replace("\u2502", " ").split())
        assert f"manyshot truth {finished}/recipe.toml" in said.replace("/ ", "/")
        assert "--truth truth/small" in said


def test_warnings_are_a_line_for_people(tmp_path):
    """Not the place in our source that they come from."""
    code = (
        "import warnings; from manyshot.cli import main, running; "
        "running.loaded = lambda *a: warnings.warn('look at this') or exit(3); main(['space'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (3, "warning: look at this\n")


def test_space_lists_the_names_that_rates_are_by(call):
    code, out, _ = call("space", "--parameters", "--samples", "10")
    model = tiny()
    assert code == 0 and "Reachable costs" not in out
    assert all(name in out for name, _ in model.named_parameters())
