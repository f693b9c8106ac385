"""The network of a recipe: of the zoo, of torchvision or timm, or anybody's; with given weights.

A network that has no decisions is converted. What it was before is kept: it may teach.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from manyshot.conversion import convert
from manyshot.data import DataDescription
from manyshot.pipeline.given import given_network
from manyshot.plugins import build, look_up, nearest
from manyshot.recipe import GIVEN, NetworkSettings, Recipe, RecipeError
from manyshot.seeding import seeded, torch_generator
from manyshot.sharing import Sharing, make_sharing, widen
from manyshot.supernet import Supernet
from manyshot.train import CheckpointError, save_weights
from manyshot.train.checkpoint import digest, read_weights
from manyshot.zoo import NETWORKS

_WRAPPED = ("state_dict", "model_state_dict", "model")
"""The keys under which checkpoints of training scripts hold a state dict."""
_PREFIX = "module."
"""What torch's data parallelism puts before every name."""
_OTHER_NAMES = {"num_classes": "classes", "in_channels": "channels", "in_chans": "channels"}
"""What parameters of people's functions are called, in place of ours."""
_RESERVED = ("weights", "checkpoint", "pretrained")
"""How arguments of torchvision and timm begin that load weights, as `network` does."""


@final
@dataclass(frozen=True)
class Original:
    """What a supernet was made of.

    Attributes:
        module: the network with its weights as they were, in eval mode; None if its weights are
            new and it was not converted.
        is_converted: whether it has no decisions, so that it runs by itself.
        digest: of its weights; None if they are new, drawn from the recipe's seed.
        is_given: whether the recipe gives its weights.
        new_classifier: the module that is new, because the weights are of other classes.
    """

    module: nn.Module | None = None
    is_converted: bool = False
    digest: str | None = None
    is_given: bool = False
    new_classifier: str | None = None

    @property
    def teaches(self) -> bool:
        """Whether it is known to be trained for the classes of the images."""
        return self.is_converted and self.is_given and self.new_classifier is None


def build_network(recipe: Recipe, data: DataDescription) -> nn.Module:
    """The recipe's module, initialised from its seed; raises what `make_network` does."""
    with seeded(recipe.seed, "weights"):
        return make_network(recipe, data)


