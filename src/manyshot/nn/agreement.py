"""Whether a network does with masks what it does with slices, tried on a few architectures.

Whatever mixes channels outside the layers of `ms.nn` takes in what masks leave in the tail of
tensors: a softmax over elastic channels, a plain `LayerNorm` over them, a concatenation along them
that the next layer does not know of. That would be silently wrong, so the two forms are compared.
"""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from manyshot.nn.drop_path import DropPath
from manyshot.nn.inputs import batch_of, is_batched, tensors_in
from manyshot.nn.layer import active_part, take
from manyshot.nn.selection import Part, Selection
from manyshot.nn.structure import sizes_of, walk
from manyshot.seeding import numpy_rng, seed_torch, torch_generator
from manyshot.space import Arch, Concat, Decision, SearchSpace
from manyshot.watching import tell

IMAGES = 3
"""How many images of a batch are used; batch norm needs more than one."""
NOISE = 0.1
"""The standard deviation of the noise that is added to constant parameters."""
TOLERANCE = 1e-7
"""The largest accepted |masked - sliced| relative to max |output|; float64 leaves about 1e-12."""


class MaskError(RuntimeError):
    """A network cannot be run with full masks."""


class MasksDisagree(MaskError):
    """A network's masked form differs from its sliced form; the message names the module."""


def check_agreement(net: Any, images: Any, archs: Iterable[Arch] | None = None) -> None:
    """Compares masked and sliced forwards on the first of `images`.

    Nothing of `net` is touched: a copy of it runs in float64 on the CPU, in the mode that it is in
    (batch norms by the batch, dropout and stochastic depth off), with noise added to parameters
    that are all zeros or ones. Decisions whose policy gets no gradient of the output, where they
    matter, are a warning.

    Args:
        net: a supernet.
        images: what its forward takes; of it the first few samples.
        archs: by default the smallest and a few random ones that together contain every option,
            as they are and at the smallest sizes.

    Raises:
        MasksDisagree: naming the first module whose active outputs differ.
        MaskError: if the copy cannot be made or run.
        ValueError: from a layer that masks cannot express.
    """
    space: SearchSpace = net.space
    inputs = pytree.tree_map(functools.partial(_few, batch_of(images)), images)
    if archs is None:
        covering = space.cover(numpy_rng("agreement", "checks"))
        archs = [space.smallest, *covering, *(_at_smallest_sizes(space, a) for a in covering)]
    try:
        twin = _double(net)
    except RuntimeError as error:
        raise _cannot(error) from error
    tried: set[Decision] = set()
    reached: set[Decision] = set()
    distinct = list(dict.fromkeys(archs))
    for number, arch in enumerate(distinct):
        tell("masks compared with slices", number, len(distinct))
        policy = one_hot(space, arch)
        for vector in policy.values():
            vector.requires_grad_()
        try:
            with torch.no_grad():
                sliced, _ = _outputs(twin, inputs, arch)
        except RuntimeError as error:
            raise _cannot(error) from error
        with torch.enable_grad():
            masked, output = _outputs(twin, inputs, arch, policy=policy)
            reached |= _reached(output, policy)
        with twin.selecting(arch, policy=policy) as selection:
            _compare(space.to_text(arch), sliced, masked, _places(twin.model, selection))
        matter = zip(space.decisions, space.active(arch), strict=True)
        tried |= {decision for decision, active in matter if active and len(decision.options) > 1}
    deaf = tried - reached
    if deaf:
        names = ", ".join(sorted(str(decision.name) for decision in deaf))
        warnings.warn(
            f"no gradient of the output reaches the policies of {names}: these decisions learn "
            "from costs alone. What a forward reads by ms.value is a hard choice; ms.nn.Choice "
            "gives its decision a gradient",
            stacklevel=3,
        )


def _cannot(error: RuntimeError) -> MaskError:
    return MaskError(
        f"masks cannot be compared with slices, on a copy of the network in float64 ({error}): "
        "keep the type of the input in every forward and no activations in attributes, or run "
        "with masks='active'"
    )


def _reached(output: Any, policy: Mapping[Decision, Tensor]) -> set[Decision]:
    """The decisions whose policy gets a gradient from the output."""
    leaves = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
    if not leaves:
        return set()
    total = sum(leaf.abs().square().sum() for leaf in leaves)
    grads = torch.autograd.grad(total, list(policy.values()), allow_unused=True)  # type: ignore[arg-type]
    return {decision for decision, grad in zip(policy, grads, strict=True) if grad is not None}


def one_hot(space: SearchSpace, arch: Arch) -> dict[Decision, Tensor]:
    """The policy of an architecture by decision, in float64."""
    pairs = zip(space.decisions, arch, strict=True)
    return {d: F.one_hot(torch.tensor(i), len(d.options)).double() for d, i in pairs}


