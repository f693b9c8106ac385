"""Few-shot splits that gradients choose: distances, groups, inheritance, resuming."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_nets import LOOK, digits, same, seeded, trainer, weights

import manyshot as ms
from manyshot import records
from manyshot.nn.mixing import Stacked
from manyshot.sharing.splits import bipartition
from manyshot.train import train
from manyshot.train.compute import Compute
from manyshot.train.splitting import gradient_distances

GRADIENTS = {
    "codes": "one_hot", "split": "gradients", "start": "equal", "warm_frac": 0.5, "split_batches": 2
}  # fmt: skip


class Twins(nn.Module):
    """Options 0 and 2 of the first decision compute the same; the second has two options."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(64, 8)
        twin = [nn.Linear(8, 8) for _ in range(3)]
        twin[2].load_state_dict(twin[0].state_dict())
        self.one = ms.nn.Choice({f"{i}": layer for i, layer in enumerate(twin)}, "one")
        self.two = ms.nn.Choice({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}, "two")
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))))


def k_shot(copies=2, **options):
    sharing = ms.sharing.KShot(copies, **{**GRADIENTS, **options})
    return seeded(lambda: ms.Supernet(Twins(), sharing=sharing))


def test_groups_have_the_largest_cut():
    """Against all subsets, by loops."""
    rng = np.random.default_rng(0)
    for count in (2, 3, 5):
        apart = rng.uniform(size=(count, count))
        apart = torch.from_numpy(apart + apart.T)
        groups, score = bipartition(apart)
        cuts = [
            sum(float(apart[i, j]) for i in inside for j in range(count) if j not in inside)
            for size in range(1, count)
            for inside in itertools.combinations(range(count), size)
        ]
        pairs = list(itertools.combinations(range(count), 2))
        assert score * len(pairs) == pytest.approx(max(cuts))
        across = sum(float(apart[i, j]) for i, j in pairs if groups[i] != groups[j])
        assert across == pytest.approx(max(cuts))
        assert groups[0] == 0
    apart = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert bipartition(apart)[0] == (0, 1, 0)  # equal options stay together


def test_gradients_that_split_are_counted_as_they_run():
    """Every option of both decisions on 2 batches of 32: against the forwards that ran."""
    net, ran = k_shot(), []
    run = trainer(net, factories={"macs_of": lambda archs: ms.cost.macs(net, archs, (1, 8, 8))})
    forward = net.forward
    net.forward = lambda images, arch, **how: (
        ran.append(len(images)) or forward(images, arch, **how)
    )
    batches = list(itertools.islice(run.batches.from_step(0), 2))
    gradient_distances(
        run.optimisation,
        batches,
        net.sharing.candidates(),
        np.random.default_rng(4),
        run.compute,
    )
    assert ran == [32] * (2 * (3 + 2))
    each = 64 * 8 + 8 * 8 + 8 * 8 + 8 * 10  # whatever the options, which are all of one size
    assert run.compute.split_macs == 3 * sum(ran) * each
    assert (run.compute.macs, run.compute.weight_steps) == (0, 0)


def test_distances_are_those_of_plain_networks():
    """Of gradients of an extracted network, in what all options share."""
    net = k_shot()
    run = trainer(net)
    batches = list(itertools.islice(run.batches.from_step(0), 2))
    before = weights(net)
    found = gradient_distances(
        run.optimisation, batches, net.sharing.candidates(), np.random.default_rng(4)
    )
    assert same(before, weights(net))
    assert all(parameter.grad is None for parameter in net.parameters()) and net.training
    one, rng = seeded(lambda: ms.Supernet(Twins())), np.random.default_rng(4)
    by_hand = {name: np.zeros((n, n)) for name, n in (("one", 3), ("two", 2))}
    for images, labels in batches:
        for at, (name, count) in enumerate((("one", 3), ("two", 2))):
            path, grads = list(one.space.sample(rng)), []
            for option in range(count):
                path[at] = option
                subnet = one.extract(tuple(path))
                F.cross_entropy(subnet(images), labels).backward()
                shared = ["stem", "head", "two" if name == "one" else "one"]
                grads.append(
                    torch.cat([p.grad.flatten() for part in shared
                               for p in getattr(subnet, part).parameters()])
                )  # fmt: skip
            for i, j in itertools.product(range(count), repeat=2):
                cosine = float(grads[i] @ grads[j] / grads[i].norm() / grads[j].norm())
                by_hand[name][i, j] += (1 - cosine) / len(batches)
    for decision, apart in found.items():
        np.testing.assert_allclose(apart.numpy(), by_hand[decision.name], atol=1e-5)
    assert float(found[net.space.decisions[0]][0, 2]) == pytest.approx(0, abs=1e-6)


def test_the_split_is_made_once_recorded_and_inherited(tmp_path):
    net = k_shot(4)
    run = trainer(net, tmp_path, epochs=2, log_steps=2)
    seen = []
    split_by = net.sharing.split_by

    def splitting(apart):
        seen.append((run.step, [
            all(torch.equal(part, stack[0]) for part in stack)
            for m in net.modules() if isinstance(m, Stacked)
            for stack in map(m._parameters.get, m._stacks)
        ]))  # fmt: skip
        split_by(apart)

    run.net.sharing.split_by = splitting
    assert net.sharing.code([(0, 0)]).tolist() == [[0.25] * 4]
    train(run)
    [(step, equal)] = seen
    assert step == 4 and equal and all(equal)  # half of eight; slices are one copy until then
    rows = records.read_lines(tmp_path / "train.jsonl")
    assert ["splits" in row for row in rows] == [False, False, True, False]
    told = {split["decision"]: split["groups"] for split in rows[2]["splits"]}
    assert told.keys() == {"one", "two"} and told["two"] == [0, 1]
    order = [split["decision"] for split in rows[2]["splits"]]
    codes = net.sharing.code(list(net.space.enumerate()))
    for arch, code in zip(net.space.enumerate(), codes, strict=True):
        groups = {"one": told["one"][arch[0]], "two": told["two"][arch[1]]}
        used = sum(groups[name] * 2**bit for bit, name in enumerate(order))
        assert code.tolist() == [float(k == used) for k in range(4)]  # in exactly one leaf
    other = k_shot(4)
    other.load_state_dict(net.state_dict())
    assert other.sharing.chosen() == [
        (next(d for d in other.space.decisions if d.name == o.name), groups)
        for o, groups in net.sharing.chosen()
    ]


