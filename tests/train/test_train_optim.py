"""Optimisers and schedules against closed forms and hand-made updates."""

import copy
import functools
import math
import sys

import pytest
import torch
from torch import nn
from train_nets import trainer

import manyshot as ms
from manyshot.train import Standalone, TrainingSettings
from manyshot.train.optim import (
    as_far_as_it_has,
    decay_groups,
    learning_rate,
    make_optimizer,
)
from small_zoo import small


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.embedding = nn.Parameter(torch.zeros(3))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.bias_free = nn.Linear(4, 4, bias=False)


def names_by_decay(net: nn.Module, decay: float) -> dict[float, list[str]]:
    names = {id(p): n for n, p in net.named_parameters()}
    return {
        group["weight_decay"]: [names[id(p)] for p in group["params"]]
        for group in decay_groups(net, decay)
    }


def test_biases_and_norms_do_not_decay_and_tied_weights_come_once():
    groups = names_by_decay(Everything(), 0.1)
    assert sorted(groups[0.1]) == ["bias_free.weight", "conv.weight", "embedding", "first.weight"]
    norms = [f"{n}.{p}" for n in ("norm", "group", "layer") for p in ("bias", "weight")]
    biases = ["conv.bias", "first.bias", "second.bias", "rms.weight"]
    assert sorted(groups[0.0]) == sorted(norms + biases)


def test_norms_of_a_supernet_do_not_decay():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = ms.choose((2, 4), "width")
            self.conv = ms.nn.Conv2d(1, width, 3)
            self.norm = ms.nn.BatchNorm2d(width)
            self.plain = nn.BatchNorm2d(3)
            self.head = ms.nn.Linear(width, 2)

    groups = names_by_decay(ms.Supernet(Net()), 0.1)
    assert sorted(groups[0.1]) == ["model.conv.weight", "model.head.weight"]
    assert len(groups[0.0]) == 6


@pytest.mark.parametrize("network", ms.zoo.NETWORKS)
def test_every_parameter_of_the_zoo_is_in_one_group(network):
    net = ms.Supernet(small(network))
    parameters = [p for group in decay_groups(net, 0.1) for p in group["params"]]
    assert len({id(p) for p in parameters}) == len(parameters) == len(list(net.parameters()))
    assert all(p.dim() > 1 for p in decay_groups(net, 0.1)[0]["params"])


def one_parameter(settings: TrainingSettings, gradients: list[float]) -> float:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer(layer, settings)
    for gradient in gradients:
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
    return layer.weight.item()


def test_sgd_is_nesterov_with_decay():
    settings = TrainingSettings(lr=0.1, momentum=0.9, weight_decay=0.01)
    w, velocity = 2.0, 0.0
    for gradient in (1.0, -0.5):
        decayed = gradient + 0.01 * w
        velocity = 0.9 * velocity + decayed
        w -= 0.1 * (decayed + 0.9 * velocity)
    assert one_parameter(settings, [1.0, -0.5]) == pytest.approx(w, abs=1e-12)
    plain = one_parameter(TrainingSettings(lr=0.1, momentum=0.0, weight_decay=0.0), [1.0, -0.5])
    assert plain == pytest.approx(2 - 0.05, abs=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sgd_moves_what_a_step_uses_as_torch_does_and_nothing_else(momentum, layout):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(3, 2)).to(
        memory_format=layout
    )
    theirs = copy.deepcopy(ours)
    settings = TrainingSettings(lr=0.1, momentum=momentum, weight_decay=0.1)
    optimizer = make_optimizer(ours, settings)
    plain = torch.optim.SGD(
        decay_groups(theirs, 0.1), 0.1, momentum, nesterov=momentum > 0, fused=False
    )
    for used in ([0], [0, 1], [1], [0, 2], [0, 1, 2], [2]):
        before = copy.deepcopy(ours.state_dict())
        optimizer.zero_grad()
        plain.zero_grad()
        for i in used:
            pairs = zip(ours[i].parameters(), theirs[i].parameters(), strict=True)
            for parameter, other in pairs:
                parameter.grad = torch.randn(parameter.shape)  # contiguous, whatever the weight is
                other.grad = parameter.grad.clone()
        optimizer.step()
        plain.step()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], atol=1e-6, rtol=1e-6)
            if int(name[0]) not in used:
                assert torch.equal(tensor, before[name])


def test_sparse_gradients_move_embeddings():
    table = nn.Embedding(3, 2, sparse=True)
    before = table.weight.detach().clone()
    settings = TrainingSettings(lr=0.1, momentum=0.0, weight_decay=0.0)
    optimizer = make_optimizer(table, settings)
    table(torch.tensor([1])).sum().backward()
    optimizer.step()
    before[1] -= 0.1
    torch.testing.assert_close(table.weight.detach(), before)


