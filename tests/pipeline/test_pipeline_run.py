"""The whole way, against what its own records say when they are recomputed by hand."""

import json

import pytest
import torch
from pipeline_runs import lines, outcome, small
from torch import nn

import manyshot as ms
from manyshot import records
from manyshot.pipeline import Workspace, export_architecture, run, train_only
from manyshot.pipeline.run import spent
from manyshot.recipe import RecipeError
from manyshot.search import Infeasible
from manyshot.space import Budget
from manyshot.train import load_weights

FIELDS = [
    "budget", "arch", "choices", "macs", "params", "latency_ms", "proxy_accuracy",
    "test_accuracy", "files",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("base")
    recipe = small(folder)
    return folder, recipe, run(recipe, folder)


def test_the_result_has_the_pinned_fields(base):
    folder, _, result = base
    assert json.loads((folder / "result.json").read_text()) == {"schema": 1, **result}
    assert [w["budget"] for w in result["winners"]] == ["macs<=20%", "macs<=90%"]
    for winner in result["winners"]:
        assert list(winner) == FIELDS
        assert winner["choices"].keys() == {f"layer{i}" for i in range(4)}
        assert type(winner["macs"]) is int
        assert winner["latency_ms"] > 0
        assert 0 <= winner["proxy_accuracy"] <= 1
        assert {kind: (folder / path).is_file() for kind, path in winner["files"].items()} == {
            "json": True
        }
    assert (result["searched"], result["finish"]) == (6, "finetune")
    assert result["space"] == {"size": 256, "decisions": 4}


def test_the_folder_has_the_pinned_files(base):
    folder, recipe, result = base
    archs = sorted({w["arch"] for w in result["winners"]})
    wanted = ["environment.json", "finish.jsonl", "recipe.toml", "result.json", "search.jsonl"]
    wanted += [f"subnets/{a}.{kind}" for a in archs for kind in ("json", "train.jsonl")]
    wanted += ["supernet.safetensors", "train.jsonl", "trainer.pt"]
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
            key=lambda row: (-row["proxy_accuracy"], row["macs"], net.space.from_text(row["arch"])),
        )
        assert winner["arch"] == order[0]["arch"]
        for key in ("macs", "params", "proxy_accuracy"):
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
        assert (row["proxy_accuracy"], row["proxy_loss"]) == (score.accuracy, score.loss)
        subnet = ws.net.extract(arch)
        assert row["params"] == sum(p.numel() for p in subnet.parameters())
        assert row["macs"] == ms.cost.macs(ws.net, [arch], (1, 8, 8))[0]


def test_a_finished_run_is_not_done_again(base):
    folder, recipe, result = base
    before = outcome(folder)
    again = run(recipe, folder)
    assert outcome(folder) == before
    assert [w["test_accuracy"] for w in again["winners"]] == [
        w["test_accuracy"] for w in result["winners"]
    ]


def test_the_same_recipe_gives_the_same_run(base, tmp_path):
    run(small(tmp_path), tmp_path)
    assert outcome(tmp_path) == outcome(base[0])


# -- searching ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("search.name=random",),
        ("search.name=nsga2", "search.options={population = 8}"),
        ("search.options={population = 6, parents = 2, mutants = 3, crossovers = 2}",),
    ],
    ids=str,
)
def test_searchers_stay_within_budgets(overrides, tmp_path):
    budgets = ["macs<=20%", "params<=30%", "macs<=70%"]
    recipe = small(
        tmp_path, *overrides, f"search.budgets={budgets}", "search.candidates=20",
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
        tmp_path, "search.budgets=['macs<=18%']", "search.candidates=200", "finish.mode=inherit",
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
        tmp_path, "search.options={dedupe = 'per_generation', population = 4, parents = 1, "
        "mutants = 2, crossovers = 2}", "search.candidates=24", "finish.mode=inherit",
    )  # fmt: skip
    run(recipe, tmp_path)
    assert len(lines(tmp_path, "search.jsonl")) == 24


