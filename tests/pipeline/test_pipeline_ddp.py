"""The whole way under two processes: every record once, one result."""

import json
import sys

import pytest
import torch

from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.train import load_weights
from pipeline_runs import lines, outcome, run, small
from two_processes import two_processes


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