def make_network(recipe: Recipe, data: DataDescription) -> nn.Module:
    """The recipe's module, without decisions if it is to be converted, with new weights.

    They come from torch's random state.

    Raises:
        RecipeError: for an unknown network, arguments it does not take, or images that do not fit.
        ImportError: for one of timm without timm.
    """
    settings, defaults = recipe.network, data.defaults
    if settings.name == GIVEN:
        return given_network(recipe)
    if settings.library is not None and not {"channels", "classes"} <= defaults.keys():
        raise RecipeError(
            f"network.name = {settings.name!r} is for images of classes; for other data name a "
            "function of your own (network.name = 'package.module:function') or give a network in "
            "Python: ms.run(network=...)"
        )
    if settings.library == "torchvision":
        return _of_torchvision(settings, defaults["channels"], defaults["classes"])
    if settings.library == "timm":
        return _of_timm(settings, in_chans=defaults["channels"], num_classes=defaults["classes"])
    if settings.name not in NETWORKS and settings.name in _torchvision_names():
        raise RecipeError(
            f"unknown network {settings.name!r}; did you mean 'torchvision:{settings.name}'?"
        )
    sides = {"image_size": min(data.image_shape[1:])} if data.image_shape else {}
    try:
        return build(
            "network",
            settings.name,
            settings.options,
            table=NETWORKS,
            contract=nn.Module,
            context={},
            defaults={**sides, **defaults, **_by_other_names(settings.name, defaults)},
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _by_other_names(name: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes by the names that libraries give them, as far as a function has such parameters."""
    takes = inspect.signature(look_up("network", name, NETWORKS)).parameters
    return {
        other: sizes[ours]
        for other, ours in _OTHER_NAMES.items()
        if other in takes and ours in sizes
    }


def build_supernet(
    recipe: Recipe,
    data: DataDescription,
    *,
    sharing: Sharing | None = None,
    given: bool = True,
    kept: Path | None = None,
) -> tuple[Supernet, Original]:
    """The recipe's supernet, and the network that it was made of.

    Args:
        recipe: the recipe.
        data: what they are made for, such as `Splits`.
        sharing: which weights a path gets; by default one copy. Further copies begin near the
            weights that are given.
        given: whether to begin with the weights that the recipe gives, or with new ones.
        kept: where a run keeps the weights that it began with, if it does.

    Raises:
        RecipeError: for what `make_network` finds, weights that cannot be had or do not fit, or a
            network that cannot be converted.
        ValueError: for options that disagree in shape.
    """
    settings = recipe.network
    module = build_network(recipe, data)
    is_given, new_classifier = given and settings.has_weights, None
    if is_given:
        new_classifier = _load(recipe, data, module, kept)
    is_code = settings.library is None and settings.convert is not None
    marked = digest(module.state_dict()) if is_given or is_code else None
    original = Original(None, settings.convert is not None, marked, is_given, new_classifier)
    if settings.convert is not None:
        net = converted(recipe, data, module)
        original = replace(original, module=module.eval())
        if sharing is None:
            return net, original
        state, conversion, module = net.state_dict(), net.conversion, net.model
    else:
        if is_given:
            original = replace(original, module=copy.deepcopy(module).eval())
        state, conversion = {f"model.{n}": t for n, t in module.state_dict().items()}, None
    net = Supernet(module, sharing=sharing, **data.takes)
    net.conversion = conversion
    if (is_given or settings.name == GIVEN) and net.sharing.copies > 1:
        net.load_state_dict(widen(net, state, seed=recipe.seed))
    return net, original


def converted(recipe: Recipe, data: DataDescription, module: nn.Module) -> Supernet:
    """A supernet of a network without decisions, as `network.convert` says; the network stays.

    Raises:
        RecipeError: if it cannot be converted.
    """
    assert recipe.network.convert is not None
    options = recipe.network.convert.model_dump()
    if options["importance"] == "none":
        options["importance"] = None
    inputs = data.example
    if inputs is None:
        generator = torch_generator("any", "checks")
        inputs = torch.randn((2, *data.image_shape), generator=generator)
    try:
        net = convert(module, inputs, **options)
    except ValueError as error:
        hint = ""
        if data.example is None:
            hint = (
                f". Images are of shape {data.image_shape}: data.image_size changes that, and "
                "network.options say it to a network that is made for one size (image_size in "
                "torchvision, img_size in timm)"
            )
        raise RecipeError(f"network.name = {recipe.network.name!r}: {error}{hint}") from error
    net.input_shape = data.takes.get("input_shape")
    return net


def build_sharing(recipe: Recipe, data: DataDescription) -> Sharing:
    """The recipe's weight-sharing scheme.

    Raises:
        RecipeError: for an unknown one, or options it does not take.
    """

    def init() -> nn.Module:
        module = make_network(recipe, data)
        return module if recipe.network.convert is None else converted(recipe, data, module).model

    sharing = recipe.sharing
    try:
        return make_sharing(sharing.name, sharing.options, seed=recipe.seed, init=init)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def said_of_classifier(original: Original) -> str:
    """That the classifier is new, where weights are of other classes; empty if it is not."""
    if original.new_classifier is None:
        return ""
    return (
        "the weights that network.weights or network.pretrained give are of other classes than "
        f"these images: the classifier {original.new_classifier!r} is new, and learns by training"
    )


def keep_original(original: Original, recipe: Recipe, data: DataDescription, path: Path) -> None:
    """Writes given weights to the folder of a run, which needs nothing but itself to go on."""
    if original.module is not None and original.is_given and not path.exists():
        made_for = f"{_made_for(recipe, data)} {original.new_classifier or ''}"
        save_weights(path, original.module, made_for)


# -- networks of libraries -------------------------------------------------------------------------


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _of_torchvision(settings: NetworkSettings, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    if channels not in (1, 3):
        raise RecipeError(
            f"network.name = {settings.name!r} takes images of 3 channels, or of 1, which it sees "
            f"as three equal ones; these have {channels}"
        )
    name = _known(settings, _torchvision_names())
    options = {"num_classes": classes, **settings.options}
    try:
        model: nn.Module = models.get_model(name, weights=None, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"network.name = {settings.name!r}: {error}") from error
    if channels == 1:
        _see_grey(model, settings.name)
    return model


def _see_grey(model: nn.Module, name: str) -> None:
    """Gives the first convolution one input channel, in place."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            grey = nn.Conv2d(
                1,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, grey)
            return
    raise RecipeError(
        f"network.name = {name!r} has no convolution of 3 input channels that could see these grey "
        "images: take another network, or images in colour"
    )


def _of_timm(settings: NetworkSettings, **arguments: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"network.name = {settings.name!r} needs timm: pip install 'manyshot[timm]'"
        ) from error
    name = settings.name.partition(":")[2]
    _known(settings, [name] if timm.is_model(name) else timm.list_models())
    try:
        model: nn.Module = timm.create_model(name, **{**arguments, **settings.options})
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"network.name = {settings.name!r}: {error}") from error
    return model


def _known(settings: NetworkSettings, names: list[str]) -> str:
    """The name of a library's network.

    Raises:
        RecipeError: for an unknown one, or options that load weights.
    """
    library, _, name = settings.name.partition(":")
    if name not in names:
        raise RecipeError(
            f"network.name = {settings.name!r}: {library} has no such network; "
            f"{nearest(name, names)}it has {len(names)}, such as {', '.join(names[:3])}"
        )
    for option in settings.options:
        if option.startswith(_RESERVED):
            raise RecipeError(
                f"network.options.{option} is not for a recipe: give network.pretrained = true, "
                "or network.weights = FILE"
            )
    return name


# -- weights that are given ------------------------------------------------------------------------


