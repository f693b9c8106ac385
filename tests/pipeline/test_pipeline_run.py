"""The whole way, against what its own records say when they are recomputed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import manyshot as ms
from manyshot import records
from manyshot.cost import CostTable
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.beforehand import check_budgets
from manyshot.pipeline.verbs.run import trained_images
from manyshot.recipe import RecipeError
from manyshot.search import Infeasible
from manyshot.space import Budget
from manyshot.train import load_weights
from manyshot.zoo import NETWORKS
from pipeline_runs import lines, outcome, run, small, timeless

FIELDS = [
    "budget", "arch", "macs", "params", "latency_ms", "proxy_score", "proxy_loss", "test_score",
    "test_loss", "test_metrics", "test_interval", "choices", "files",
]  # fmt: skip


def test_the_result_has_the_pinned_fields(base):
    folder, _, result = base
    assert timeless(records.read_json(folder / "result.json")) == timeless(result)
    assert [w["budget"] for w in result["winners"]] == ["macs<=20%", "macs<=90%"]
    for winner in result["winners"]:
        assert list(winner) == FIELDS
        assert winner["choices"].keys() == {f"layer{i}" for i in range(4)}
        assert type(winner["macs"]) is int
        assert winner["latency_ms"] > 0
        assert 0 <= winner["proxy_score"] <= 1
        assert {kind: (folder / path).is_file() for kind, path in winner["files"].items()} == {
            "json": True
        }
    assert (result["searched"], result["finish"]) == (6, "finetune")
    assert result["space"] == {"size": 256, "decisions": 4}


def test_the_folder_has_the_pinned_files(base):
    folder, recipe, result = base
    archs = sorted({w["arch"] for w in result["winners"]})
    wanted = ["environment.json", "finish.jsonl", "lock", "recipe.sig", "recipe.toml"]
    wanted += ["result.json", "search.jsonl", "seconds.json"]
    kinds = ("json", "safetensors", "tested.json", "train.jsonl")
    wanted += [f"subnets/{a}.{kind}" for a in archs for kind in kinds]
    wanted += ["space.json", "supernet.safetensors", "train.jsonl", "trainer.pt"]
    assert outcome(folder)["files"] == sorted(wanted)
    assert ms.Recipe.load(folder / "recipe.toml") == recipe
    machine = records.read_json(folder / "environment.json")
    assert machine["torch"] == torch.__version__


def test_winners_are_the_best_on_record(base):
    folder, recipe, result = base
    rows = lines(folder, "search.jsonl")
    net = ms.Supernet(ms.zoo.tiny(width=3))
    largest = ms.cost.macs(net, [net.space.largest], (1, 8, 8))[0]
    for winner in result["winners"]:
        limit = float(winner["budget"].removeprefix("macs<=").removesuffix("%")) / 100 * largest
        within = [row for row in rows if row["macs"] <= limit]
        assert len(within) > 0
        order = sorted(
            within,
            key=lambda row: (-row["proxy_score"], row["macs"], net.space.from_text(row["arch"])),
        )
        assert winner["arch"] == order[0]["arch"]
        for key in ("macs", "params", "proxy_score"):
            assert winner[key] == order[0][key]


def test_scores_on_record_are_those_of_the_saved_weights(base):
    folder, recipe, _ = base
    ws = Workspace.build(recipe)
    load_weights(folder / "supernet.safetensors", ws.net)
    for row in lines(folder, "search.jsonl")[:2]:
        arch = ws.net.space.from_text(row["arch"])
        score = ms.evaluate.score(
            ws.net, arch, calibration=ws.calibration(), validation=ws.fixed("validation", None)
        )
        assert (row["proxy_score"], row["proxy_loss"]) == (score.value, score.loss)
        subnet = ws.net.extract(arch)
        assert row["params"] == sum(p.numel() for p in subnet.parameters())
        assert row["macs"] == ms.cost.macs(ws.net, [arch], (1, 8, 8))[0]


def test_a_finished_run_is_not_done_again(base):
    folder, recipe, result = base
    before = outcome(folder)
    again = run(recipe, folder)
    assert outcome(folder) == before
    assert [w["test_score"] for w in again["winners"]] == [
        w["test_score"] for w in result["winners"]
    ]


def test_the_same_recipe_gives_the_same_run(base, tmp_path):
    run(small(), tmp_path)
    assert outcome(tmp_path) == outcome(base[0])


# -- searching ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("search.name=random", "search.options={}"),
        ("search.name=nsga2", "search.options={population = 8}"),
        ("search.options={population = 6, parents = 2, mutants = 3, crossovers = 2}",),
    ],
    ids=str,
)
def test_searchers_stay_within_budgets(overrides, tmp_path):
    budgets = ["macs<=20%", "params<=30%", "macs<=70%"]
    recipe = small(
        *overrides, f"search.budgets={budgets}", "search.candidates=20",
        "finish.mode=inherit",
    )  # fmt: skip
    result = run(recipe, tmp_path)
    rows = lines(tmp_path, "search.jsonl")
    assert len(rows) == len({row["arch"] for row in rows}) == 20
    ws = Workspace.build(recipe)
    limits = {
        b.text: (b.metric, b.absolute(float(ws.costs[b.metric]([ws.net.space.largest])[0])))
        for b in map(Budget.parse, budgets)
    }
    for row in rows:
        assert any(row[metric] <= limit for metric, limit in limits.values())
    for winner in result["winners"]:
        metric, limit = limits[winner["budget"]]
        assert winner[metric] <= limit


def test_a_space_may_be_smaller_than_the_candidates_asked_for(tmp_path):
    recipe = small(
        "search.budgets=['macs<=18%']", "search.candidates=200", "finish.mode=inherit",
        "search.generation=100",
    )  # fmt: skip
    ws = Workspace.build(recipe)
    [limit] = ws.limits()
    legal = [a for a in ws.net.space.enumerate() if limit.costs([a])[0] <= limit.limit]
    run(recipe, tmp_path)
    assert 0 < len(legal) < 200
    assert len(lines(tmp_path, "search.jsonl")) == len(legal)


def test_searchers_that_repropose_come_to_an_end(tmp_path):
    """Candidates are counted as scored, so a population that has converged cannot hang."""
    recipe = small(
        "search.options={dedupe = 'per_generation', population = 4, parents = 1, "
        "mutants = 2, crossovers = 2}", "search.candidates=24", "finish.mode=inherit",
    )  # fmt: skip
    run(recipe, tmp_path)
    assert len(lines(tmp_path, "search.jsonl")) == 24


def test_fewer_candidates_than_budgets_is_an_error_with_a_way_out(tmp_path):
    """The budgets that have a winner get it, all the same."""
    budgets = ["macs<=18%", "params<=30%"]
    # Drawn within the first budget alone.
    one = ("search.name=random", "search.options={}", "search.candidates=1", "seed=7")
    with pytest.raises(Infeasible, match=r"raise search.candidates \(at least") as caught:
        run(small(f"search.budgets={budgets}", *one), tmp_path)
    [winner] = records.read_json(tmp_path / "result.json")["winners"]
    [missing] = set(budgets) - {winner["budget"]}
    assert f"none of the 1 architectures scored is within {missing!r}: " in str(caught.value)
    assert (tmp_path / winner["files"]["json"]).is_file()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("search.budgets=['macs<=1%']", "impossible: macs of this space reach from 4,"),
        ("search.budgets=['params<=10']", "budget 'params<=10' (10) is impossible: params of"),
        (
            "search.name=evolutoin",
            "unknown searcher 'evolutoin'; did you mean 'evolution'? have",
        ),
        ("search.options.populaton=9", "has no option 'populaton'; did you mean 'population'?"),
        ("search.options.population='x'", "searcher 'evolution': population = 'x'"),
        (
            "sampler.name=unform",
            "unknown sampler 'unform'; did you mean 'uniform'? have ",
        ),
        ("sampler.options.path=3", "sampler 'uniform' has no option 'path'"),
        ("sampler.options.paths='x'", "sampler 'uniform': paths = 'x': "),
        (
            "network.name=tinny",
            f"unknown network 'tinny'; did you mean 'tiny'? have {', '.join(sorted(NETWORKS))}",
        ),
        (
            "network.name=resnet18",
            "unknown network 'resnet18'; did you mean 'torchvision:resnet18'?",
        ),
        ("network.options.widht=3", "network 'tiny' has no option 'widht'; did you mean 'width'"),
        ("network.name=no_such:net", "cannot be imported: No module named 'no_such'"),
        ("network.name='math:floor'", "network 'math:floor' is <built-in"),
        ("network.name='math:pi'", "network 'math:pi' is 3.14"),
        ("network={name='macro', options={width=0}}", "network 'macro': width = 0"),
        ("network.name='collections:Counter'", "is no Module"),
        ("device=abacus", "device = 'abacus': "),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_written(override, text, tmp_path):
    with pytest.raises(RecipeError) as caught:
        run(small(override), tmp_path / "run")
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


# -- another search of the same supernet -------------------------------------------------------


def test_searching_again_trains_nothing(base, tmp_path, monkeypatch):
    folder, _, result = base
    recipe = small("search.candidates=8", "finish.mode=inherit", "name=again")
    found = run(recipe, tmp_path / "again", trained=folder)
    assert not (tmp_path / "again" / "train.jsonl").exists()
    assert outcome(tmp_path / "again")["weights"] == outcome(folder)["weights"]
    assert (found["searched"], found["name"]) == (8, "again")
    assert run(recipe, tmp_path / "again")["winners"][0]["arch"] == found["winners"][0]["arch"]


@pytest.mark.parametrize(
    "override", ["train.lr=0.2", "seed=2", "network.options.width=4", "data.pad=0",
                 "sampler.name=fair"],
)  # fmt: skip
def test_a_supernet_trained_otherwise_is_refused(base, tmp_path, override):
    section = override.split(".")[0].split("=")[0]
    with pytest.raises(RecipeError, match=f"^{section} is not as the supernet of .* was trained"):
        run(small(override), tmp_path / "again", trained=base[0])
    assert not (tmp_path / "again").exists()


def test_a_folder_of_another_recipe_is_refused(base, tmp_path):
    folder, recipe, _ = base
    before = outcome(folder)
    with pytest.raises(records.RecordError, match="holds a run of another recipe: resume it with"):
        run(small("train.epochs=2"), folder)
    with pytest.raises(records.RecordError, match="train it first with manyshot train"):
        run(recipe, tmp_path / "again", trained=tmp_path)
    assert outcome(folder) == before


def test_training_only_then_the_rest(base, tmp_path):
    recipe = small()
    train_only(recipe, tmp_path)
    assert not (tmp_path / "search.jsonl").exists()
    run(recipe, tmp_path)
    assert outcome(tmp_path) == outcome(base[0])


def test_images_forwarded(base, tmp_path):
    """4 steps of 32 images; 6 candidates, each 64 to calibrate and 64 to validate."""
    expected = {"train": 128, "search": 768, "shifting": 0, "order": 0, "probe": 0}
    assert base[2]["images_forwarded"] == expected
    ws = Workspace.build(small("sampler.name=sandwich", "train.epochs=3"))
    assert trained_images(ws) == 3 * 128 * 4


def test_at_the_same_weights_nothing_is_scored_twice(tmp_path):
    again = "{dedupe = 'per_generation', population = 4, parents = 1, mutants = 2, crossovers = 2}"
    overrides = (f"search.options={again}", "search.candidates=24", "finish.mode=inherit")
    recipe = small(*overrides)
    result = run(recipe, tmp_path)
    assert result["searched"] < 24
    assert result["images_forwarded"]["search"] == result["searched"] * 128
    rows = lines(tmp_path, "search.jsonl")
    assert len(rows) == 24
    scores: dict = {}
    for row in rows:
        new = row["arch"] not in scores
        assert row["images_forwarded"] == 128 * new
        assert scores.setdefault(row["arch"], row["proxy_score"]) == row["proxy_score"]


def test_a_winner_may_have_to_meet_two_limits_at_once(tmp_path):
    text = "search.budgets=['macs<=60%, params<=30%', 'macs<=60%']"
    recipe = small(text, "search.name=random", "search.options={}", "search.candidates=40")
    result = run(recipe, tmp_path)
    both, _ = result["winners"]
    assert both["budget"] == "macs<=60% and params<=30%"
    net = ms.Supernet(ms.zoo.tiny(width=3))
    for metric, share in (("macs", 0.6), ("params", 0.3)):
        table = {"macs": ms.cost.macs(net, [net.space.largest], (1, 8, 8)),
                 "params": ms.cost.params(net, [net.space.largest])}[metric]  # fmt: skip
        assert both[metric] <= share * table[0]
    within = [
        row["proxy_score"]
        for row in lines(tmp_path, "search.jsonl")
        if row["macs"] <= 0.6 * ms.cost.macs(net, [net.space.largest], (1, 8, 8))[0]
        and row["params"] <= 0.3 * ms.cost.params(net, [net.space.largest])[0]
    ]
    assert within and both["proxy_score"] == max(within)


def test_two_limits_at_once_may_be_too_much(tmp_path):
    for budget, within in (("macs<=6 and params<=6", True), ("macs<=6 and params<=5", False)):
        ws = Workspace.build(small("search.budgets=['macs<=99%']"))
        ws = replace(ws, recipe=small(f"search.budgets=['{budget}']")).with_costs(
            # each of 4 decisions has 4 options: more of the one cost is less of the other
            macs=CostTable("macs", (4,) * 4, 0, {(i,): np.arange(4) for i in range(4)}),
            params=CostTable("params", (4,) * 4, 0, {(i,): 3 - np.arange(4) for i in range(4)}),
        )
        if within:
            check_budgets(ws)
        else:
            text = r"and params<=5': none of the 256 architectures is within all of it: raise one"
            with pytest.raises(RecipeError, match=text):
                check_budgets(ws)
    generated = [
        "search={name = 'generator', budgets = ['macs<=60%, params<=50%']}",
        "sampler={name = 'shiftnas', held_out = 20}",
    ]
    with pytest.raises(RecipeError, match="the generator is trained for one cost"):
        run(small(*generated), tmp_path / "run")
    assert not (tmp_path / "run").exists()
