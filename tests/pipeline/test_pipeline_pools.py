"""Runs in which the search begins with what the sampler knows, and whose training it ends."""

import pytest

from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages.generate import sampler_of_search, trained_sampler
from manyshot.pipeline.verbs.preview import preview
from manyshot.run_folder import RunFolder
from manyshot.search import Evolution, MCTSearch
from manyshot.train import Forwarding, Uniform
from pipeline_runs import lines, run, small

GREEDY = (
    "sampler={name = 'greedy', held_out = 32, options = {proposed = 3, trained = 2, images = 32, "
    "size = 2, stop = 0.5, compare = 0.2}}"
)
REST = ("finish.mode=inherit", "train.epochs=5", "train.batch_size=32")
SEARCH = (
    "search={name = 'evolution', candidates = 12, generation = 6, budgets = ['macs<=85%'], "
    "options = {population = 6, parents = 2, mutants = 3, crossovers = 3}}"
)


class Wrapped(Forwarding):
    """Uniform sampling, in a wrapper."""

    def __init__(self, space):
        super().__init__(Uniform(space))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, which tests only read: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("pools")
    recipe = small(GREEDY, SEARCH, *REST)
    return folder, recipe, run(recipe, folder)


def test_the_search_begins_with_the_pool_within_the_budget(finished):
    folder, recipe, result = finished
    ws = Workspace.build(recipe)
    space, [limit] = ws.net.space, ws.limits()
    sampler = trained_sampler(ws, folder)
    pool = [a for a in map(space.canonical, sampler.pool()) if limit.satisfied([a])[0]]
    assert pool
    searched = [row["arch"] for row in lines(folder, "search.jsonl")]
    assert searched[: len(pool)] == list(map(space.to_text, dict.fromkeys(pool)))
    # and the verdict does not count them as drawn at random
    assert result["verdict"]["random_networks"] == 6 - len(set(pool))


def test_training_ends_early_and_what_was_forwarded_is_counted(finished):
    folder, recipe, result = finished
    steps = RunFolder(folder).train_lines()
    last = steps[-1].step
    assert last < 20 and lines(folder, "sampler.jsonl")[-1]["ended"]
    assert result["images_forwarded"]["train"] == last * 32 * 2
    assert result["images_forwarded"]["probe"] == steps[-1].probed_images


def test_searching_again_and_with_the_supernet_of_another_run_is_the_same(finished, tmp_path):
    folder, recipe, result = finished
    again = run(recipe, tmp_path / "again", trained=folder)
    assert [w["arch"] for w in again["winners"]] == [w["arch"] for w in result["winners"]]
    assert again["images_forwarded"] == result["images_forwarded"]
    both = (lines(path, "search.jsonl") for path in (tmp_path / "again", folder))
    one, other = ([(row["arch"], row["proxy_loss"]) for row in rows] for rows in both)
    assert one == other


def test_who_gets_a_sampler(finished, tmp_path):
    folder, recipe, _ = finished
    ws = Workspace.build(recipe)
    assert ws.may_end_early
    assert sampler_of_search(ws, folder).pool()
    with pytest.raises(records.RecordError, match=r"has no sampler.pt: train it first"):
        sampler_of_search(ws, tmp_path)
    uniform = Workspace.build(small(SEARCH))
    assert not uniform.may_end_early
    assert not Workspace.build(small(f"sampler.name={__name__}:Wrapped")).may_end_early
    assert isinstance(sampler_of_search(uniform, tmp_path), Uniform)  # which learns nothing
    random = Workspace.build(small(GREEDY, "search={name = 'random', candidates = 6}", *REST))
    assert sampler_of_search(random, tmp_path) is None  # nor does it read a file
    assert isinstance(ws.searcher(ws.limits()), Evolution)


def test_a_dry_run_says_at_most(finished, tmp_path):
    told = preview(finished[1], tmp_path / "new")
    assert "by greedy sampling: at most 5 epochs of" in told["steps"][0]


def test_mct_goes_on_from_its_tree(tmp_path):
    recipe = small(
        "sampler={name = 'mct', options = {warmup = 0.1, build = 0.3}}",
        "search={name = 'mct', candidates = 4, generation = 4, budgets = ['macs<=85%']}",
        *REST,
    )
    result = run(recipe, tmp_path)
    ws = Workspace.build(recipe)
    sampler = trained_sampler(ws, tmp_path)
    assert sampler.tree.children()[0].sum() == 19  # of 20 steps, all but the first
    searcher = ws.searcher(ws.limits(), sampler)
    assert isinstance(searcher, MCTSearch) and searcher.random_start == 0
    asked = [ws.net.space.to_text(arch) for arch in searcher.ask(4)]
    assert [row["arch"] for row in lines(tmp_path, "search.jsonl")] == asked
    assert result["verdict"]["random_networks"] == 0
