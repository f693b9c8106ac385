"""Two processes that share out parameters, against two that each hold all of them."""

import sys

import pytest
import shards_worker
import torch
from torch import nn
from train_nets import Dropping, same

import manyshot as ms
from manyshot.recipe import Recipe, SupernetSettings
from manyshot.train import Stateless
from manyshot.train.sharding import blocks_of, check_shards
from two_processes import two_processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for process in two_processes([sys.executable, shards_worker.__file__, str(folder)]):
        assert process.returncode == 0, process.errors
    return folder, [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", ["operations", "vit"])
def test_weights_are_those_of_whole_copies_bit_for_bit(ranks, name):
    for result in ranks[1]:
        one, two = result[name, False], result[name, True]
        assert same(one["weights"], two["weights"])
        assert one["strides"] == two["strides"]


@pytest.mark.parametrize("name", ["cnn", "paths"])
def test_they_differ_by_the_order_of_sums_alone(ranks, name):
    """In parts, clipped, by SGD, and by AdamW of the sums over several paths a step."""
    for result in ranks[1]:
        one, two = result[name, False]["weights"], result[name, True]["weights"]
        for tensor_name, tensor in one.items():
            torch.testing.assert_close(two[tensor_name], tensor, rtol=1e-10, atol=1e-10)
    assert same(ranks[1][0][name, True]["weights"], ranks[1][1][name, True]["weights"])


@pytest.mark.parametrize("name", list(shards_worker.RUNS))
def test_each_process_holds_about_half(ranks, name):
    """Rows of a tensor that two do not divide go to the first, and counts of steps to both."""
    parts = [result[name, True]["held"] for result in ranks[1]]
    whole = ranks[1][0][name, False]["held"]
    assert whole <= sum(parts) < 1.02 * whole
    assert max(parts) < 0.6 * whole


def test_the_checkpoint_is_that_of_whole_copies(ranks):
    one, two = (
        torch.load(ranks[0] / f"operations-{shard}" / "trainer.pt", weights_only=True)
        for shard in (False, True)
    )
    assert one.keys() == two.keys()
    assert same(one["weights"], two["weights"])
    before, now = one["optimizer"], two["optimizer"]
    assert before["state"].keys() == now["state"].keys()
    for index, state in before["state"].items():
        assert same(state, now["state"][index])


def test_a_killed_training_goes_on_to_the_same_weights(ranks):
    for result in ranks[1]:
        assert same(result["resumed"], result["operations", True]["weights"])


def test_other_paths_in_one_process_end_the_training_in_all(ranks):
    for result in ranks[1]:
        assert "the sampler drew other paths in one process than in another" in result["apart"]


class Probing(Stateless):
    """Asks for losses on held-out images."""

    probes = True


def refusal(net=None, sampler=None, processes=2, shrinks=False, factory=False, **settings):
    net = net or ms.Supernet(Dropping())
    with pytest.raises(ValueError, match="shard = true") as caught:
        check_shards(
            net,
            sampler or Stateless(),
            SupernetSettings(shard=True, **settings),
            processes,
            shrinks=shrinks,
            factory=factory,
        )
    return str(caught.value)


def test_what_has_not_been_seen_to_work_is_refused_by_name():
    assert "there is one process" in refusal(processes=1)
    assert "sharing by KShot" in refusal(ms.Supernet(Dropping(), sharing=ms.sharing.KShot(2)))
    assert "sampler Probing" in refusal(sampler=Probing())
    assert "a space that shrinks" in refusal(shrinks=True)
    assert "an optimizer of your own" in refusal(factory=True)
    assert "optimizer = 'lamb'" in refusal(optimizer="lamb")
    assert "sgld = 0.5" in refusal(sgld=0.5)
    assert "snapshots.number = 2" in refusal(snapshots={"number": 2}, epochs=50)
    compiled = ms.Supernet(Dropping())
    compiled.compile_options()
    assert "compiled options" in refusal(compiled)
    tied = Dropping()
    tied.two.options["a"].bias = tied.one.options["4"][1].bias
    assert "one.options.4.1.bias" in refusal(ms.Supernet(tied))
    mixed = ms.Supernet(Dropping())
    mixed.model.head.double()
    assert "torch.float32 and torch.float64" in refusal(mixed)


def test_a_search_that_trains_the_supernet_is_refused_beside_it():
    assert Recipe(train={"shard": True}).train.shard
    with pytest.raises(ValueError, match="shifting.name = 'population' trains the whole supernet"):
        Recipe(train={"shard": True}, shifting={"name": "population"})


class Around(nn.Module):
    """A choice, of which one option has no parameters, and something beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = ms.nn.Choice({"a": nn.Linear(64, 64), "b": nn.Tanh()}, "choice")
        self.beside = nn.Linear(64, 64)

    def forward(self, x):
        return self.beside(self.choice(x))


def test_blocks_are_options_and_items_of_lists_and_come_before_what_holds_them():
    around, head = Around(), nn.Sequential(nn.ReLU(), nn.Linear(64, 10))
    deep = ms.nn.Depth([nn.Linear(64, 64), nn.Linear(64, 64)], (1, 2), "deep")
    stage = nn.Sequential(around, deep, ms.nn.Choice([nn.Linear(64, 64), nn.ReLU()], "last"))
    net = ms.Supernet(nn.Sequential(nn.Flatten(), stage, head))
    options = [around.choice.options["a"], stage[2].options["0"]]
    assert blocks_of(net) == [options[0], around, *deep.blocks, options[1], head]