def test_fewer_candidates_than_budgets_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(Infeasible, match=r"none of the 1 .* raise search.candidates \(at least"):
        run(
            small(tmp_path, "search.candidates=1", "search.budgets=['macs<=18%', 'params<=30%']"),
            tmp_path,
        )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("search.budgets=['macs<=1%']", "impossible: macs of this space reach from 4,"),
        ("search.budgets=['params<=10']", "budget 'params<=10' (10) is impossible: params of"),
        ("search.name=evolutoin", "search: unknown searcher 'evolutoin'; have ['evolution'"),
        ("search.options.populaton=9", "search: EvolutionConfig has no option 'populaton'; did"),
        ("search.options.population='x'", "search: population must be a whole number"),
        ("sampler.name=unform", "sampler: unknown sampler 'unform'; have ['fair'"),
        ("sampler.options.path=3", "sampler 'uniform' has no option 'path'"),
        ("sampler.options.paths='x'", "sampler: "),
        ("network.name=tinny", "network.name = 'tinny': have ['macro', 'shufflenet', 'tiny']"),
        ("network.options.widht=3", "network 'tiny' with options {"),
        ("network.name=no_such:net", "cannot be imported: No module named 'no_such'"),
        ("network.name='math:floor'", "network 'math:floor' with options {"),
        ("network.name='math:pi'", "network 'math:pi' with options {"),
        ("network={name='macro', options={width=0}}", "macro: width must be at least 1, got 0"),
        ("network.name='collections:Counter'", "gives Counter, not a module"),
        ("device=abacus", "device = 'abacus': "),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_written(override, text, tmp_path):
    with pytest.raises(RecipeError) as caught:
        run(small(tmp_path, override), tmp_path / "run")
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


# -- finishing and exporting -------------------------------------------------------------------


def test_modes_differ_and_inherit_is_the_supernets_own(base, tmp_path):
    folder, recipe, finetuned = base
    results = {"finetune": finetuned}
    for mode in ("inherit", "scratch"):
        other = small(tmp_path, f"finish.mode={mode}")
        results[mode] = run(other, tmp_path / mode, trained=folder)
    winners = {mode: [w["arch"] for w in r["winners"]] for mode, r in results.items()}
    assert winners["inherit"] == winners["scratch"] == winners["finetune"]
    places = {"finetune": folder, "inherit": tmp_path / "inherit", "scratch": tmp_path / "scratch"}
    losses = {m: [row["test_loss"] for row in lines(p, "finish.jsonl")] for m, p in places.items()}
    distinct = len(set(winners["finetune"]))
    assert len({loss for own in losses.values() for loss in own}) == 3 * distinct
    assert [row["mode"] for row in lines(places["scratch"], "finish.jsonl")] == [
        "scratch"
    ] * distinct

    ws = Workspace.build(recipe)
    load_weights(folder / "supernet.safetensors", ws.net)
    for row in lines(places["inherit"], "finish.jsonl"):
        score = ms.evaluate.score(
            ws.net,
            ws.net.space.from_text(row["arch"]),
            calibration=ws.calibration(),
            validation=ws.fixed("test", None),
        )
        assert (row["test_accuracy"], row["test_loss"]) == (score.accuracy, score.loss)


def test_scratch_weights_owe_nothing_to_the_supernet(tmp_path):
    """Supernets trained differently give the same stand-alone network."""
    rows = []
    for epochs in (1, 2):
        recipe = small(
            tmp_path, "finish.mode=scratch", f"train.lr={0.1 * epochs}", "search.candidates=256",
            "search.generation=256", "search.budgets=['macs<=18%']",
        )  # fmt: skip
        folder = tmp_path / str(epochs)
        train_only(recipe, folder)
        export_architecture(recipe, folder, "0-1-2-3")
        rows += lines(folder, "finish.jsonl")
    losses = {row["test_loss"] for row in rows}
    assert len(losses) == 1


def test_the_test_set_is_not_touched_before_the_end(tmp_path, monkeypatch):
    """All of it is read once per winner, after the last score is on record."""
    touched, fixed = [], Workspace.fixed

    def spy(self, part, images):
        if part == "test":
            assert len(lines(tmp_path, "search.jsonl")) == 6
            touched.append(images)
        return fixed(self, part, images)

    monkeypatch.setattr(Workspace, "fixed", spy)
    result = run(small(tmp_path), tmp_path)
    assert touched == [None] * len({w["arch"] for w in result["winners"]})


def test_the_test_images_decide_nothing(tmp_path, monkeypatch):
    """With other labels on the test images, only test scores differ."""
    run(small(tmp_path), tmp_path / "a")
    accuracy = ms.evaluate.accuracy

    def shifted(module: nn.Module, batches):
        return accuracy(module, [(x, (y + 1) % 10) for x, y in batches])

    monkeypatch.setattr(ms.evaluate, "accuracy", shifted)
    run(small(tmp_path), tmp_path / "b")
    one, two = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    assert one["finish.jsonl"] != two["finish.jsonl"]
    assert one["search.jsonl"] == two["search.jsonl"]
    assert [w["arch"] for w in one["result"]["winners"]] == [
        w["arch"] for w in two["result"]["winners"]
    ]


