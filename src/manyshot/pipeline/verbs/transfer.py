"""Moving a trained supernet to other images: its recipe, its weights, its new classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyshot import records
from manyshot.data.sources import CHANNELS
from manyshot.pipeline.stages.adopt import digest_of
from manyshot.plugins import shown
from manyshot.recipe import FILES, Recipe, RecipeError
from manyshot.run_folder import WEIGHTS, RunFolder
from manyshot.shipped import located
from manyshot.toml import override, read

HEAD_RATE = 10
"""Default ratio of the classifier's learning rate to the body's while the search shifts."""
WATCHED = 50
"""Default number of networks that are watched: whether the moved supernet orders them."""
_FROZEN = (("name", "none"), ("watched", 0))
"""Settings of `[shifting]` of a run that are not taken over."""
_KEPT = ("validation", "workers")
"""Keys of the source run's `[data]` that the target inherits."""
_KEPT_OF_IMAGES = ("pad", "flip", "crop_scale", "jitter", "image_size")
"""Further ones that it inherits if it is not data of your own, to which nothing is done."""
_KEPT_OF_FILES = ("bad", "memory")
"""Further ones that it inherits if its images are in a folder."""


def transfer_recipe(run: Path, path: Path | None, data: str | None, overrides: list[str]) -> Recipe:
    """What to do on the target: the recipe at `path`, or that of the run itself.

    Network and sharing are those of the run, but for what its slices began as. Budgets that it
    chose itself, because its recipe had none, are not taken over: the target gets default ones as
    any run does; nor is a teacher, since it knows the classes of the run, nor are sizes that images
    grow through, since they end at that of the run's images. Where the recipe does not say, the
    supernet shifts on the population, its classifier at `HEAD_RATE` times the rate of all else, and
    `WATCHED` networks are watched.

    Args:
        run: the folder of the run whose supernet is taken.
        path: a recipe; without one, the run's, but for images and sampler.
        data: name of the target data set; by default the recipe's.
        overrides: such as `data.root=PATH`.

    Raises:
        RecordError: if the run has no supernet.
        RecipeError: for what `Recipe.load` finds, another network or sharing than the run's, if no
            target is given, or if its images are known to have other channels than the run's.
    """
    weights, own = RunFolder(run).weights, read(RunFolder(run).recipe_file)
    if not weights.exists():
        raise records.RecordError(f"{run} has no {WEIGHTS}: train it first with manyshot train")
    values, source = read(path and located(path)), str(run if path is None else path)
    own["sharing"] = {k: v for k, v in own["sharing"].items() if k != "inherit"}
    if path is None:
        about_images = ("data", "sampler", "shrink", "name")
        values = {key: value for key, value in own.items() if key not in about_images}
        values["search"] = _without_default_budgets(run, own["search"])
        values["shifting"] = {k: v for k, v in own["shifting"].items() if (k, v) not in _FROZEN}
        if values.pop("teacher", {}).keys() & {"run", "name"}:  # it knows the run's own classes
            for section in ("train", "finish"):
                values[section] = {
                    k: v for k, v in own[section].items() if v != "network" and k != "distillation"
                }
        for section in (values.get("train", {}), values.get("finish", {}).get("training", {})):
            section.pop("image_sizes", None)
    for part in ("network", "sharing"):
        values.setdefault(part, own[part])
    target = [] if data is None else [f"data.name={data!r}"]
    for text in [*overrides, *target, f"transfer.source={digest_of(weights)!r}"]:
        override(values, text)
    if overrides:
        source = f"{source} with {' '.join(f'--set {shown(text)}' for text in overrides)}"
    shifts = {"name": "population", "watched": WATCHED}
    for section, given in (("data", {}), ("shifting", shifts)):
        if isinstance(values.setdefault(section, {}), dict):  # else a recipe refuses it
            values[section] = given | values[section]
    if path is None and isinstance(values["data"], dict):
        name = str(values["data"].get("name"))
        kept = (
            *_KEPT,
            *(_KEPT_OF_IMAGES if ":" not in name else ()),
            *(_KEPT_OF_FILES if name in FILES else ()),
        )
        look = {key: value for key, value in own["data"].items() if key in kept}
        values = {
            "name": f"{own['name']}-{name.rpartition(':')[2]}",
            **values,
            "data": look | values["data"],
        }
    asked = Recipe.build(values, (), source)
    if "name" not in asked.data.model_fields_set:
        raise RecipeError("give the target: --data NAME, or a recipe with data.name")
    check_channels(run, CHANNELS.get(asked.data.name), asked.data.name)
    if asked.sampler != Recipe(network=asked.network).sampler:
        raise RecipeError(
            f"{source}: [sampler] says which paths train a supernet, and a transfer takes one that "
            "is trained: leave it out"
        )
    if "head_lr" not in asked.shifting.model_fields_set:
        faster = asked.shifting.model_copy(update={"head_lr": HEAD_RATE * asked.shifting.lr})
        asked = asked.model_copy(update={"shifting": faster})
    trained = RunFolder(run).recipe()
    if trained.shrinks:
        raise RecipeError(
            f"the supernet in {run} ended in a view of its space (shrink.name = "
            f"{trained.shrink.name!r}), and a transfer trains and searches all of it: take a run "
            "whose space did not shrink"
        )
    shared = trained.sharing.model_copy(update={"inherit": None})
    for part, theirs in (("network", trained.network), ("sharing", shared)):
        if getattr(asked, part) != theirs:
            raise RecipeError(
                f"{source}: {part} is not that of the supernet in {run}: leave it out, the run's "
                "is taken"
            )
    return asked


def check_channels(run: Path, channels: int | None, name: str) -> None:
    """Refuses images of other channels than those that the supernet of a run was trained on.

    Args:
        run: the folder of the run.
        channels: of the images to move to; None if they are not known yet.
        name: of the data set.

    Raises:
        RecipeError: then.
    """
    described = RunFolder(run).space()
    if channels is None or described is None or described.images is None:
        return
    [trained] = described.images.image_shape[:1] or [None]
    if channels != trained and trained is not None:
        raise RecipeError(
            f"data.name = {name!r} has images of {channels} channel{'s' * (channels > 1)}, and the "
            f"supernet in {run} was trained on {trained} ({described.images.name}): a transfer "
            "keeps all weights but the classifier's, so give images of as many channels, or train "
            "a supernet on these by manyshot run"
        )


def _without_default_budgets(run: Path, search: dict[str, Any]) -> dict[str, Any]:
    """The `[search]` of a run without budgets, if it chose them itself."""
    described = RunFolder(run).space()
    if described is None or described.default_budgets is None:
        return search
    if list(described.default_budgets) != search.get("budgets"):
        return search
    return {key: value for key, value in search.items() if key != "budgets"}
