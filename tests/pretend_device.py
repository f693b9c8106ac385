"""A device that there is not: tensors that say they are on one, computed on the CPU.

They have values, so that a run on it can be compared with one on the CPU bit for bit. As on a GPU,
operations refuse tensors of both places, and some make the host wait for the device: reading a
number, finding out how large a result is, and copies that do not say `non_blocking`. `WAITS` lists
those that did. The name of the device is one of torch's that nothing else uses, and whose
gradients are computed without asking a driver.
"""

import contextlib
import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy:0")
WAITS = []
"""The operations that made the host wait, in order."""

aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)
READS = {
    aten._local_scalar_dense: "a number is read",
    aten.equal: "tensors are compared",
    aten.nonzero: "the size of a result is read",
    aten.masked_select: "the size of a result is read",
    aten._unique2: "the size of a result is read",
}
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index)


class There(Tensor):
    """A tensor on the device that there is not; `here` is where its values are."""

    @staticmethod
    def __new__(cls, here):
        return Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"There({self.here})"

    def tolist(self):
        """Torch's own asks nobody on its way to the values."""
        WAITS.append("a list is read")
        return self.detach().here.tolist()

    def __deepcopy__(self, memo):
        new = There(self.detach().here.clone())
        if isinstance(self, nn.Parameter):
            new = nn.Parameter(new, self.requires_grad)
        return memo.setdefault(id(self), new)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    """Takes calls that name the device, such as `torch.zeros(3, device=DEVICE)`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


def on_device(value):
    return isinstance(value, There)


def dispatched(func, args, kwargs):
    """Runs an operation where its tensors say that they are."""
    operation, leaves = func.overloadpacket, pytree.tree_leaves((args, kwargs))
    there = [leaf for leaf in leaves if on_device(leaf)]
    elsewhere = [
        leaf for leaf in leaves if isinstance(leaf, Tensor) and not on_device(leaf) and leaf.dim()
    ]
    wanted = kwargs.get("device")
    if not there and (wanted is None or torch.device(wanted) != DEVICE):
        return func(*args, **kwargs)
    goes_home = bool(there) and wanted is not None and torch.device(wanted) != DEVICE
    if operation in COPIES:
        if operation is aten.copy_:
            to, of = args[:2]
            crosses, goes_home = on_device(to) != on_device(of), not on_device(to)
            blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            crosses = goes_home or not there
            blocks = not kwargs.get("non_blocking", False)
        if crosses and (goes_home or blocks):
            WAITS.append(f"a copy {'from' if goes_home else 'to'} the device")
    elif operation in INDEXING:
        places = [leaf for leaf in pytree.tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        if any(place.dtype in (torch.bool, torch.uint8) for place in places):
            WAITS.append("the size of a result is read, of an index by a mask")
        elif not all(map(on_device, places)):
            WAITS.append("a copy to the device, of an index")
        elsewhere = [leaf for leaf in elsewhere if all(leaf is not place for place in places)]
    elif operation in READS:
        WAITS.append(f"{READS[operation]}: {operation}")
    if elsewhere and operation not in COPIES:
        raise RuntimeError(
            f"{func}: expected all tensors on one device, but found {DEVICE} and the CPU"
        )
    at_home = {k: v for k, v in kwargs.items() if k != "device"}
    if wanted is not None:
        at_home["device"] = torch.device("cpu")
    plain_args, plain_kwargs = pytree.tree_map(
        lambda leaf: leaf.here if on_device(leaf) else leaf, (args, at_home)
    )
    result = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable and not func._schema.returns:
        return None
    known = {id(leaf.here): leaf for leaf in there}

    def named(leaf):
        if not isinstance(leaf, Tensor) or goes_home:
            return leaf
        if func._schema.is_mutable and id(leaf) in known:
            return known[id(leaf)]
        return There(leaf.clone() if operation is aten._to_copy and not leaf._is_view() else leaf)

    return args[0] if operation is aten.copy_ else pytree.tree_map(named, result)


def moved(module):
    """A copy of a module whose parameters and buffers are on the device."""
    module, seen = copy.deepcopy(module), {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                new = nn.Parameter(There(parameter.detach().clone()), parameter.requires_grad)
                owner._parameters[name] = seen.setdefault(id(parameter), new)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = seen.setdefault(id(buffer), There(buffer.clone()))
    return module


def at_home(value):
    """The values of a tensor, wherever it says that it is."""
    return value.detach().here if on_device(value) else value.detach()


class Process:
    """The accelerator of one process, of another device."""

    def __init__(self, accelerator):
        self._accelerator, self.device = accelerator, DEVICE

    def __getattr__(self, name):
        return getattr(self._accelerator, name)

    def reduce(self, tensor, how):
        return tensor

    def gather(self, tensor):
        return tensor


@contextlib.contextmanager
def pretended(monkeypatch):
    """The device is there inside, as far as programs of ours ask; `WAITS` begins empty."""
    autocast, enabled, tensor = torch.autocast, torch.is_autocast_enabled, torch.tensor

    def made(*args, device=None, **kwargs):
        """`torch.tensor`, which does not go the way of operations."""
        if device is None or torch.device(device) != DEVICE:
            return tensor(*args, device=device, **kwargs)
        WAITS.append("a copy to the device, of numbers")
        return There(tensor(*args, **kwargs))

    def named(kind):
        return "cpu" if kind == DEVICE.type else kind

    with monkeypatch.context() as patch, _Made():
        patch.setattr(torch, "autocast", lambda kind, *a, **k: autocast(named(kind), *a, **k))
        patch.setattr(torch, "tensor", made)
        patch.setattr(torch, "is_autocast_enabled", lambda *kind: enabled(*map(named, kind)))
        WAITS.clear()
        yield WAITS