class Widths(nn.Module):
    """An elastic width, whose options share the first entries of two tensors and of a norm."""

    def __init__(self):
        super().__init__()
        width = ms.Decision([4, 8, 6], "width")
        self.first = ms.nn.Linear(64, width)
        self.norm = ms.nn.LayerNorm(width)
        self.last = ms.nn.Linear(width, 10)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x.flatten(1)))))


def test_of_elastic_tensors_only_what_all_options_use_is_compared():
    """Entries that the narrow options cut away are no disagreement."""
    sharing = ms.sharing.KShot(2, **GRADIENTS)
    net = seeded(lambda: ms.Supernet(Widths(), sharing=sharing))
    run, asked = trainer(net), []
    batches = list(itertools.islice(run.batches.from_step(0), 1))
    rng = np.random.default_rng(4)
    compute = Compute(lambda archs: asked.extend(archs) or [1], (0,))
    [apart] = gradient_distances(
        run.optimisation, batches, sharing.candidates(), rng, compute
    ).values()
    assert asked == [(0,), (1,), (2,)]
    one, [(images, labels)] = seeded(lambda: ms.Supernet(Widths())), batches
    grads = []
    for option in range(3):
        subnet = one.extract((option,))
        F.cross_entropy(subnet(images), labels).backward()
        parts = (subnet.first.weight.grad[:4], subnet.first.bias.grad[:4],
                 subnet.norm.weight.grad[:4], subnet.norm.bias.grad[:4],
                 subnet.last.weight.grad[:, :4], subnet.last.bias.grad)  # fmt: skip
        grads.append(torch.cat([part.flatten() for part in parts]))
    for i, j in itertools.combinations(range(3), 2):
        cosine = F.cosine_similarity(grads[i], grads[j], dim=0)
        assert float(apart[i, j]) == pytest.approx(1 - float(cosine), abs=1e-5)


def test_what_a_split_costs_is_counted():
    """In the test's network paths cost 1, so that batches, passes and steps remain."""
    spent = []
    for codes in ({}, {"split": "one", "split_batches": 20}):
        run = trainer(k_shot(**codes), factories={"macs_of": lambda archs: [1 for _ in archs]})
        train(run)
        assert run.compute.macs == 3 * 32 * run.steps
        spent.append(run.compute.split_macs)
    assert spent[1] == 0
    assert spent[0] == 3 * 32 * 2 * (3 + 2)  # two batches, five options in all


def test_a_split_between_two_epochs_is_counted_at_the_sizes_that_its_batches_have():
    """One batch is the last of images of 4 pixels, the next the first of 8."""
    sharing = ms.sharing.KShot(2, **{**GRADIENTS, "warm_frac": 3 / 8})
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4), sharing=sharing))
    growth = ms.data.Growth((4, 8), 2)
    run = trainer(
        net,
        batches=ms.data.Batches(digits(128).train, 32, growth=growth, **LOOK),
        image_sizes=[4, 8],
        factories={
            "macs_of": lambda archs: [0] * len(archs),
            "macs_at": lambda side: lambda archs: [side] * len(archs),
        },
    )
    train(run)
    options = sum(len(decision.options) for decision in sharing.candidates())
    assert run.compute.split_macs == 3 * 32 * options * (4 + 8)
    assert run.compute.macs == 3 * 128 * (4 + 8)


@pytest.mark.parametrize("stop", [3, 5])
def test_stopped_before_or_after_the_split_it_ends_the_same(tmp_path, stop):
    whole = trainer(k_shot(), tmp_path / "whole", checkpoint_steps=1)
    train(whole)
    killed = trainer(k_shot(), tmp_path / "killed", checkpoint_steps=1)
    save = killed.save

    def saving():
        save()
        if killed.step == stop:
            raise KeyboardInterrupt

    killed.save = saving
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    again = trainer(k_shot(), tmp_path / "killed", checkpoint_steps=1)
    train(again)
    assert same(weights(whole.net), weights(again.net))
    lines = [records.read_lines(tmp_path / name / "train.jsonl") for name in ("whole", "killed")]
    splits = [[row.get("splits") for row in rows] for rows in lines]
    assert splits[0] == splits[1] and any(splits[0])


def test_one_copy_has_nothing_to_split():
    run = trainer(k_shot(1))
    train(run)
    assert run.net.sharing.chosen() == [] and run.net.sharing.code([(0, 0)]).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "independent"}, "needs one copy that trains before it is split"),
        ({"warm_frac": None}, "needs one copy that trains before it is split"),
        (
            {"warm_frac": 1.0},
            "needs steps after the warm-up, in which paths have codes of their own",
        ),
        ({"codes": "learnt"}, "needs codes that give every path one slice, and here codes"),
        ({"copies": 3}, "copies = 3: take copies = 2, 4, 8"),
        ({"copies": 8}, "copies = 8 is 3 splits, and 2 decisions"),
    ],
)
def test_what_cannot_be_split_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        k_shot(**options)
