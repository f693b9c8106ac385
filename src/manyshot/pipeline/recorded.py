"""What is made of a run by its folder alone: the images that it learnt from need not be there."""

from __future__ import annotations

import torch
from torch import nn

from manyshot.data import DataDescription
from manyshot.pipeline.networks import build_sharing, build_supernet
from manyshot.pipeline.plain import fit_classes, plain_module
from manyshot.recipe import Recipe
from manyshot.records import RecordError
from manyshot.run_folder import RunFolder
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train import load_weights


def described_images(run: RunFolder) -> DataDescription | None:
    """What a run's networks take, by its records alone; None if these are of no images.

    Of a run from before that was written, mean and std are empty.
    """
    space = run.space()
    images = None if space is None else space.images
    if images is None or not images.image_shape or "train" not in images.class_counts:
        return None
    return DataDescription(
        classes=len(images.class_counts["train"]),
        image_shape=images.image_shape,
        mean=images.mean or (),
        std=images.std or (),
        class_names=images.class_names,
        keeps_aspect=bool(images.keeps_aspect),
    )


def trained_supernet(
    run: RunFolder, recipe: Recipe, data: DataDescription, device: torch.device
) -> Supernet:
    """The supernet of a run with the weights that its search ended with.

    Args:
        run: the folder.
        recipe: the run's.
        data: what its images are.
        device: where the supernet is to be.

    Raises:
        RecordError: if it is not trained.
        CheckpointError: if its weights are damaged.
    """
    weights = run.final_weights(recipe)
    net, _ = build_supernet(
        recipe,
        data,
        sharing=build_sharing(recipe, data),
        given=not recipe.moves,
        kept=run.original,
    )
    fit_classes(recipe, net, data.classes)
    load_weights(weights, net)
    return net.to(device)


def finished_network(run: RunFolder, net: Supernet, arch: Arch) -> nn.Module:
    """The finished network of a winner, a control or what was exported, in eval mode.

    Args:
        run: the folder.
        net: a supernet such as `new_supernet` makes, of which the network is extracted.
        arch: the architecture.

    Raises:
        RecordError: if it is not finished, or its weights are not there.
        CheckpointError: if they are damaged.
    """
    text = net.space.to_text(arch)
    weights, line = run.finished_weights(text), run.finished_line(text)
    if line is None or not weights.exists():
        raise RecordError(
            f"{weights} is missing: finish the architecture with Run.export(arch, 'pt2')"
        )
    module = plain_module(net, arch, next(net.parameters()).device)
    load_weights(weights, module, line.fingerprint)
    return module.eval()