def _load(recipe: Recipe, data: DataDescription, plain: nn.Module, kept: Path | None) -> str | None:
    """Loads the weights that a recipe gives, or those that a run kept; see `load_given`."""
    if kept is not None and kept.exists():
        tensors, metadata = read_weights(kept)
        made_for, _, new = metadata["fingerprint"].partition(" ")
        if made_for == _made_for(recipe, data):
            load_given(plain, tensors, data.classes, str(kept))
            return new or None
    settings, where = recipe.network, "network.pretrained"
    if settings.weights is None:
        state = published(settings, data.image_shape[0])
    else:
        where = f"network.weights = {settings.weights!r}"
        state = read_state(Path(settings.weights))
    try:
        return load_given(plain, state, data.classes, where)
    except CheckpointError as error:
        raise RecipeError(str(error)) from error


def _made_for(recipe: Recipe, data: DataDescription) -> str:
    """Identifies what the weights that a run keeps depend on, beside their source."""
    told = [recipe.network.model_dump(exclude={"convert"}), recipe.seed, data.defaults]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def published(settings: NetworkSettings, channels: int) -> Mapping[str, Tensor]:
    """The weights that a library publishes for its network.

    Raises:
        RecipeError: if there are none, or they cannot be downloaded.
    """
    name = settings.name.partition(":")[2]
    try:
        if settings.library == "timm":
            return _of_timm(settings, pretrained=True, in_chans=channels).state_dict()
        from torchvision import models

        state: Mapping[str, Tensor] = models.get_model_weights(name).DEFAULT.get_state_dict(
            progress=False, check_hash=True
        )
        return state
    except ImportError:
        raise
    except Exception as error:  # each library, and what it downloads with, has its own
        raise RecipeError(
            f"network.pretrained: the weights of {settings.name!r} could not be had ({error}): "
            "download them where there is a network, and give the file as network.weights"
        ) from error


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a file, by name; no code in it is run.

    Args:
        path: safetensors, or what `torch.save` wrote of a state dict or of a dict that has one.

    Raises:
        RecipeError: if it cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RecipeError(f"network.weights: there is no file {path}") from None
    except Exception as error:  # torch and safetensors raise half a dozen types
        words = str(error).partition(".")[0]  # torch goes on to say how code in it could be run
        raise RecipeError(
            f"network.weights = {str(path)!r} cannot be read ({words}): give a safetensors file, "
            "or what torch.save(model.state_dict(), FILE) wrote"
        ) from error
    for key in _WRAPPED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    is_state = isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())
    if not is_state or not state:
        raise RecipeError(
            f"network.weights = {str(path)!r} holds no state dict but {type(state).__name__}: "
            "write it by torch.save(model.state_dict(), FILE)"
        )
    if all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
    checked: Mapping[str, Tensor] = state
    return checked


def load_given(
    model: nn.Module, state: Mapping[str, Tensor], classes: int, where: str
) -> str | None:
    """Loads weights into a network, all but a classifier for other classes.

    A first convolution of grey images takes the sum of one for colours: it sees them as three
    equal channels.

    Args:
        model: the network, whose classifier has `classes` outputs.
        state: the weights, by name.
        classes: how many.
        where: where they are from, for messages.

    Returns:
        The path of the classifier that stayed as it was, because those of `state` are of another
        number of classes; None if all was loaded.

    Raises:
        CheckpointError: if they are of another network, or are not finite.
    """
    held = model.state_dict(keep_vars=True)
    by_tensor = {id(held[name]): state[name] for name in state if name in held}
    loaded = {name: by_tensor.get(id(tensor)) for name, tensor in held.items()}
    wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, tensor in loaded.items():
        if tensor is None:
            continue
        if tensor.dim() == 4 and tensor.shape[1] == 3 and held[name].shape[1] == 1:
            tensor = loaded[name] = tensor.sum(1, keepdim=True)
        if tensor.shape != held[name].shape:
            wrong[name] = (tuple(tensor.shape), tuple(held[name].shape))
    missing = [
        name
        for name, tensor in loaded.items()
        if tensor is None and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in state if name not in held]
    is_classifier = len({theirs[:1] for theirs, _ in wrong.values()}) == 1 and all(
        ours[0] == classes and theirs[1:] == ours[1:] for theirs, ours in wrong.values()
    )
    if missing or unknown or (wrong and not is_classifier):
        first = [f"{name} is {theirs}, here {ours}" for name, (theirs, ours) in wrong.items()]
        raise CheckpointError(
            f"{where}: the weights are of another network: missing {missing[:3]}, unknown "
            f"{unknown[:3]}, other shapes {first[:3]} ({len(missing)}, {len(unknown)}, "
            f"{len(first)} in all): give network.name and network.options as they were trained; "
            f"only a classifier of other classes than these {classes} may differ, which is made new"
        )
    kept = {name: tensor for name, tensor in loaded.items() if tensor is not None}
    for name, _ in model.named_parameters():
        if name in kept and not torch.isfinite(kept[name]).all():
            raise CheckpointError(
                f"{where}: the weights {name!r} are not all finite, of a training that diverged: "
                "give those of an earlier checkpoint"
            )
    model.load_state_dict({**held, **{n: t for n, t in kept.items() if n not in wrong}})
    return next(iter(wrong)).rpartition(".")[0] if wrong else None