def test_sgd_goes_on_exactly_from_its_state_and_from_one_that_was_not_fused():
    torch.manual_seed(0)
    settings = TrainingSettings(lr=0.1, momentum=0.9, weight_decay=0.1)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    grads = [torch.randn(3, 3) for _ in range(4)]

    def steps(layer, optimizer, some):
        for grad in some:
            optimizer.zero_grad()
            layer.weight.grad = grad.clone()
            optimizer.step()

    whole, parted = copy.deepcopy(net), copy.deepcopy(net)
    steps(whole[0], make_optimizer(whole, settings), grads)
    first = make_optimizer(parted, settings)
    steps(parted[0], first, grads[:2])
    second = make_optimizer(parted, settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(parted[0], second, grads[2:])
    assert torch.equal(whole[0].weight, parted[0].weight)

    old = copy.deepcopy(net)
    plain = torch.optim.SGD(decay_groups(old, 0.1), 0.1, 0.9, nesterov=True)
    steps(old[0], plain, grads[:2])
    state = copy.deepcopy(plain.state_dict())
    steps(old[0], plain, grads[2:])
    resumed = copy.deepcopy(net)
    steps(
        resumed[0], torch.optim.SGD(decay_groups(resumed, 0.1), 0.1, 0.9, nesterov=True), grads[:2]
    )
    now = make_optimizer(resumed, settings)
    now.load_state_dict(state)
    steps(resumed[0], now, grads[2:])
    torch.testing.assert_close(old[0].weight, resumed[0].weight, atol=1e-6, rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    settings = TrainingSettings(optimizer="adamw", lr=0.1, weight_decay=0.5)
    w = 2.0 * (1 - 0.1 * 0.5) - 0.1 * 1.0 / (1.0 + 1e-8)  # the first step is the sign
    assert one_parameter(settings, [3.0]) == pytest.approx(w, abs=1e-7)


STEPS, PER_EPOCH = 100, 10


def rates(**settings) -> list[float]:
    recipe = TrainingSettings(lr=0.4, **settings)
    return [learning_rate(recipe, step, STEPS, PER_EPOCH) for step in range(STEPS)]


def test_schedules_without_warm_up():
    assert rates(schedule="constant") == [0.4] * STEPS
    assert rates(schedule="linear") == pytest.approx([0.4 * (1 - t / 100) for t in range(STEPS)])
    cosine = [0.2 * (1 + math.cos(math.pi * t / 100)) for t in range(STEPS)]
    assert rates(schedule="cosine") == pytest.approx(cosine)


def test_a_schedule_ends_at_min_lr_as_those_of_torch_do():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.1)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rates(min_lr=0.1) == pytest.approx(expected)
    linear = [0.4 - 0.3 * t / 100 for t in range(STEPS)]
    assert rates(schedule="linear", min_lr=0.1) == pytest.approx(linear)
    warm = rates(min_lr=0.1, warmup_epochs=2)
    assert warm[:20] == rates(warmup_epochs=2)[:20], "it rises from 0 all the same"
    assert warm[20] == pytest.approx(0.4)


def test_a_rate_that_cannot_go_down_to_its_end_is_refused():
    with pytest.raises(ValueError, match="min_lr = 0.5 is above lr = 0.4"):
        TrainingSettings(lr=0.4, min_lr=0.5)
    with pytest.raises(ValueError, match="schedule = 'constant' keeps it"):
        TrainingSettings(lr=0.4, min_lr=0.1, schedule="constant")
    rms = {"optimizer": functools.partial(torch.optim.RMSprop, lr=0.01)}
    with pytest.raises(ValueError, match="min_lr = 0.02 is above the rate of the optimizer, 0.01"):
        trainer(min_lr=0.02, factories=rms)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_linearly_and_the_rest_starts_at_the_full_rate(schedule):
    warm = rates(schedule=schedule, warmup_epochs=2)
    assert warm[:20] == pytest.approx([0.4 * (t + 1) / 21 for t in range(20)])
    assert warm[20] == pytest.approx(0.4)
    rest = TrainingSettings(lr=0.4, schedule=schedule)
    assert warm[20:] == pytest.approx([learning_rate(rest, t, 80, 10) for t in range(80)])


def test_warm_up_of_a_fraction_of_an_epoch():
    warm = rates(schedule="linear", warmup_epochs=0.25)  # two and a half steps
    assert warm[:3] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4])
    assert all(later < earlier for earlier, later in zip(warm[2:], warm[3:], strict=False))


def test_warm_up_longer_than_the_training():
    assert rates(warmup_epochs=20)[-1] == pytest.approx(0.4 * 100 / 201)


def by_hand(gradients: list[tuple[float, float]], decay: float) -> list[float]:
    """LAMB (You et al. 2020, algorithm 2) of one parameter of two numbers, that begins as 2, -1."""
    w, m, v = [2.0, -1.0], [0.0, 0.0], [0.0, 0.0]
    for step, gradient in enumerate(gradients, 1):
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradient, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradient, strict=True)]
        update = [
            (a / (1 - 0.9**step)) / (math.sqrt(b / (1 - 0.999**step)) + 1e-6) + decay * x
            for a, b, x in zip(m, v, w, strict=True)
        ]
        trust = math.hypot(*w) / math.hypot(*update)
        w = [x - 0.1 * trust * u for x, u in zip(w, update, strict=True)]
    return w


