"""What would fail only after training is found before anything is written."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
from torch._dynamo.testing import CompileCounterWithBackend

from manyshot import pipeline
from manyshot.cost import CostTable, subnet_macs
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check, check_ways
from manyshot.pipeline.checks import check_settings
from manyshot.pipeline.identity import weights_fingerprint
from manyshot.pipeline.opening import open_folder
from manyshot.pipeline.search_checks import check_joint
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import RunFolder
from manyshot.space import SearchSpace, choose
from manyshot.train import compiling, save_weights
from manyshot.writing import writing
from pipeline_runs import export_architecture, run, small


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.batch_size=4096"], "train.batch_size = 4096 is more than the 128 training images"),
        (
            ["finish.training.batch_size=129"],
            "finish.training.batch_size = 129 is more than the 128 training images",
        ),
        (["data.pad=8"], "data: pad must be below the side of the images (8 pixels), got 8"),
        (
            ["search.candidates=3"],
            "search.candidates = 3 are all drawn at random, because the searcher only learns from "
            "scores after the first 3, with search.generation = 3 after 3: raise search.candidates "
            "above 3, lower search.options.population, or set search.name = 'random'",
        ),
        (
            ["search.name=predictor", "search.options={}", "search.candidates=20"],
            "search.candidates = 20 are all drawn at random, because the searcher only learns from "
            "scores after the first 20, with search.generation = 3 after 21: raise "
            "search.candidates above 21, lower search.options.initial, or",
        ),
        (
            ["search.generation=6"],  # all six at once
            "search.candidates = 6 are all drawn at random, because the searcher only learns from "
            "scores after the first 3, with search.generation = 6 after 6: raise search.candidates "
            "above 6, set search.generation to 3 to 5, or",
        ),
        (
            ["search.generation=2", "search.candidates=4"],  # two are told when the last are asked
            "with search.generation = 2 after 4: raise search.candidates above 4, set "
            "search.generation to 3, or",
        ),
        (["device='cuda:1'"], "choose the GPU by the environment: CUDA_VISIBLE_DEVICES=1"),
    ],
    ids=str,
)
def test_found_before_anything_is_written(tmp_path, overrides, text):
    with pytest.raises(RecipeError) as caught:
        run(small(*overrides), tmp_path / "run")
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_mct_that_goes_on_from_a_tree_may_have_few_candidates():
    """As few as would all be drawn at random without one; settings alone do not tell."""
    recipe = small("search.name=mct", "search.options={rollouts=3}", "search.candidates=4")
    check_settings(recipe)
    with pytest.raises(RecipeError, match=r"after the first 12, .* lower search.options.rollouts"):
        check(Workspace.build(recipe))
    of_tree = small(
        "search.name=mct",
        "search.options={rollouts=3}",
        "search.candidates=4",
        "sampler={name = 'mct', options = {warmup = 0.1, build = 0.3}}",
    )
    check(Workspace.build(of_tree))


def test_batches_are_looked_at_before_a_network_is_made(tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a network was made")

    monkeypatch.setattr("manyshot.pipeline.build.build_supernet", never)
    for recipe, images in (
        (small("finish.training.batch_size=193", "finish.data='train+validation'"), 192),
        (small("shifting.name=population", "shifting.batch_size=193"), 128),
    ):
        for verb in (run, pipeline.preview):
            with pytest.raises(RecipeError, match=f"batch_size = 193 is more than the {images}"):
                verb(recipe, tmp_path / "run")


def test_settings_that_are_not_used_are_not_checked(tmp_path):
    overrides = ("finish.training.batch_size=999", "finish.mode=inherit", "search.candidates=3")
    random = ("search.name=random", "search.options={}")
    check(Workspace.build(small(*overrides, *random), world=1))


def test_batches_are_shared_by_all_processes(tmp_path):
    ws = Workspace.build(small())
    check(ws, world=2)
    with pytest.raises(RecipeError, match=r"train.batch_size = 32 is not a multiple of the 3 proc"):
        check(ws, world=3)


def test_sizes_that_grow_are_refused_where_a_network_takes_one_alone():
    grown = ("train.image_sizes=[4, 8]", "train.epochs=2")
    with pytest.raises(RecipeError, match=r"train.image_sizes: the network does not take .* 4 x 4"):
        check(Workspace.build(small("network.name=tiny_vit", "network.options={}", *grown)))
    with pytest.raises(
        RecipeError, match=r"train.image_sizes = \[.*4\] ends at 4 pixels, and images are of 8 x 8"
    ):
        check(Workspace.build(small("train.image_sizes=[4]", "train.epochs=2")))
    with pytest.raises(RecipeError, match="2 sizes need as many epochs, and there are 1"):
        check(Workspace.build(small("train.image_sizes=[4, 8]", "train.epochs=1")))
    ws = Workspace.build(small(*grown))
    check(ws)
    arch = ws.net.space.largest
    shapes = [(1, side, side) for side in (4, 8)]
    assert [ws.macs_at(shape[1])([arch])[0] for shape in shapes] == [
        subnet_macs(ws.net.extract(arch), shape) for shape in shapes
    ]
    assert weights_fingerprint(ws) != weights_fingerprint(Workspace.build(small("train.epochs=2")))


def test_packages_for_onnx_are_looked_for_first(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    recipe = small("export.formats=['onnx']")
    with pytest.raises(RecipeError, match=r"onnxscript.*pip install 'manyshot\[onnx\]'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="export.formats has 'onnx'"):
        export_architecture(recipe, base[0], "3-0-2-1")


def test_options_of_the_default_searcher_are_not_those_of_a_named_one():
    assert Recipe().search.options["population"] == 30
    assert Recipe.load(None, ["search.name=random"]).search.options == {}
    assert Recipe.load(None, ["search.candidates=9"]).search.options["population"] == 30


LISTED = np.array(list(itertools.product(range(4), repeat=9)))
"""All 262,144 architectures of nine decisions between four options."""


def opposed(seed):
    """A space, two costs of which one rises where the other falls, and the best of both."""
    rng = np.random.default_rng(seed)
    up_DO = rng.integers(1, 1000, (9, 4)).cumsum(1)
    down_DO = rng.integers(1, 1000, (9, 4)).cumsum(1)[:, ::-1]
    space = SearchSpace([choose((0, 1, 2, 3), f"d{i}") for i in range(9)])
    costs = {
        metric: CostTable(metric, (4,) * 9, 7, {(i,): table[i] for i in range(9)})
        for metric, table in (("macs", up_DO), ("params", down_DO))
    }
    total = {metric: table(LISTED) for metric, table in costs.items()}
    middle = (
        total["macs"] / total["macs"].mean() + total["params"] / total["params"].mean()
    ).argmin()
    return space, costs, {metric: int(total[metric][middle]) for metric in total}


@pytest.mark.parametrize("seed", range(4))
def test_limits_that_few_of_a_large_space_meet_are_accepted(seed):
    space, costs, limits = opposed(seed)
    within = (costs["macs"](LISTED) <= limits["macs"]) & (
        costs["params"](LISTED) <= limits["params"]
    )
    assert 1 <= within.sum() <= 5  # 4,097 random draws are as good as certain to miss them
    check_joint("both", space, costs, limits)


@pytest.mark.parametrize("seed", range(4))
def test_limits_that_exclude_each_other_are_proven_to(seed):
    space, costs, limits = opposed(seed)
    less = {metric: 0.98 * limit for metric, limit in limits.items()}
    within = (costs["macs"](LISTED) <= less["macs"]) & (costs["params"](LISTED) <= less["params"])
    assert not within.any()
    assert all((costs[metric](LISTED) <= less[metric]).any() for metric in less)
    with pytest.raises(RecipeError, match="no architecture is within its limits on macs and param"):
        check_joint("both", space, costs, less)


def test_what_is_not_found_and_not_proven_says_so():
    """Only one option of every decision is cheap in both costs, and nothing leads there."""
    space, target = SearchSpace([choose((0, 1, 2, 3), f"d{i}") for i in range(9)]), (1,) * 9
    needle = np.full((4,) * 9, 10)
    needle[target] = 1
    tables = {"macs": needle, "params": np.full((4,) * 9, 1)}
    costs = {m: CostTable(m, (4,) * 9, 0, {tuple(range(9)): t}) for m, t in tables.items()}
    with pytest.raises(RecipeError, match="none was found within all of it among 20,000 archite"):
        check_joint("both", space, costs, {"macs": 5, "params": 5})


MIXES = ("sampler.name=relaxed", "sampler.held_out=32")


@pytest.mark.parametrize("copies", [1, 2])
def test_mixed_options_are_refused_where_every_path_has_weights_of_its_own(copies):
    kshot = ("sharing.name=k_shot", f"sharing.options={{copies={copies}, code_every=2}}")
    with pytest.raises(RecipeError, match=r"sampler.name = 'relaxed' mixes options, and sharing"):
        check(Workspace.build(small(*MIXES, *kshot)))


@pytest.mark.parametrize(
    ("more", "world", "message"),
    [
        ((), 2, "an unrolled gradient is of one process, and 2 train together: take one, or"),
        (
            ("train.snapshots.number=2", "train.snapshots.epochs=0.25"),
            1,
            "set snapshots.number = 0, or take a schedule of first",
        ),
    ],
)
def test_a_step_that_cannot_be_unrolled_is_refused_before_anything_runs(more, world, message):
    unrolled = "sampler.options.schedule=unrolled"
    with pytest.raises(RecipeError, match=f"sampler.name = 'relaxed': .*{message}"):
        check(Workspace.build(small(*MIXES, unrolled, *more)), world)


def test_budgets_that_no_option_left_to_win_meets_are_refused():
    options = 'sampler.options={exclude=["project", "conv1", "sep3"]}'
    generated = ("search.name=generator", "search.options={}")
    with pytest.raises(
        RecipeError, match=r"budget 'macs<=20%' .* name fewer in sampler.options.ex"
    ):
        check(Workspace.build(small(*MIXES, options, *generated)))


def test_what_cannot_be_shared_out_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RecipeError, match=r"train: shard = true, and there is one process"):
        run(small("train.shard=true"), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").has_records
    ws = Workspace.build(small("train.shard=true"))
    check_ways(ws, 2)
    shrinks = replace(ws, recipe=small("train.shard=true", "shrink={name='angle', at=[0.5]}"))
    with pytest.raises(RecipeError, match=r"train: shard = true .* a space that shrinks"):
        check_ways(shrinks, 2)


def no_compiler(graph, inputs):
    raise RuntimeError("no g++ here")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of dynamo itself
def test_a_compiler_that_is_missing_is_known_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", no_compiler)
    with pytest.raises(RecipeError, match=r"train: compile = true, and .* no g\+\+ here"):
        run(small("train.compile=true"), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").has_records
    ws = Workspace.build(small("train.compile=true"))
    with pytest.raises(RecipeError, match=r"train: compile = true is for one process, and 2 train"):
        check_ways(ws, 2)
    check_ways(Workspace.build(small("train.compile=true", "train.epochs=0")), 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_a_run_trains_its_options_compiled_and_estimates_uncompiled(tmp_path, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiling, "BACKEND", counter)
    recipe = small("train.compile=true")
    assert not pipeline.preview(recipe, tmp_path / "none")["problems"]
    assert counter.frame_count == 1, "of the trial alone"
    pipeline.train_only(recipe, tmp_path / "run")
    assert counter.frame_count > 2 and RunFolder(tmp_path / "run").weights.exists()


def test_what_was_shared_out_is_searched_by_one_process(tmp_path):
    recipe = small("train.shard=true")
    ws, done = Workspace.build(recipe), RunFolder(tmp_path / "run")
    with writing(done.path, "manyshot train"):
        open_folder(done.path, ws.recipe, ws.memory_format, None)
    save_weights(done.weights, ws.net, weights_fingerprint(ws))
    assert run(recipe, done.path)["winners"]
