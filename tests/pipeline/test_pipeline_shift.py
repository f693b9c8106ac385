"""Runs whose sampler learns, and whose winners come from its generator."""

import dataclasses
import shutil

import pytest
import torch

from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.pipeline.checks import check_sampler
from manyshot.pipeline.stages import generate
from manyshot.pipeline.stages.generate import probed_images, trained_sampler
from manyshot.recipe import EvaluationSettings, Recipe, RecipeError, SearchSettings
from manyshot.search import Infeasible, Limit
from manyshot.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from manyshot.train.samplers.complexity import Grid
from pipeline_runs import Stopped, lines, outcome, run, small

BUDGETS = ["macs<=50%", "macs<=85%"]
OPTIONS = (
    "rule = 'paper', warmup = 0.25, period = 3, hidden = 8, lr = 0.03, grid = [5000, 26000, 7000], "
    "kept = 'weights', dead_zone = 0.0, entropy_weight = 0.0, mix_uniform = 0.0, policy_share = 1.0"
)
SHIFT = f"sampler={{name = 'shiftnas', held_out = 60, options = {{{OPTIONS}}}}}"
GENERATOR = f"search={{name = 'generator', budgets = {BUDGETS}}}"
REST = ("finish.mode=inherit", "train.epochs=4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, which tests only read: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("shift")
    recipe = small(SHIFT, GENERATOR, *REST)
    return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="module")
def workspace(finished):
    return Workspace.build(finished[1])


def test_one_winner_per_budget_within_it_from_the_generator(finished, workspace):
    folder, _, result = finished
    assert [winner["budget"] for winner in result["winners"]] == BUDGETS
    sampler, archs = trained_sampler(workspace, folder), []
    for winner, limit in zip(result["winners"], workspace.limits(), strict=True):
        generated = sampler.generate(limit.limit)
        assert generated.within  # else the seed of the recipe is unlucky
        archs.append(workspace.net.space.canonical(generated.arch))
        assert winner["arch"] == workspace.net.space.to_text(archs[-1])
        assert winner["macs"] == generated.cost <= limit.limit
        assert result["generated"][winner["budget"]] == {
            "decodes": generated.decodes,
            "drawn": False,
            "below_budget_share": 1 - generated.cost / limit.limit,
        }
    assert result == {
        k: v for k, v in records.read_json(folder / "result.json").items() if k != "schema"
    }
    searched = [row["arch"] for row in lines(folder, "search.jsonl")]
    assert searched == list(dict.fromkeys(map(workspace.net.space.to_text, archs)))
    assert result["searched"] == len(searched)


def test_what_was_forwarded(finished):
    """Of 16 steps four are warm-up: updates after 7, 10, 13, 16, four targets, twice 60 images."""
    folder, _, result = finished
    assert result["images_forwarded"]["train"] == 16 * 32
    assert result["images_forwarded"]["probe"] == 4 * 4 * 2 * 60
    rows = lines(folder, "sampler.jsonl")
    assert [row["step"] for row in rows if row.get("update")] == [7, 10, 13, 16]
    assert probed_images(folder) == 4 * 4 * 2 * 60


def test_what_is_kept_of_the_sampler_is_what_training_ended_with(finished, workspace):
    folder, _, _ = finished
    kept = load_checkpoint(folder / "sampler.pt")["sampler"]
    last = load_checkpoint(folder / "trainer.pt")["sampler"]
    assert kept.keys() == last.keys()
    for name, tensor in last["generator"].items():
        assert torch.equal(kept["generator"][name], tensor)
    assert torch.equal(kept["distribution"]["logits"], last["distribution"]["logits"])
    assert (last["distribution"]["logits"] != 0).any()
    own = workspace.sampler().state_dict()["generator"]
    assert not torch.equal(own["cond"], kept["generator"]["cond"])


