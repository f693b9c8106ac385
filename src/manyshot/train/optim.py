"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from manyshot.nn.drop_path import branches
from manyshot.nn.layer import Norm
from manyshot.plugins import nearest
from manyshot.recipe import OptimiserSettings, TrainingSettings
from manyshot.sharing import Sharing
from manyshot.train.exchange import is_sharded

OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Makes an optimiser of weights from parameter groups, as the classes of `torch.optim` do."""
ScheduleFactory: TypeAlias = Callable[[torch.optim.Optimizer, int], LRScheduler]
"""Makes a schedule of rates from an optimiser and the number of its steps."""
Schedule: TypeAlias = Literal["cosine", "linear", "constant"]
"""How a rate goes down."""
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Norm)
_FREE_NAMES = frozenset(
    {"bias", "class_token", "pos_embedding", "position_embedding", "relative_position_bias_table"}
)
"""Names of tensors that do not decay: biases, and what torchvision's networks say places by."""


def decay_groups(
    net: nn.Module, weight_decay: float, apart: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups by role: what adds, scales or says a place does not decay, all else does.

    Biases and norms do not, nor class tokens and positional embeddings: those that a module names
    by `no_weight_decay()`, as timm's networks and those of the zoo do, and those of torchvision's.
    The role is that of the module's tensor, whatever its shape, also where a parametrisation
    computes it.

    Args:
        net: the network.
        weight_decay: the weight decay of what decays.
        apart: parameters that are in no group.
    """
    decayed: dict[nn.Parameter, None] = {}
    free: dict[nn.Parameter, None] = {}
    named = _named_free(net)
    for path, module in net.named_modules():
        owner, role, place = module, None, path
        if isinstance(module, ParametrizationList):
            holder, _, role = path.rpartition(".parametrizations.")
            owner, place = net.get_submodule(holder), holder
        for name, parameter in module.named_parameters(recurse=False):
            called = role or name
            fixed = isinstance(owner, _NORMS) or called in _FREE_NAMES
            fixed |= any(f"{place}.{called}.".lstrip(".").startswith(f"{said}.") for said in named)
            (free if fixed else decayed).setdefault(parameter)
    left_out = {id(parameter) for parameter in apart}
    kept = [p for p in decayed if p not in free and id(p) not in left_out]
    groups = [
        {"params": kept, "weight_decay": weight_decay},
        {"params": [p for p in free if id(p) not in left_out], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _named_free(net: nn.Module) -> set[str]:
    """The paths of parameters, or of modules of them, that modules say do not decay."""
    paths = set()
    for path, module in net.named_modules():
        says = getattr(module, "no_weight_decay", None)
        if callable(says):
            paths |= {f"{path}.{name}".lstrip(".") for name in says()}
    return paths


def make_optimizer(
    net: nn.Module,
    settings: OptimiserSettings,
    apart: Collection[nn.Parameter] = (),
    scaled: Collection[nn.Parameter] = (),
    scale: float = 1.0,
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW, or LAMB.

    Args:
        net: the network.
        settings: say which, and how; those of a training besides, which parameters have a rate of
            their own.
        apart: parameters that it does not hold.
        scaled: parameters whose rate is to be another than that of all others.
        scale: their rate, as a factor of that of the others; their groups have it as `scale`.

    Raises:
        ValueError: if rates are for parameters that there are not.
        ImportError: for LAMB without timm.
    """
    groups = decay_groups(net, settings.weight_decay, apart)
    scales = {id(parameter): scale for parameter in scaled}
    if isinstance(settings, TrainingSettings):
        scales |= _scales(net, settings.rates, apart)
    if scales:
        groups = [
            {**group, "params": kept, **({} if factor == 1.0 else {"scale": factor})}
            for group in groups
            for factor in dict.fromkeys((1.0, *scales.values()))
            if (kept := [p for p in group["params"] if scales.get(id(p), 1.0) == factor])
        ]
    moved = [parameter for group in groups for parameter in group["params"]]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        fused = _can_be_fused(net, moved, ("cpu", "cuda"))
        sgd = torch.optim.SGD(
            groups, settings.lr, settings.momentum, nesterov=nesterov, fused=fused or None
        )
        sgd.register_step_pre_hook(_ready_for_fused)
        return sgd
    if settings.optimizer == "lamb":
        # What it clips by itself, a norm of 1 over all gradients, is what clip_norm is for.
        return lamb()(groups, settings.lr, max_grad_norm=None)
    # On the CPU another order of the same operations would give other last bits.
    fused = _can_be_fused(net, moved, ("cuda",))
    adamw = torch.optim.AdamW(groups, settings.lr, fused=fused or None)
    adamw.register_step_pre_hook(_ready_for_fused)
    return adamw


def _can_be_fused(
    net: nn.Module, moved: Collection[nn.Parameter], devices: Collection[str]
) -> bool:
    """Whether torch's fused optimiser may move parameters of a network, all on one kind of device.

    Gradients of embeddings that are sparse are none for it.
    """
    kinds = {parameter.device.type for parameter in moved}
    is_sparse = any(getattr(module, "sparse", False) for module in net.modules())
    are_numbers = all(parameter.is_floating_point() for parameter in moved)
    if is_sparse or not are_numbers or any(map(is_sharded, moved)):
        return False
    return len(kinds) == 1 and kinds <= set(devices)


def lamb() -> Callable[..., torch.optim.Optimizer]:
    """The class of timm's LAMB.

    Raises:
        ImportError: without timm.
    """
    try:
        made: Callable[..., torch.optim.Optimizer] = importlib.import_module("timm.optim").Lamb
    except ImportError as error:
        raise ImportError(
            "optimizer = 'lamb' is timm's: pip install 'manyshot[timm]', or take 'adamw' or 'sgd'"
        ) from error
    return made


def check_rates(
    net: nn.Module, rates: Mapping[str, float], apart: Collection[nn.Parameter] = ()
) -> None:
    """Refuses rates for parameters that a network does not have.

    Args:
        net: a supernet, or what the loop makes of a plain module.
        rates: factors by pattern.
        apart: parameters that others move.

    Raises:
        ValueError: naming the patterns that fit none.
    """
    left_out = {id(parameter) for parameter in apart}
    names = [_plain_name(name) for name, p in net.named_parameters() if id(p) not in left_out]
    for pattern in rates:
        if not any(_fits(name, pattern) for name in names):
            near = nearest(pattern, names)
            raise ValueError(
                f"rates: {pattern!r} fits no parameter of this network; {near}it has "
                f"{', '.join(names[:3])} and others ({len(names)} in all). A pattern is of a whole "
                "name, or of the module that holds it, such as 'chain.0' or 'chain.*.bias'; "
                "manyshot space RECIPE --parameters lists all names"
            )


def as_far_as_it_has(settings: TrainingSettings, module: nn.Module) -> TrainingSettings:
    """The settings for a plain network, without what it has nothing for.

    One that is extracted may lack the layers that `rates` and `drop_path` are for; whether the
    supernet has them is looked at before it trains.
    """
    if settings.drop_path is not None and not branches(module):
        settings = settings.model_copy(update={"drop_path": None})
    if not settings.rates:
        return settings
    names = [name for name, _ in module.named_parameters()]
    kept = {p: rate for p, rate in settings.rates.items() if any(_fits(n, p) for n in names)}
    return settings.model_copy(update={"rates": kept})


def _plain_name(name: str) -> str:
    """The name of a parameter in the network that a supernet, or the loop, wraps."""
    return name.partition(".")[2]


def _scales(
    net: nn.Module, rates: Mapping[str, float], apart: Collection[nn.Parameter]
) -> dict[int, float]:
    """The factor of the rate of each parameter that has one, by its id."""
    check_rates(net, rates, apart)
    scales: dict[int, float] = {}
    for name, parameter in net.named_parameters():
        for pattern, factor in rates.items():
            if _fits(_plain_name(name), pattern):
                scales[id(parameter)] = factor
                break
    return scales


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern is of a parameter, or of a module that holds it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


@torch.no_grad()
def _ready_for_fused(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Gives what is about to move a momentum of zero, and gradients the layout of their parameters.

    torch's fused SGD takes a quarter of the time on the CPU, and on a GPU a fused optimiser is a
    few kernels for all parameters. SGD refuses momenta of which some are there already and some are
    not, as where paths bring other parameters; from zero the first step is the same. And both go
    through memory in order, so that a gradient of another layout would move the wrong weights
    without a word. What has no gradient gets nothing, and stays.
    """
    for group in optimizer.param_groups:
        if not group["fused"]:
            continue
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is None:
                continue
            if grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(grad)
            if group.get("momentum"):
                state = optimizer.state[parameter]
                momentum = state.get("momentum_buffer")
                if momentum is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                elif momentum.stride() != parameter.stride():
                    state["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)


def optimizer_from(
    factory: OptimizerFactory,
    net: nn.Module,
    settings: OptimiserSettings,
    apart: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimiser that a factory makes; groups get their rate relative to the first as `scale`.

    Args:
        factory: is handed the groups of `decay_groups`.
        net: the network.
        settings: say the weight decay of what decays.
        apart: parameters that it must not hold.

    Raises:
        ValueError: if it makes no optimiser, or one that holds other parameters than the network's.
    """
    optimizer = factory(decay_groups(net, settings.weight_decay, apart))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer made a {type(optimizer).__name__} from the parameter groups: it must make "
            "a torch.optim.Optimizer, as in optimizer=lambda groups: torch.optim.RMSprop(groups, "
            "lr=0.01)"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    fixed = {id(p) for p in apart}
    names = {name for name, p in net.named_parameters() if id(p) in held & fixed}
    foreign = held - {id(p) for p in net.parameters()}
    if names or foreign:
        what = f"{', '.join(sorted(names))}, which the codes' optimiser moves" if names else ""
        what = what or f"{len(foreign)} parameters that are not this network's"
        raise ValueError(
            f"optimizer made one that holds {what}: it must hold those of the groups it is handed"
        )
    peak = optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["scale"] = group["lr"] / peak
    return optimizer


def schedule_from(
    factory: ScheduleFactory, optimizer: torch.optim.Optimizer, steps: int
) -> LRScheduler:
    """The schedule that a factory makes for an optimiser.

    Args:
        factory: makes it.
        optimizer: whose rates it sets.
        steps: how many steps the optimiser takes in all, of which each is one of the schedule.

    Raises:
        ValueError: if it makes no schedule, or one that must be told losses.
    """
    schedule = factory(optimizer, steps)
    if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            f"schedule made a {type(schedule).__name__}: it must make a schedule of "
            "torch.optim.lr_scheduler that steps without a loss, as in schedule=lambda optimizer, "
            "steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)"
        )
    return schedule


def make_code_optimizer(
    sharing: Sharing, lr: float, momentum: float
) -> torch.optim.Optimizer | None:
    """A sharing scheme's optimiser of its codes, at a rate that is relative to that of weights.

    Args:
        sharing: the scheme.
        lr: the rate of weights that the codes' rates are meant for.
        momentum: the momentum of weights.

    Returns:
        The optimiser, each group with the `scale` of its rate; None if the scheme learns no codes.
    """
    optimizer = sharing.code_optimizer(lr, momentum)
    for group in () if optimizer is None else optimizer.param_groups:
        group["scale"] = group["lr"] / lr
    return optimizer


def learning_rate(settings: TrainingSettings, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of a step: linear warm-up, then the schedule to near `min_lr`.

    It is a function of the step, with no state to restore.

    Args:
        settings: the peak, the end, the warm-up and the schedule.
        step: the number of the step, from 0.
        steps: how many there are in all.
        steps_per_epoch: how many of them see every image once.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / (math.floor(warmup) + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    return settings.min_lr + (settings.lr - settings.min_lr) * lowered(settings.schedule, share)


def lowered(schedule: Schedule, share: float) -> float:
    """The rate, as a part of its peak, after a share of the way."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "linear":
        return 1 - share
    return 1.0
