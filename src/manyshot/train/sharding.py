"""Parameters that are shared out among the processes that train, by torch's FSDP2.

Each process holds a part of every parameter, of its gradient and of what the optimiser keeps. The
parameters of a block are put together for as long as it runs, so that layers cut whole tensors, and
gradients are averaged in the backward pass. What trains is a twin of the network, which is whole
before and after, so that search, export and all other stages know nothing of it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.nn.choice import Choice, Depth
from manyshot.recipe import SupernetSettings
from manyshot.sharing import PlacesChannels, SplitsByGradients
from manyshot.supernet import Supernet
from manyshot.train.exchange import is_sharded, take_from_first
from manyshot.train.plan import Plan, Sampler, learning_from_norms

State = TypeVar("State")
_LISTS = (nn.Sequential, nn.ModuleList)


def check_shards(
    net: nn.Module,
    sampler: Sampler,
    settings: SupernetSettings,
    processes: int,
    *,
    shrinks: bool,
    factory: bool,
) -> Supernet:
    """Refuses to share out what has not been seen to train as whole copies do.

    Args:
        net: what is to train.
        sampler: says which paths train.
        settings: those that ask for it.
        processes: how many there are.
        shrinks: whether the space shrinks while it trains.
        factory: whether the optimiser is one that the caller makes.

    Returns:
        The supernet.

    Raises:
        ValueError: then, with what does not go together.
    """
    if processes == 1:
        raise ValueError(
            "shard = true, and there is one process: start several, as by torchrun "
            "--nproc-per-node 4, or set shard = false"
        )
    if not isinstance(net, Supernet):
        raise ValueError(
            "shard = true is for a ms.Supernet, and this module is none: set shard = false"
        )
    scheme = net.sharing
    learns = sampler.probes or sampler.optimizer() is not None or learning_from_norms(sampler)
    has_more = scheme.copies > 1 or isinstance(
        scheme, PlacesChannels | SplitsByGradients | nn.Module
    )
    compiled = any(isinstance(module, Choice) and module.is_compiled for module in net.modules())
    held = Counter(p for module in net.modules() for p in module.parameters(recurse=False))
    tied = [name for name, parameter in net.named_parameters() if held[parameter] > 1]
    types = sorted({str(parameter.dtype) for parameter in held})
    for is_there, what, instead in (
        (has_more, f"sharing by {type(scheme).__name__}", "one_shot"),
        (learns, f"sampler {type(sampler).__name__}, which probes or learns by gradients", "fair"),
        (shrinks, "a space that shrinks", "none"),
        (factory, "an optimizer of your own", "that of the settings"),
        (settings.optimizer == "lamb", "optimizer = 'lamb'", "'adamw' or 'sgd'"),
        (settings.sgld, f"sgld = {settings.sgld:g}", "0"),
        (settings.snapshots.number, f"snapshots.number = {settings.snapshots.number}", "0"),
        (compiled, "compiled options", "them uncompiled"),
        (tied, f"parameters that several modules hold, as {', '.join(tied[:3])}", "one for each"),
        (len(types) > 1, f"parameters of {' and '.join(types)}", "one type"),
    ):
        if is_there:
            raise ValueError(
                f"shard = true does not go with {what}: take {instead}, or set shard = false, "
                "which takes memory for the whole network and its optimiser in each process"
            )
    return net


@contextlib.contextmanager
def sharded(net: Supernet, accelerator: Accelerator) -> Iterator[Supernet]:
    """A twin of a supernet whose parameters are shared out among all processes.

    While the twin trains `net` holds no weights: they read as NaN. In the end it has those of the
    twin, whole, in all processes. After an error `net` stays without, since processes may have
    stopped at different steps and cannot put the parts together.

    Args:
        net: a supernet; the weights of the first process count.
        accelerator: connects the processes.
    """
    # Imported here: they take a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    take_from_first([*net.parameters(), *net.buffers()], accelerator)
    parameters = list(net.parameters())
    strides = [parameter.stride() for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no others
    twin = copy.deepcopy(net, {id(parameter): parameter for parameter in parameters})
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in [*blocks_of(twin), twin]:
        fully_shard(block, mesh=mesh)
    for parameter in parameters:
        parameter.data = parameter.data.new_full((), math.nan).expand(parameter.shape)
    yield twin
    for parameter, stride, trained in zip(parameters, strides, twin.parameters(), strict=True):
        data = parameter.data.new_empty_strided(parameter.shape, stride)
        parameter.data = data.copy_(whole(trained.detach()))
    for buffer, trained_buffer in zip(net.buffers(), twin.buffers(), strict=True):
        buffer.copy_(trained_buffer)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The modules whose parameters are put together at once, those inside others first.

    They are the options of choice blocks, and the items of lists of modules, such as the blocks of
    an elastic depth; of lists inside lists the outermost items that are no lists of blocks
    themselves. What lies in none of them, as a head may, is left to the network as a whole.
    """
    choices = [module for module in net.modules() if isinstance(module, Choice)]
    options = {option for choice in choices for option in choice.options.values()}

    def inside(module: nn.Module, in_block: bool) -> Iterator[nn.Module]:
        for child in module.children():
            is_list = isinstance(child, _LISTS) and any(list(item.children()) for item in child)
            is_item = isinstance(module, _LISTS) and not (
                is_list or isinstance(child, Choice | Depth)
            )
            is_block = child in options or (is_item and not in_block)
            yield from inside(child, in_block or is_block)
            if is_block and any(True for _ in child.parameters()):
                yield child

    return list(dict.fromkeys(inside(net, False)))


def check_paths(plan: Plan, accelerator: Accelerator) -> None:
    """Refuses a plan that is not the same in all processes, which would wait for ever.

    Raises:
        ValueError: then, in all processes, or for a path that has a policy.
    """
    if any(path.policy is not None for path in plan.paths):
        raise ValueError(
            "shard = true does not go with a sampler whose paths have policies: take one such as "
            "uniform, fair or sandwich, or set shard = false"
        )
    paths = repr([(path.arch, path.weight, path.target) for path in plan.paths]).encode()
    digest = int.from_bytes(hashlib.sha256(paths).digest()[:7], "big")
    digests = accelerator.gather(torch.tensor([digest], device=accelerator.device)).tolist()
    if len(set(digests)) > 1:
        raise ValueError(
            "shard = true, and the sampler drew other paths in one process than in another: all "
            "that it draws has to come from the generator that its plan is given"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together of the parts of all processes, which have to call this together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def part_of(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def gathered(state: State, accelerator: Accelerator) -> State:
    """A state with whole tensors on the CPU in place of those that are shared out.

    All processes have to call this together; only the main one gets the tensors, others None.
    """

    def on_the_cpu(value: Any) -> Any:
        if not isinstance(value, Tensor) or not is_sharded(value):
            return value
        full = whole(value)
        return full.cpu() if accelerator.is_main_process else None

    return pytree.tree_map(on_the_cpu, state)  # type: ignore[no-any-return]


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, if `like` is shared out and of its shape."""
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def weights_sharded(weights: dict[str, Any], net: nn.Module) -> dict[str, Any]:
    """Whole weights by name, shared out as those of a network are."""
    now = net.state_dict()
    return {
        name: sharded_as(value, now[name]) if isinstance(now.get(name), Tensor) else value
        for name, value in weights.items()
    }


def optimizer_sharded(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser of whole parameters, shared out as its parameters are now."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {
        index: {
            name: sharded_as(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}