def test_held_out_images_are_of_no_other_part(workspace):
    """Not even in other pixels: images of all parts, normalised alike."""
    parts = {name: workspace.fixed(name, None) for name in ("train", "validation", "test")}
    parts["held_out"] = workspace.held_out(10_000, 0)
    found = {
        name: {image.numpy().tobytes() for images, _ in batches for image in images}
        for name, batches in parts.items()
    }
    assert [len(found[name]) for name in found] == [128, 64, 449, 60]
    assert len(set.union(*found.values())) == 128 + 64 + 449 + 60
    few = [image.numpy().tobytes() for images, _ in workspace.held_out(20, 7) for image in images]
    assert len(few) == 20
    assert set(few) < found["held_out"]


# -- resumed, and taken over -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "count"),
    [("sampler.jsonl", 4), ("sampler.pt", 1), ("supernet.safetensors", 1), ("search.jsonl", 1)],
)
def test_stopped_after_a_write_it_goes_on_to_the_same_end(
    finished, tmp_path, monkeypatch, file, count
):
    left = [count]

    def wrote(path):
        left[0] -= path.name == file
        if not left[0]:
            raise Stopped

    monkeypatch.setattr(records, "wrote", wrote)
    with pytest.raises(Stopped):
        run(finished[1], tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "result.json").exists()
    run(finished[1], tmp_path)
    assert outcome(tmp_path) == outcome(finished[0])
    one, other = (load_checkpoint(f / "sampler.pt")["sampler"] for f in (tmp_path, finished[0]))
    assert str(one) == str(other)
    for name, tensor in one["generator"].items():
        assert torch.equal(tensor, other["generator"][name])