def test_lamb_is_that_of_its_paper_and_leaves_alone_what_has_no_gradient():
    pytest.importorskip("timm")
    layer = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)).double()
    layer[0].weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    still = layer[1].weight.detach().clone()
    optimizer = make_optimizer(layer, TrainingSettings(optimizer="lamb", lr=0.1, weight_decay=0.3))
    gradients = [(100.0, 3.0), (0.5, -1.0)]  # clipping the first would change the second
    for gradient in gradients:
        layer[0].weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert layer[0].weight[0].tolist() == pytest.approx(by_hand(gradients, 0.3), abs=1e-9)
    assert torch.equal(layer[1].weight, still)
    assert layer[1].weight not in optimizer.state


def test_lamb_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ImportError, match=r"pip install 'manyshot\[timm\]', or take 'adamw'"):
        make_optimizer(nn.Linear(2, 1), TrainingSettings(optimizer="lamb"))


def test_what_does_not_decay_is_what_timm_leaves_out():
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_weight_decay

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=3)
    theirs, _ = param_groups_weight_decay(net, 0.1, no_weight_decay_list=net.no_weight_decay())
    names = {id(p): name for name, p in net.named_parameters()}
    without = {names[id(p)] for p in theirs["params"]}
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= without
    assert set(names_by_decay(net, 0.1)[0.0]) == without


def test_tokens_and_positions_of_the_zoo_and_of_torchvision_do_not_decay():
    from torchvision.models import VisionTransformer

    vit = ms.Supernet(small("tiny_vit"), input_shape=(3, 16, 16))
    free = set(names_by_decay(vit, 0.1)[0.0])
    assert {"model.chain.0.class_token.weight", "model.chain.0.position.weight"} <= free
    tables = [name for name, _ in vit.named_parameters() if ".relative." in name]
    assert len(tables) == 4 * 5 and set(tables) <= free
    plain = dict(names_by_decay(vit.extract(vit.space.smallest), 0.1))
    assert {"chain.0.class_token.weight", "chain.0.position.weight"} <= set(plain[0.0])
    theirs = VisionTransformer(16, 8, 1, 2, 8, 16)
    assert {"class_token", "encoder.pos_embedding"} <= set(names_by_decay(theirs, 0.1)[0.0])


def test_rates_are_of_the_first_pattern_that_fits():
    plain = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 1))
    net = Standalone(plain)
    rates = {"0.bias": 4.0, "0": 0.5, "*.weight": 2.0}
    optimizer = make_optimizer(net, TrainingSettings(momentum=0.0, weight_decay=0.0, rates=rates))
    factors = {
        id(p): group.get("scale", 1.0) for group in optimizer.param_groups for p in group["params"]
    }
    expected = {"0.weight": 0.5, "0.bias": 4.0, "1.0.weight": 2.0, "1.0.bias": 1.0}
    expected |= {"2.weight": 2.0, "2.bias": 1.0}
    assert {name: factors[id(p)] for name, p in plain.named_parameters()} == expected


def test_rates_move_weights_in_proportion_and_without_a_parameter_are_refused():
    moved = {}
    for factor in (1.0, 0.25):
        run = trainer(epochs=1, momentum=0.0, lr=0.01, rates={"chain.5": factor})
        before = dict(run.net.state_dict())
        name = "model.chain.5.2.weight"
        start = before[name].clone()
        images, targets = next(iter(run.batches.from_step(0)))
        run.optimisation.step(0, run.turns("weights", images, targets), "weights", 0.01)
        moved[factor] = run.net.state_dict()[name] - start
    assert moved[1.0].abs().max() > 0
    torch.testing.assert_close(moved[0.25], 0.25 * moved[1.0], rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="'chain.9' fits no parameter of this network; .*in all"):
        trainer(rates={"chain.9": 2.0})
    factory = {"optimizer": functools.partial(torch.optim.RMSprop, lr=0.01)}
    with pytest.raises(ValueError, match="of the optimizer that settings make"):
        trainer(rates={"chain.5": 2.0}, factories=factory)


def test_a_winner_has_what_is_there_of_rates_and_stochastic_depth():
    settings = TrainingSettings(rates={"0": 2.0, "chain.9": 3.0}, drop_path=0.1)
    plain = as_far_as_it_has(settings, nn.Sequential(nn.Linear(1, 1)))
    assert (plain.rates, plain.drop_path) == ({"0": 2.0}, None)
    branched = as_far_as_it_has(settings, nn.Sequential(nn.Linear(1, 1), ms.nn.DropPath(1.0)))
    assert branched.drop_path == 0.1
