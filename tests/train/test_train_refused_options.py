"""Options of K-shot sharing that need others: refused where they change nothing, and only there."""

import pytest
import torch
from torch import nn
from train_nets import same, seeded, trainer, weights

import manyshot as ms
from manyshot.sharing import k_shot
from manyshot.sharing.refusals import NEEDS
from manyshot.train import train

UNIFORM, RANDOM, HARD = ({"codes": codes} for codes in ("uniform", "random", "one_hot"))
JOINT, SPLIT = {"update_mode": "joint"}, {**HARD, "start": "equal", "warm_frac": 0.25}
NO_LOSS, NO_FACTOR = {"regulariser": "none"}, {"beta": 0.0}


class Elastic(nn.Module):
    """A width of four options, a choice, and a batch norm."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 4, 6, 8), "width")
        self.one, self.norm = ms.nn.Linear(64, width), ms.nn.BatchNorm1d(width)
        self.two = ms.nn.Linear(width, 8)
        self.three = ms.nn.Choice({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}, "three")
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.one(images.flatten(1))))
        return self.head(self.three(torch.relu(self.two(hidden))))


class Fixed(nn.Module):
    """The same without a width."""

    def __init__(self):
        super().__init__()
        self.three = ms.nn.Choice({"a": nn.Linear(64, 8), "b": nn.Linear(64, 8)}, "three")
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(torch.relu(self.three(images.flatten(1))))


def trained(make, options):
    """The weights of all paths after a short training."""
    net = seeded(lambda: ms.Supernet(make(), sharing=ms.sharing.KShot(2, seed=1, **options)))
    run = trainer(net, epochs=3)
    train(run)
    named = {n: t for n, t in weights(net).items() if n.startswith("model.")}
    codes = net.sharing.code(list(net.space.enumerate())).detach()
    return {**named, "codes": codes}


WITHOUT_EFFECT = [
    *(
        (Elastic, {option: value}, beside)
        for option, value in {
            "m": 2, "lr": 0.1, "optimizer": "sgd", "entropy_floor": 0.9, "code_every": 2,
            "width_settings": "independent", "regulariser": "cos", "beta": 3.0,
            "update_mode": "joint",
        }.items()
        for beside in (UNIFORM, RANDOM, HARD)
    ),
    *(
        (Elastic, {option: value}, beside)
        for option, value in {
            "hidden": 3, "tau": 5.0, "last_std": 2.0, "code_scope": "layer"
        }.items()
        for beside in (UNIFORM, HARD)
    ),
    (Elastic, {"warm_frac": 0.5}, UNIFORM),
    (Elastic, {"compensate": False}, HARD),
    (Elastic, {"m": 2}, JOINT),
    (Elastic, {"code_every": 2}, JOINT),
    (Elastic, {"split": "three"}, {}),
    (Elastic, {"split": "three"}, RANDOM),
    (Elastic, {"split_batches": 1}, HARD),
    (Elastic, {"split_batches": 1}, {**HARD, "split": "three"}),
    (Elastic, {"beta": 3.0}, NO_LOSS),
    (Elastic, {"regulariser": "cos"}, NO_FACTOR),
    (Elastic, {"width_settings": "independent"}, NO_LOSS),
    (Elastic, {"width_settings": "independent"}, NO_FACTOR),
    (Fixed, {"regulariser": "cos"}, {}),
    (Fixed, {"beta": 3.0}, {}),
    (Fixed, {"width_settings": "independent"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "option", "beside"), WITHOUT_EFFECT)
def test_what_is_refused_would_change_nothing(make, option, beside, monkeypatch):
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=rf"^KShot: {name} = {value!r} needs .*: take .*, or lea"):
        ms.Supernet(make(), sharing=ms.sharing.KShot(2, **option, **beside))
    monkeypatch.setattr(k_shot, "refuse_without_effect", lambda *_: None)
    assert same(trained(make, {**option, **beside}), trained(make, beside))


WITH_EFFECT = [
    ({"m": 2}, {"code_every": 2}),
    ({"lr": 0.1}, {"code_every": 2}),
    ({"lr": 0.1}, JOINT),
    ({"optimizer": "sgd"}, {"code_every": 2}),
    ({"entropy_floor": 0.99}, {"code_every": 2, "last_std": 3.0}),
    ({"entropy_floor": 0.99}, {**JOINT, "last_std": 3.0}),
    ({"code_every": 2}, {}),
    ({"width_settings": "independent"}, {"code_every": 2}),
    ({"regulariser": "cos"}, {"code_every": 2}),
    ({"beta": 3.0}, {"code_every": 2}),
    ({"update_mode": "joint"}, {}),
    ({"hidden": 3}, {}),
    ({"hidden": 3}, RANDOM),
    ({"tau": 5.0}, {}),
    ({"tau": 5.0}, RANDOM),
    ({"last_std": 2.0}, {}),
    ({"last_std": 2.0}, RANDOM),
    ({"last_std": 0.0}, {}),
    ({"code_scope": "channel"}, RANDOM),
    ({"start": "equal"}, {}),
    ({"start": "equal"}, RANDOM),
    ({"start": "equal"}, HARD),
    ({"warm_frac": 0.5}, {"code_every": 3}),
    ({"warm_frac": 0.5}, RANDOM),
    ({"warm_frac": 0.5}, HARD),
    ({"compensate": False}, {}),
    ({"compensate": False}, UNIFORM),
    ({"compensate": False}, {**HARD, "warm_frac": 0.5}),
    ({"split": "three"}, HARD),
    ({"split": "gradients"}, SPLIT),
]


@pytest.mark.parametrize(("option", "beside"), WITH_EFFECT)
def test_what_is_allowed_changes_something(option, beside):
    assert not same(trained(Elastic, {**option, **beside}), trained(Elastic, beside))


def test_every_option_with_a_need_is_tried():
    refused = {name for _, option, _ in WITHOUT_EFFECT for name in option}
    assert refused | {"start"} == set(NEEDS)
    assert {name for option, _ in WITH_EFFECT for name in option} == set(NEEDS) - {"split_batches"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "equal", **UNIFORM}, "start = 'equal' needs codes that tell slices apart, and"),
        (
            {"start": "equal", "warm_frac": 0.3, **UNIFORM},
            "start = 'equal' needs codes that tell slices apart, and here codes = 'uniform': take "
            "codes = 'learnt' or 'random' or 'one_hot', or leave start out",
        ),
        ({"start": "equal", "last_std": 0.0}, "and here codes = 'learnt', start = 'equal': take "),
        ({"last_std": 0.0, **RANDOM}, "last_std = 0.0 needs to be above 0 unless"),
        ({"warm_frac": 1.0}, "warm_frac = 1.0 needs steps after the warm-up"),
        ({"lr": 0.5, **RANDOM}, "lr = 0.5 needs codes that are learnt, and here codes = 'random'"),
    ],
)
def test_an_error_says_what_is_needed_and_the_way_out(options, words):
    with pytest.raises(ValueError, match=words):
        ms.sharing.KShot(4, **options)


def test_one_copy_is_a_control_of_everything():
    """Whatever a recipe says beside it."""
    ms.sharing.KShot(1, codes="uniform", lr=0.5, split="three", tau=2.0)