def test_its_supernet_and_sampler_serve_other_budgets(finished, tmp_path):
    recipe = small(SHIFT, "search={name = 'generator', budgets = ['macs<=70%']}", *REST)
    result = run(recipe, tmp_path, trained=finished[0])
    for name in ("sampler.pt", "supernet.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()
    assert not (tmp_path / "trainer.pt").exists()
    [winner] = result["winners"]
    assert list(result["generated"]) == ["macs<=70%"] == [winner["budget"]]


def test_its_supernet_can_be_searched(finished, tmp_path):
    search = "search={name = 'random', budgets = ['params<=60%'], candidates = 4}"
    result = run(small(SHIFT, search, *REST), tmp_path, trained=finished[0])
    assert result["searched"] == 4
    assert "generated" not in result
    assert (tmp_path / "sampler.pt").exists()


def test_a_supernet_without_its_sampler_generates_nothing(finished, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(finished[0], trained)
    (trained / "sampler.pt").unlink()
    with pytest.raises(records.RecordError, match=r"has no sampler.pt: train it first"):
        run(finished[1], tmp_path / "run", trained=trained)


@pytest.mark.parametrize(
    ("within", "entry"), [((), "progress"), (("distribution",), "gains"), (("generator",), "grid")]
)
def test_what_a_sampler_of_another_version_lacks_is_said_of_its_file(
    finished, tmp_path, within, entry
):
    trained = tmp_path / "trained"
    shutil.copytree(finished[0], trained)
    state = load_checkpoint(trained / "sampler.pt")
    part = state["sampler"]
    for name in within:
        part = part[name]
    del part[entry]
    save_checkpoint(trained / "sampler.pt", {k: v for k, v in state.items() if k != "schema"})
    words = (
        rf"sampler\.pt is not what the sampler .*'{entry}'.*: train the supernet again to another"
    )
    with pytest.raises(CheckpointError, match=words):
        run(finished[1], tmp_path / "run", trained=trained)


# -- where the likeliest is beyond the budget --------------------------------------------------

RAW = SHIFT.replace("lr = 0.03", "lr = 1e-9, resource_weight = 0.0")
"""A generator that has learnt nothing."""


def test_of_draws_within_the_budget_the_best_scored_wins(tmp_path):
    search = "search={name = 'generator', budgets = ['macs<=20%']}"
    result = run(small(RAW, search, "finish.mode=inherit", "seed=7"), tmp_path)
    rows, [winner] = lines(tmp_path, "search.jsonl"), result["winners"]
    told = result["generated"]["macs<=20%"]
    assert told["drawn"]
    assert told["below_budget_share"] >= 0
    assert result["searched"] == len(rows) > 1
    ws = Workspace.build(small(RAW, search, "finish.mode=inherit", "seed=7"))
    [limit] = ws.limits()
    assert all(row["macs"] <= limit.limit for row in rows)
    assert winner["proxy_score"] == max(row["proxy_score"] for row in rows)


def test_no_draw_within_the_budget_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    """One draw for a budget that 16 architectures of 256 meet, for a likeliest that does not."""
    monkeypatch.setattr(generate, "DRAWS", 1)
    least = int(Workspace.build(small()).costs["macs"].range()[0])
    search = f"search={{name = 'generator', budgets = ['macs<={least}']}}"
    grid = f"sampler.options.grid=[{least}, 26000, {26000 - least}]"
    with pytest.raises(Infeasible, match=r"none of the 0 .*: the generator misses its targets"):
        run(small(RAW, grid, search, "seed=1", *REST), tmp_path / "run")
    assert records.read_json(tmp_path / "run" / "result.json")["winners"] == []


# -- other samplers and costs ------------------------------------------------------------------


def test_uniform_costs_with_k_shot_weights_need_no_held_out_images(tmp_path):
    sampler = SHIFT.replace("'shiftnas', held_out = 60", "'uniform_cost'")
    sharing = "sharing={name = 'k_shot', options = {copies = 2, m = 2, code_every = 2}}"
    result = run(small(sampler, sharing, GENERATOR, *REST), tmp_path)
    assert len(result["winners"]) == 2
    assert result["images_forwarded"]["probe"] == 0
    last = lines(tmp_path, "sampler.jsonl")[-1]
    assert last["probabilities"] == [0.25] * 4
    assert sum(last["counts"]) < 16  # steps of codes have no target


@pytest.mark.filterwarnings("ignore:cost target")  # latencies that are measured decide the grid
@pytest.mark.filterwarnings("ignore:budget 'latency_ms<=1K' .* is above the sampler's targets")
def test_targets_of_latency(tmp_path):
    options = "metric = 'latency_ms', warmup = 0.0, period = 2, bins = 3, hidden = 8"
    sampler = f"sampler={{name = 'shiftnas', held_out = 60, options = {{{options}}}}}"
    search = "search={name = 'generator', budgets = ['latency_ms<=1K']}"
    result = run(small(sampler, search, "finish.mode=inherit"), tmp_path)
    [winner] = result["winners"]
    ws = Workspace.build(small(sampler, search, "finish.mode=inherit"))
    table = records.read_json(tmp_path / "latency.json")
    assert winner["arch"] in {row["arch"] for row in lines(tmp_path, "search.jsonl")}
    assert lines(tmp_path, "sampler.jsonl")[-1]["metric"] == "latency_ms"
    assert table["inputs"] == str((1, *ws.splits.image_shape))


@pytest.mark.parametrize("grid", ["[5000, 26000, 7000]", "[5e3, 26e3, 7e3]", "[5000, 26e3, 7000]"])
@pytest.mark.parametrize("name", ["shiftnas", "uniform_cost", "table"])
def test_a_grid_is_a_list_in_a_recipe(tmp_path, workspace, grid, name):
    recipe = small(f"sampler.name={name}", f"sampler.options.grid={grid}")
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    again = Recipe.load(tmp_path / "again.toml")
    assert again.sampler == recipe.sampler
    ws = dataclasses.replace(workspace, recipe=again)
    assert ws.sampler().grid == Grid(5000.0, 26000.0, 7000.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["sampler.held_out=0"],
            "sampler.name = 'shiftnas' learns from losses on images that weights do not learn "
            "from: give sampler.held_out",
        ),
        (
            ["sampler={name = 'uniform'}"],
            "search.name = 'generator' takes winners from the sampler, and sampler.name = 'uni",
        ),
        (["sampler={name = 'table'}"], "and sampler.name = 'table' generates none"),
        (
            ["search.budgets=['macs<=50%', 'params<=50%']"],
            "budget 'params<=50%': the generator is trained for macs; give budgets on that",
        ),
        (
            ["sampler.options.metric=params", "sampler.options.grid=[300, 900, 100]"],
            "budget 'macs<=50%': the generator is trained for params; give budgets on that, or "
            "sampler.options.metric = 'macs'",
        ),
        (["search.options={population = 3}"], "takes no options, got {'population': 3}"),
        (["sampler.options.metric=flops"], "no costs for metric 'flops', have macs, params"),
        (
            ["sampler.options.metric=latency_ms"],
            "no costs for metric 'latency_ms', have macs, params; latency is measured where a "
            "budget of the recipe is on latency_ms",
        ),
        (["sampler.options.perod=3"], "has no option 'perod'; did you mean 'period'"),
        (["sampler.options.jitter=False"], "jitter = 'False'"),
        (["search.budgets=['macs<=1']"], "is impossible"),
        (["sampler.options.grid=[5000, 26000]"], "a grid is (lo, hi, step), three numbers"),
        (["sampler.options.grid=[1, 26000, 25999]"], "not all within the reachable"),
        (["sampler.held_out=-1"], "sampler.held_out"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_found_before_anything_is_written(tmp_path, overrides, words):
    with pytest.raises(RecipeError) as caught:
        run(small(SHIFT, GENERATOR, *REST, *overrides), tmp_path / "run")
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sampler.held_out=0"], "give sampler.held_out"),
        (["search.budgets=['macs<=50%', 'latency_ms<=1K']"], "generator is trained for latency_ms"),
    ],
)
def test_with_latencies_it_is_found_before_training(tmp_path, overrides, words):
    latency = "sampler={name = 'shiftnas', held_out = 60, options = {metric = 'latency_ms'}}"
    search = "search={name = 'generator', budgets = ['latency_ms<=1K']}"
    with pytest.raises(RecipeError, match=words):
        run(small(latency, search, *overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "train.jsonl").exists()


def test_held_out_batches_are_of_equal_size(workspace):
    """Not 59 and 1, which a batch norm could not normalise."""
    batches = EvaluationSettings(batch_size=59)
    recipe = workspace.recipe.model_copy(update={"evaluate": batches})
    ws = dataclasses.replace(workspace, recipe=recipe)
    assert [len(labels) for _, labels in ws.held_out(100, seed=0)] == [30, 30]
    assert [len(labels) for _, labels in ws.held_out(50, seed=0)] == [50]


def test_a_search_of_a_trained_run_knows_what_its_probes_forwarded(finished, tmp_path):
    folder, recipe, result = finished
    random = recipe.model_copy(
        update={"search": SearchSettings(name="random", candidates=6, budgets=BUDGETS)}
    )
    again = run(random, tmp_path, trained=folder)
    assert again["images_forwarded"]["probe"] == result["images_forwarded"]["probe"] > 0


def test_budgets_beyond_the_targets_are_said_before_training(workspace):
    sampler, table = workspace.sampler(), workspace.costs["macs"]
    grid = sampler.grid

    def check(limit):
        check_sampler(workspace.recipe, sampler, 60, [Limit("macs<=x", table, limit)])

    check(grid.lo - grid.step / 2)
    check(grid.hi + grid.step / 2)
    with pytest.raises(RecipeError, match=r"budget 'macs<=x' .* is below the sampler's targets"):
        check(grid.lo - grid.step / 2 - 1)
    with pytest.warns(UserWarning, match=r"is above the sampler's targets.*; it gets the last's"):
        check(grid.hi + grid.step / 2 + 1)
