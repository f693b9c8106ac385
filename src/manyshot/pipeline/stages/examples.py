"""What a finished network predicts of the test images, from the pass that scores it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from manyshot import evaluate, records
from manyshot.data import Batch, ImageFolderSet, fixed
from manyshot.data.files import readable
from manyshot.evaluate import Score
from manyshot.pipeline.build import Workspace
from manyshot.run_folder import ExampleRecord, PredictionsRecord
from manyshot.tasks import Classification
from manyshot.tasks.task import exact, picked

PARTS = 20
"""Networks are scored on so many random parts of the test images too, for intervals."""
MOST_CLASSES = 100
"""Of more classes there is no confusion matrix."""
RIGHT, WRONG = 4, 6
"""So many images are shown that are classified right and wrong."""
SIDE = 56
"""Images are shown at most so many pixels wide and high."""


def classifies_images(ws: Workspace) -> bool:
    """Whether a run is about classes of grey or coloured images."""
    return isinstance(ws.task, Classification) and ws.splits.image_shape[:1] in ((1,), (3,))


def tested(ws: Workspace, subnet: nn.Module, text: str, path: Path | None) -> Score:
    """Scores a finished network on the test images, and writes what it predicts of them.

    Nothing is written of other data than images with classes.

    Args:
        ws: the run.
        subnet: the network.
        text: its architecture.
        path: the file that says what it predicts; None writes none.

    Raises:
        ValueError: if the score is not finite.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []

    def watched() -> Iterator[Batch]:
        for batch in ws.fixed("test", None):
            targets.append(batch[1].cpu())
            yield batch

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        assert isinstance(ws.task, Classification)
        outputs.append(exact(picked(output, ws.task.output).detach().cpu()))

    shows = path is not None and classifies_images(ws)
    hook = subnet.register_forward_hook(keep) if shows else None
    try:
        batches = watched() if shows else ws.fixed("test", None)
        score = evaluate.score_module(subnet, batches, task=ws.task, parts=PARTS)
    finally:
        if hook is not None:
            hook.remove()
    score = score.checked(f"the finished architecture {text} on test images")
    if path is not None and shows:
        record = predictions(ws, torch.cat(outputs), torch.cat(targets).long())
        records.write_json(path, record)
    return score


def predictions(ws: Workspace, logits: Tensor, labels: Tensor) -> PredictionsRecord:
    """What a network predicts of all test images, with some of them to look at.

    Args:
        ws: the run.
        logits: what it gives for each image, (images, classes).
        labels: the classes that they are of.
    """
    classes = logits.shape[1]
    likeliest, predicted = logits.softmax(1).max(1)
    is_right = predicted == labels
    confusion = None
    if classes <= MOST_CLASSES:
        pairs = torch.bincount(labels * classes + predicted, minlength=classes**2)
        confusion = tuple(map(tuple, pairs.reshape(classes, classes).tolist()))
    wrong = torch.nonzero(~is_right).flatten()
    order = torch.argsort(likeliest[wrong], descending=True, stable=True)[:WRONG]
    right, wrong_rows = _first_of_classes(labels, is_right), wrong[order].tolist()
    pictures = iter(_pictures(ws, [*right, *wrong_rows]))

    def shown(index: int) -> ExampleRecord:
        own = ws.splits.test
        return ExampleRecord(
            index=index,
            file=readable(own.paths[index]) if isinstance(own, ImageFolderSet) else None,
            label=int(labels[index]),
            predicted=int(predicted[index]),
            probability=float(likeliest[index]),
            image=next(pictures),
        )

    return PredictionsRecord(
        tested_on=ws.splits.digests["test"],
        class_images=tuple(torch.bincount(labels, minlength=classes).tolist()),
        class_right=tuple(torch.bincount(labels[is_right], minlength=classes).tolist()),
        confusion=confusion,
        right=tuple(map(shown, right)),
        wrong=tuple(map(shown, wrong_rows)),
    )


def _first_of_classes(labels: Tensor, is_right: Tensor) -> list[int]:
    """The first image that is classified right of each of some classes, spread over all classes."""
    of_class = {int(labels[i]): i for i in reversed(torch.nonzero(is_right).flatten().tolist())}
    order = sorted(of_class)
    rows = torch.linspace(0, len(order) - 1, min(RIGHT, len(order))).round().long().tolist()
    return [of_class[order[row]] for row in rows]


def _pictures(ws: Workspace, indices: Sequence[int]) -> list[str]:
    """Test images as networks see them, but smaller, as data URIs of PNG files."""
    from PIL import Image

    if not indices:
        return []
    channels = ws.splits.image_shape[0]
    [(pixels, _)] = fixed(
        ws.splits.test.subset(indices),
        None,
        len(indices),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        seed=ws.recipe.seed,
        channels_last=False,
    )
    texts = []
    for image in (255 * pixels).round().clamp(0, 255).to(torch.uint8):
        array = image.permute(1, 2, 0).contiguous().numpy()
        picture = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        texts.append(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}")
    return texts