def test_any_architecture_can_be_exported(base, tmp_path):
    folder, recipe, result = base
    own = small(tmp_path, "finish.mode=inherit", "export.formats=['pt2', 'json']")
    run(own, tmp_path / "run", trained=folder)
    record = export_architecture(own, tmp_path / "run", "3-0-2-1")
    assert record["arch"] == "3-0-2-1"
    assert record["files"] == {k: f"subnets/3-0-2-1.{k}" for k in ("pt2", "json")}
    program = torch.export.load(tmp_path / "run" / record["files"]["pt2"]).module()
    ws = Workspace.build(own)
    load_weights(folder / "supernet.safetensors", ws.net)
    arch = (3, 0, 2, 1)
    stats = ms.evaluate.calibrate(ws.net, arch, ws.calibration())
    images = ws.fixed("test", 8)[0][0]
    with torch.no_grad():
        expected = ws.net.eval()(images, arch, stats=stats)
        torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)
    card = json.loads((tmp_path / "run" / "subnets" / "3-0-2-1.json").read_text())
    assert card["accuracies"] == {"test_accuracy": record["test_accuracy"], "proxy_accuracy": None}
    assert card["data"]["fingerprint"] == ws.splits.fingerprint


def test_a_format_that_is_missing_is_added(tmp_path):
    """What is on record is not done again, unless another format is asked for."""
    result = run(small(tmp_path, "finish.mode=inherit", "export.formats=[]"), tmp_path)
    arch = result["winners"][0]["arch"]
    before = lines(tmp_path, "finish.jsonl")
    assert [row["files"] for row in before] == [{}] * len(before)
    more = small(tmp_path, "finish.mode=inherit", "export.formats=['json']")
    record = export_architecture(more, tmp_path, arch)
    assert record["files"] == {"json": f"subnets/{arch}.json"}
    assert (tmp_path / record["files"]["json"]).is_file()
    [own] = [row for row in before if row["arch"] == arch]
    assert record["test_loss"] == own["test_loss"]
    assert len(lines(tmp_path, "finish.jsonl")) == len(before)


def test_exports_that_cannot_be(base, tmp_path):
    folder, recipe, _ = base
    with pytest.raises(ValueError, match="option 9 is not in 0..3"):
        export_architecture(recipe, folder, "9-0-0-0")
    with pytest.raises(ValueError, match="not of the form '0-2-1'"):
        export_architecture(recipe, folder, "best")
    with pytest.raises(records.RecordError, match=r"has no supernet.safetensors: train it first"):
        export_architecture(recipe, tmp_path, "0-0-0-0")


# -- another search of the same supernet -------------------------------------------------------


def test_searching_again_trains_nothing(base, tmp_path, monkeypatch):
    folder, _, result = base
    recipe = small(tmp_path, "search.candidates=8", "finish.mode=inherit", "name=again")
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
        run(small(tmp_path, override), tmp_path / "again", trained=base[0])
    assert not (tmp_path / "again").exists()


def test_a_folder_of_another_recipe_is_refused(base, tmp_path):
    folder, recipe, _ = base
    before = outcome(folder)
    with pytest.raises(records.RecordError, match="holds a run of another recipe: resume it with"):
        run(small(tmp_path, "train.epochs=2"), folder)
    with pytest.raises(records.RecordError, match="train it first with manyshot train"):
        run(recipe, tmp_path / "again", trained=tmp_path)
    assert outcome(folder) == before


def test_training_only_then_the_rest(base, tmp_path):
    recipe = small(tmp_path)
    train_only(recipe, tmp_path)
    assert not (tmp_path / "search.jsonl").exists()
    run(recipe, tmp_path)
    assert outcome(tmp_path) == outcome(base[0])


def test_images_forwarded(base, tmp_path):
    """4 steps of 32 images; 6 candidates, each 64 to calibrate and 64 to validate."""
    assert base[2]["images_forwarded"] == {"train": 128, "search": 768}
    ws = Workspace.build(small(tmp_path, "sampler.name=sandwich", "train.epochs=3"))
    assert spent(ws, 10) == {"train": 3 * 128 * 4, "search": 1280}
