"""The whole way under two processes: every record once, one result."""

import json
import sys
import time

import pytest
import torch

from manyshot import records
from manyshot.cli.main import _words
from manyshot.pipeline import Workspace
from manyshot.train import load_weights
from pipeline_runs import lines, outcome, run, small
from two_processes import free_port, start, two_processes


def test_a_run_of_two_processes(tmp_path):
    overrides = ("sampler.name=sandwich", "export.formats=['json']", "finish.mode=finetune")
    recipe, folder = small(*overrides), tmp_path / "run"
    path = tmp_path / "two.toml"
    path.write_text(recipe.to_toml())
    command = [sys.executable, "-m", "manyshot", "run", str(path), "--out", str(folder), "--json"]
    main, other = two_processes(command)
    assert (main.returncode, other.returncode) == (0, 0), main.errors + other.errors
    assert other.output == ""
    for rank in (main, other):
        assert "warning" not in rank.errors.lower()
    assert "4/4" in main.errors  # progress, of one process only
    assert "4/4" not in other.errors
    result = json.loads(main.output)
    assert records.read_json(folder / "result.json") == {"schema": 2, **result}
    assert [row["step"] for row in lines(folder, "train.jsonl")] == [2, 4]
    searched = [row["arch"] for row in lines(folder, "search.jsonl")]
    assert len(searched) == len(set(searched)) == 6
    archs = list(dict.fromkeys(winner["arch"] for winner in result["winners"]))
    assert [row["arch"] for row in lines(folder, "finish.jsonl")] == archs
    ws = Workspace.build(recipe)
    load_weights(folder / "supernet.safetensors", ws.net)
    assert all(t.isfinite().all() for t in ws.net.state_dict().values())
    # What was recorded in two processes is taken up by one.
    before = outcome(folder)
    run(recipe, folder)
    assert outcome(folder) == before
    assert torch.load(folder / "trainer.pt", weights_only=True)["step"] == 4


@pytest.mark.slow
def test_a_shifting_search_of_two_processes(base, tmp_path):
    """Each candidate is scored once, by one of them, at the weights that both have."""
    settings = ("shifting.name=population", "shifting.update=per_candidate", "shifting.steps=2",
                "shifting.batch_size=16", "shifting.rescored=2", "shifting.watched=4",
                "shifting.watched_best=2", "finish.mode=inherit")  # fmt: skip
    recipe, folder = small(*settings), tmp_path / "run"
    command = [sys.executable, "-m", "manyshot", "search", str(base[0]), "--out", str(folder)]
    words = [word for setting in settings for word in ("--set", setting)]
    main, other = two_processes([*command, *words, "--json"])
    assert (main.returncode, other.returncode) == (0, 0), main.errors + other.errors
    generations = lines(folder, "shifting.jsonl")
    assert [row["weights_version"] for row in generations] == [3, 6]
    rows = lines(folder, "search.jsonl")
    told = [row for row in rows if row["role"] == "candidate"]
    assert [row["generation"] for row in told] == [0] * 3 + [1] * 3
    for generation in (0, 1):
        own = [row for row in rows if row["generation"] == generation]
        assert len({(row["weights_version"], row["weights"]) for row in own}) == 1
    before = outcome(folder)
    run(recipe, folder)  # what two processes recorded, one takes up
    assert outcome(folder) == before


def test_what_torch_says_of_a_lost_process_is_put_in_words(monkeypatch):
    error = RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:22725.")
    assert _words(error) == str(error)
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = _words(error)
    assert said.startswith("another of the 3 processes has ended, and so does this one: see what")
    assert "go on with the same command" in said and str(error) in said
    assert _words(RuntimeError("else")) == "else"


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_go_on_to_the_same_end(tmp_path):
    """Beside the test of words, what torch really says, and that nobody waits for ever."""
    recipe, path = small("train.epochs=40", "train.log_steps=1"), tmp_path / "two.toml"
    path.write_text(recipe.to_toml())
    command = [sys.executable, "-m", "manyshot", "train", str(path), "--out", str(tmp_path / "run")]
    port = free_port()
    ranks, log = [start(command, rank, port) for rank in (0, 1)], tmp_path / "run/train.jsonl"
    try:
        while not (log.exists() and log.stat().st_size) and ranks[0].poll() is None:
            time.sleep(0.02)
        ranks[1].kill()
        _, errors = ranks[0].communicate(timeout=120)
    finally:
        for process in ranks:
            with process:
                process.kill()
    assert ranks[0].returncode == 1 and "another of the 2 processes has ended" in errors
    ends = [two_processes([*command[:-1], str(tmp_path / name)]) for name in ("run", "whole")]
    assert [rank.returncode for end in ends for rank in end] == [0] * 4
    one, other = (
        [(row["step"], row["loss"]) for row in lines(tmp_path / name, "train.jsonl")]
        for name in ("run", "whole")
    )
    assert one == other and len(one) == 160