def _at_smallest_sizes(space: SearchSpace, arch: Arch) -> Arch:
    """`arch` with every size at its smallest: there masks hide something from every option."""
    return tuple(
        least if decision.is_number else option
        for decision, option, least in zip(space.decisions, arch, space.smallest, strict=True)
    )


def _double(net: Any) -> Any:
    """A copy in float64 on the CPU that shares the decisions and compares nothing itself.

    Parameters that are all zeros or ones, as of a classifier or of the last scale in a branch, get
    noise: they would hide what is before them.
    """
    twin: Any = copy.deepcopy(net, {id(d): d for d in net.space.decisions}).double().cpu()
    twin._masks_agree = True
    for module in twin.modules():
        if isinstance(module, _DropoutNd | DropPath):
            module.eval()
    generator = torch_generator("noise", "checks")
    with torch.no_grad():
        for parameter in twin.parameters():
            constant = parameter.eq(parameter.flatten()[:1]).all()
            if constant and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter += NOISE * noise
    return twin


def _few(batch: int, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    few = (value[:IMAGES] if is_batched(value, batch) else value).detach().cpu()
    return few.double() if few.is_floating_point() else few


_Calls = list[tuple[str, Any]]


def _outputs(twin: Any, inputs: Any, arch: Arch, **options: Any) -> tuple[_Calls, Any]:
    """The outputs of all modules in order, by path, the network's last; and that with a graph.

    The random numbers of training are the same each time.
    """
    calls: _Calls = []

    def note(path: str, module: nn.Module, args: Any, out: Any) -> None:
        calls.append((path, _detached(out)))

    handles = [
        module.register_forward_hook(functools.partial(note, path))
        for path, module in twin.model.named_modules()
    ]
    options |= {} if twin.training else {"stats": "batch"}
    try:
        with torch.random.fork_rng(devices=[]):
            seed_torch("agreement", "checks")
            output = twin(inputs, arch, **options)
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


def _detached(out: Any) -> Any:
    return pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, out)


_Places = list[tuple[int, int, Part]]
"""How many entries of a dimension are active, of how many, and which."""


def _places(model: nn.Module, selection: Selection) -> _Places:
    """Where the active entries of the concatenations are that a network holds."""
    held = (size for path, m, _ in walk(model) for _, size in sizes_of(m, path))
    sizes = [size for size in held if isinstance(size, Concat)]
    return [(selection.count(s), selection.extent(s), active_part(selection, s)) for s in sizes]


def _compare(text: str, sliced: _Calls, masked: _Calls, places: _Places) -> None:
    if _same(sliced[-1][1], masked[-1][1]):
        return
    by_path: dict[str, list[Any]] = {}
    for path, out in masked:
        by_path.setdefault(path, []).append(out)
    for path, out in sliced:
        others = by_path.get(path)
        if not others:
            continue
        if not _same(out, others.pop(0), places):
            raise MasksDisagree(
                f"architecture {text}: with masks, module {path or '(the network)'!r} gives other "
                "active outputs than with slices. It, or what the network does between it and the "
                "module before, mixes elastic channels that are not active: use ms.nn.LayerNorm, "
                "ms.nn.Conv2d, ms.nn.Linear or ms.nn.SelfAttention there (softmax, normalisation "
                "or reduction over elastic channels cannot be masked; what takes concatenated "
                "channels needs ms.concat of them, in order), or train by option indices, without "
                "a learnt sampler"
            )
    raise MasksDisagree(
        f"architecture {text}: the network's output with masks is not that with slices, though "
        "each of its modules agrees: its own forward mixes elastic channels after the last module"
    )


def _same(sliced: Any, masked: Any, places: _Places | None = None) -> bool:
    """Whether all tensors agree; with `places`, in what may be the active part of the masked."""
    ours, theirs = list(tensors_in(sliced)), list(tensors_in(masked))
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if one.dim() != other.dim():
            return False
        if not (one.is_floating_point() or one.is_complex()):
            one, other = one.double(), other.double()
        parts = [other] if places is None else _parts(one, other, places)
        finite = one[one.isfinite()].abs()
        scale = finite.max().clamp(min=1.0) if finite.numel() else torch.tensor(1.0)
        far = float(TOLERANCE * scale)
        fitting = (part for part in parts if part.shape == one.shape)
        if not any(torch.allclose(p, one, rtol=0.0, atol=far, equal_nan=True) for p in fitting):
            return False
    return True


def _parts(one: Tensor, other: Tensor, places: _Places) -> Iterator[Tensor]:
    """The leading part of `other` that has the shape of `one`, and those of concatenations."""
    choices = [
        [slice(n), *(part for count, of, part in places if (count, of) == (n, m))]
        for n, m in zip(one.shape, other.shape, strict=True)
    ]
    return (take(other, index) for index in itertools.product(*choices))
