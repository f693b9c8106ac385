"""Gradients of policies and penalties against one graph through everything, in plain torch."""

import numpy as np
import pytest
import torch
from shift_nets import k_shot, policy_of, shift, shifting, supernet
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.train import Plan, PlannedPath, Stateless, train
from manyshot.train.gradients import accumulate
from manyshot.train.gumbel import straight_through

WIDTHS, HIDDEN = (2, 4, 8), (3, 6)


class Linears(nn.Module):
    """Three linear layers; what is between them has two sizes. The larger ones come second."""

    def __init__(self) -> None:
        super().__init__()
        width, hidden = ms.choose(WIDTHS, "width"), ms.choose(HIDDEN, "hidden")
        self.one, self.two = ms.nn.Linear(5, width), ms.nn.Linear(width, hidden)
        self.three = ms.nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))


def mask(policy: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """p' = M p, the matrix M written out."""
    matrix = torch.tensor([[float(u < size) for size in sizes] for u in range(max(sizes))])
    return matrix.double() @ policy


def by_hand(net: ms.Supernet, x: Tensor, widths: Tensor, hidden: Tensor) -> Tensor:
    """The largest network with explicit masks."""
    one, two, three = net.model.one, net.model.two, net.model.three
    x = torch.tanh(x @ one.weight.T + one.bias) * mask(widths, WIDTHS)
    x = torch.tanh(x @ two.weight.T + two.bias) * mask(hidden, HIDDEN)
    return x @ three.weight.T + three.bias


def by_hand_cut(net: ms.Supernet, x: Tensor, widths: Tensor, hidden: Tensor) -> Tensor:
    """What is active of it, times the entries of the masks there, which are ones."""
    one, two, three = net.model.one, net.model.two, net.model.three
    w, h = WIDTHS[int(widths.argmax())], HIDDEN[int(hidden.argmax())]
    x = torch.tanh(x @ one.weight[:w].T + one.bias[:w]) * mask(widths, WIDTHS)[:w]
    x = torch.tanh(x @ two.weight[:h, :w].T + two.bias[:h]) * mask(hidden, HIDDEN)[:h]
    return x @ three.weight[:, :h].T + three.bias


def soft_one_hot(logits: Tensor, tau: float = 1.0) -> Tensor:
    """The one-hot of the arg-max, with the gradient of the softmax, as it is usually written."""
    soft = (logits / tau).softmax(-1)
    return F.one_hot(logits.argmax(-1), logits.shape[-1]) - soft.detach() + soft


@pytest.fixture
def net() -> ms.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ms.Supernet(Linears()).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((12, 5), generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (12,), generator=generator)


@pytest.fixture
def theta() -> list[Tensor]:
    """Logits of two paths: widths 8 and 2, hidden 3 and 6."""
    widths = torch.tensor([[0.1, 0.3, 0.5], [0.9, -0.2, 0.4]], dtype=torch.float64)
    hidden = torch.tensor([[0.2, 0.1], [-0.3, 0.4]], dtype=torch.float64)
    return [widths.requires_grad_(), hidden.requires_grad_()]


def path(net: ms.Supernet, policies: list[Tensor], row: int, **options) -> PlannedPath:
    own = {d: p[row] for d, p in zip(net.space.decisions, policies, strict=True)}
    return PlannedPath(tuple(int(p.argmax()) for p in own.values()), policy=own, **options)


def penalty_of(policies: list[Tensor], theta: list[Tensor]) -> Tensor:
    """Of the policies, as the resource loss is, and of the parameters themselves."""
    sizes = torch.tensor(WIDTHS, dtype=torch.float64)
    cost = (policies[0] @ sizes) * (policies[1] @ torch.tensor(HIDDEN, dtype=torch.float64))
    return 1e-3 * (cost - 10).square().mean() + theta[1].square().sum()


def grads(tensors) -> list[Tensor | None]:
    found = [None if t.grad is None else t.grad.clone() for t in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        # float64, sums of at most 100 terms in another order
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("masks", ["full", "active"])
def test_several_paths_weights_a_teacher_a_penalty_and_a_share(net, batch, theta, masks):
    """Everything at once: its gradient is that of share * (sum of weight * loss + penalty)."""
    images, labels = batch
    policies = [straight_through(logits) for logits in theta]
    plan = Plan(
        (
            PlannedPath(net.space.largest, weight=0.5),
            path(net, policies, 0, weight=2.0, masks=masks),
            path(net, policies, 1, weight=0.3, target="largest", masks=masks),
        ),
        penalty_of(policies, theta),
    )
    largest = net.space.largest
    losses = accumulate(net, plan, images, labels, largest=largest, smoothing=0.1, share=0.25)
    held = [*theta, *net.parameters()]
    ours = grads(held)

    own = [soft_one_hot(logits) for logits in theta]
    forward = by_hand if masks == "full" else by_hand_cut
    ends = [torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([0.0, 1.0]).double()]
    teacher = by_hand(net, images, *ends)
    first = forward(net, images, own[0][0], own[1][0])
    second = forward(net, images, own[0][1], own[1][1])
    parts = [
        F.cross_entropy(teacher, labels, label_smoothing=0.1),
        F.cross_entropy(first, labels, label_smoothing=0.1),
        F.cross_entropy(second, teacher.detach().softmax(1)),
    ]
    task = 0.5 * parts[0] + 2.0 * parts[1] + 0.3 * parts[2]
    (0.25 * (task + penalty_of(own, theta))).backward()
    assert_same(ours, grads(held))
    torch.testing.assert_close(torch.stack(losses), torch.stack(parts).detach())
    assert all((own != 0).any() for own in ours[:2])


def test_full_masks_have_more_to_say_than_active_ones(net, batch, theta):
    """So that the two cases above differ: larger widths get a gradient of their own."""
    found = []
    for masks in ("full", "active"):
        policies = [straight_through(logits) for logits in theta]
        plan = Plan((path(net, policies, 1, masks=masks),))
        accumulate(net, plan, *batch, largest=net.space.largest)
        found.append(grads(theta)[0])
        grads(list(net.parameters()))
    assert not torch.allclose(*found)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_penalty_without_policies_is_scaled_by_the_share(net, batch, share):
    weight = torch.tensor([2.0, -1.0], requires_grad=True)
    plan = Plan((PlannedPath((0, 0)),), weight.square().sum())
    accumulate(net, plan, *batch, largest=net.space.largest, share=share)
    assert weight.grad.tolist() == [4.0 * share, -2.0 * share]


def test_shares_of_a_batch_add_up_to_it(net, batch, theta):
    """Chunks of 3 and 9 images: for a network without batch norm the sum is the whole."""
    images, labels = batch
    found = []
    for chunks in ([slice(None)], [slice(3), slice(3, None)]):
        for chunk in chunks:
            policies = [straight_through(logits) for logits in theta]
            plan = Plan((path(net, policies, 0),), penalty_of(policies, theta))
            share = len(labels[chunk]) / 12
            accumulate(net, plan, images[chunk], labels[chunk], largest=(2, 1), share=share)
        found.append(grads([*theta, *net.parameters()]))
    assert_same(*found)


@pytest.mark.parametrize("penalty", [None, torch.tensor(3.0)])
def test_policies_that_learn_nothing(net, batch, theta, penalty):
    """Constant policies and penalties train the weights as the indices do."""
    policies = [straight_through(logits).detach() for logits in theta]
    found = []
    for plan in (Plan((path(net, policies, 0),), penalty), Plan((PlannedPath((2, 0)),))):
        accumulate(net, plan, *batch, largest=net.space.largest)
        found.append(grads(list(net.parameters())))
    assert_same(*found)
    assert all(policy.grad is None for policy in policies)


def test_a_constant_penalty_beside_policies_that_learn(net, batch, theta):
    found = []
    for penalty in (None, torch.tensor(3.0)):
        policies = [straight_through(logits) for logits in theta]
        plan = Plan((path(net, policies, 0),), penalty)
        accumulate(net, plan, *batch, largest=net.space.largest)
        found.append(grads(theta))
    assert_same(*found)


def test_policies_get_their_gradient_once(net, batch, theta):
    """Two paths on the same row of the same policies: the sum, not twice the sum."""
    policies = [straight_through(logits) for logits in theta]
    twice = Plan((path(net, policies, 0), path(net, policies, 0)))
    accumulate(net, twice, *batch, largest=net.space.largest)
    ours = grads(theta)
    policies = [straight_through(logits) for logits in theta]
    accumulate(net, Plan((path(net, policies, 0, weight=2.0),)), *batch, largest=(2, 1))
    assert_same(ours, grads(theta))


# -- phases of K-shot sharing ------------------------------------------------------------------


class Steering(Stateless):
    """One path whose policies and penalty depend on a parameter; notes what it is asked."""

    def __init__(self, space: ms.SearchSpace) -> None:
        self.space, self.asked = space, []
        self.logits = {d: torch.zeros(len(d.options), requires_grad=True) for d in space.decisions}

    def plan(self, rng, step):
        self.asked.append(f"plan {step}")
        policies = {d: straight_through(logits) for d, logits in self.logits.items()}
        penalty = sum(logits.sum() for logits in self.logits.values())
        arch = tuple(int(policy.argmax()) for policy in policies.values())
        return Plan((PlannedPath(arch, policy=policies),), penalty)

    def optimizer(self):
        return torch.optim.SGD(self.logits.values(), 0.1)

    def probe(self, rng, step, steps):
        self.asked.append(f"probe {step} of {steps}")

    def feedback(self, plan, losses, probed=None):
        assert all(path.policy is not None for path in plan.paths)
        self.asked.append("feedback")


def test_in_a_code_phase_the_sampler_rests():
    """Eight steps: two of warm-up, then weights and codes in turn; of the latter two plans each."""
    net = supernet(sharing=k_shot())
    run = shifting(Steering(net.space), net, epochs=2)
    logits, turns, moved = run.sampler.logits, run.turns, []
    trained = run.optimisation.codes.step

    def watching(phase, images, labels):
        for turn in turns(phase, images, labels):
            learnt = turn.plan.penalty is not None, turn.plan.paths[0].policy is not None
            assert learnt == (phase != "code", phase != "code")
            yield turn

    def stepping():
        assert all(own.grad is None for own in logits.values())
        moved.append([own.detach().clone() for own in logits.values()])
        trained()

    run.turns, run.optimisation.codes.step = watching, stepping
    train(run)
    of_weights, expected = iter(range(1, 6)), []
    for step, phase in enumerate(["warmup"] * 2 + ["weights", "code"] * 3):
        if phase == "code":
            expected += [f"plan {step}"] * 2
        else:
            expected += [f"plan {step}", f"probe {next(of_weights)} of 5", "feedback"]
    assert run.sampler.asked == expected
    assert (run.step, run.weight_step, run.weight_steps) == (8, 5, 5)
    for before, after in zip(moved, moved[1:], strict=False):  # at the code steps; between, weights
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    last = [own.detach() for own in logits.values()]
    assert all(torch.equal(a, b) for a, b in zip(moved[-1], last, strict=True))


def test_in_a_joint_phase_all_three_move():
    net = supernet(sharing=k_shot(update_mode="joint"))
    run = shifting(Steering(net.space), net, epochs=2)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    train(run)
    moved = {n.split(".")[0] for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"model", "sharing"}
    assert all((own != 0).any() for own in run.sampler.logits.values())
    assert (run.step, run.weight_step) == (8, 8)


def test_merged_weights_train_under_masks_as_they_do_in_slices():
    net = supernet(sharing=k_shot()).double()
    images = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    arch, found = (1, 2, 0, 1, 1, 1), []
    constant = {d: policy.detach() for d, policy in policy_of(net, arch).items()}
    for policy in (None, constant):
        plan = Plan((PlannedPath(arch, policy),))
        accumulate(net, plan, images, torch.arange(4), largest=net.space.largest)
        found.append(grads(list(net.parameters())))
    assert_same(*found)


def test_the_generator_of_shift_gets_the_gradient_of_one_graph():
    """On the transformer: the loss of the task and the resource loss, through all of it."""
    net = supernet().double()
    sampler = shift(net)
    images = torch.randn((6, 1, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    labels, held = torch.arange(6), list(sampler.generator.parameters())
    plan = sampler.plan(np.random.default_rng(3), 0)
    accumulate(net, plan, images, labels, largest=net.space.largest, share=0.5)
    ours = grads(held)
    plan = sampler.plan(np.random.default_rng(3), 0)
    [own] = plan.paths
    logits = net(images, own.arch, policy=own.policy, masks=own.masks)
    (0.5 * (F.cross_entropy(logits, labels) + plan.penalty)).backward()
    for one, other in zip(ours, grads(held), strict=True):
        # float32: sums over four targets and six decisions in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_autocast_around_a_step_leaves_the_generator_alone():
    """The penalty does not depend on the network, so its gradient is the same to the last bit."""
    net, found = supernet(), []
    for enabled in (False, True):
        sampler = shift(net)
        plan = sampler.plan(np.random.default_rng(0), 0).penalty
        constant = Plan((PlannedPath(net.space.smallest),), plan)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            images = torch.zeros(2, 1, 8, 8)
            accumulate(net, constant, images, torch.arange(2), largest=net.space.largest)
        found.append(grads(list(sampler.generator.parameters())))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
