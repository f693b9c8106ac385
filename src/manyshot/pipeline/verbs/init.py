"""A first recipe for somebody's images, in which comments say why every value is what it is."""

from __future__ import annotations

import os
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyshot.cost import macs_table
from manyshot.data import DATASETS, Splits
from manyshot.data.shards import shards_of
from manyshot.pipeline.checks import check_classes
from manyshot.pipeline.given import load_data
from manyshot.pipeline.networks import build_supernet
from manyshot.progress import Progress, Silent, showing
from manyshot.recipe import FILES, OF_FOLDERS, Recipe, RecipeError, epochs_to_see
from manyshot.toml import in_one_line

MOBILE, MOBILE_SIDE = "torchvision:mobilenet_v3_small", 64
"""The network for images of at least so many pixels on a side, which it halves five times."""
SMALL_SIDE = 16
"""Below that `tiny` is for them, which halves them twice."""
CONVOLUTIONS = "convnet"
"""The network for images between these."""
SHARES = (25, 50, 75)
"""Budgets in percent of the largest network's multiply-adds, of those that can be met."""
ROOM = 1.1
"""A budget is at least so many times the cheapest network, so that there is something to find."""
IMAGES_SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 400_000, 10, 100
"""Epochs are so many that about as many images are seen, within these bounds."""
FLIPPED = ("cifar10", "cifar100", *FILES)
"""Data sets of things that look the same in a mirror, as far as one can guess."""


@dataclass(frozen=True)
class _Line:
    """A key with its value, and why it has that."""

    key: str
    value: Any
    why: str


_Sections = dict[str, list[_Line]]


def init(data: Path | None, out: Path, progress: Progress | None = None) -> Recipe:
    """Writes a commented recipe for images, and returns it.

    Args:
        data: a folder with `train/CLASS/*`, or the name of a data set; None is `digits`.
        out: the file, which must not exist.
        progress: shows how far the look at the images is.

    Raises:
        RecipeError: if `out` exists, or `data` is neither a folder nor a data set, or one of a
            single class.
        DataNotFound: if the folder has no `train`.
        ValueError: for images that cannot be used.
    """
    if out.exists():
        raise RecipeError(f"{out} exists, and is not overwritten: give another file by --out")
    with showing(progress or Silent()):
        text, recipe = suggested(data)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{out} exists by now, and is not overwritten: give --out") from None
    except OSError as error:
        raise RecipeError(f"{out} cannot be written: {error.strerror}: give --out") from error
    return recipe


def suggested(data: Path | None) -> tuple[str, Recipe]:
    """The text of a recipe for images, and the recipe that it reads as; see `init`."""
    section = _data_section(data)
    values = {"data": {**section, "memory": "0B"}}  # nothing is decoded but what is looked at
    asked = Recipe.build(values, (), "the data")
    splits = load_data(asked)
    check_classes(asked, splits)
    network, why = _network(splits)
    sections = {
        "network": [_Line("name", network, why)],
        "data": _data(section, splits),
        **_training(network, splits),
    }
    drafted = _recipe(_text(splits, sections))
    macs = macs_table(build_supernet(drafted, splits)[0])
    least, greatest = macs.range()
    sections["search"] = _search(least, greatest, converts=drafted.network.convert is not None)
    sections |= _rest(network, splits)
    text = _text(splits, sections)
    return text, _recipe(text)


def _recipe(text: str) -> Recipe:
    """What a text reads as, as when it is read from a file."""
    return Recipe.build(tomllib.loads(text), (), "the new recipe")


def _data_section(data: Path | None) -> dict[str, Any]:
    """`[data]` as far as it says which images."""
    if data is None:
        return {"name": "digits"}
    names = [name for name in DATASETS if name not in FILES]
    if str(data) in names and not data.exists():
        return {"name": str(data)}
    if not data.is_dir():
        raise RecipeError(
            f"--data {data} is neither a folder with train/CLASS/* or train/*.tar nor one of "
            f"{', '.join(names)}"
        )
    name = "shards" if shards_of(data, "train") else "folder"
    return {"name": name, "root": os.path.abspath(data)}


def _side(splits: Splits) -> int:
    return min(splits.image_shape[1:])


def _network(splits: Splits) -> tuple[str, str]:
    """The network for images of such a size, and why."""
    side = _side(splits)
    if side >= MOBILE_SIDE:
        return MOBILE, (
            f"A mobile network of torchvision, converted: its widths and depths become decisions. "
            f"It halves images five times, so that {side} pixels become {side // 32}. Others are "
            "torchvision:mobilenet_v3_large, torchvision:resnet18, timm:efficientnet_b0 (with the "
            "extra timm), or package.module:function of your own."
        )
    if side >= SMALL_SIDE:
        return CONVOLUTIONS, (
            "Plain convolutions with every width and depth open, for images of any size. Mobile "
            f"networks of libraries halve images five times, and {side} pixels would become "
            f"{max(1, side // 32)}: convert one where image_size is larger."
        )
    return "tiny", (
        f"Four layers that choose among four operations, for images as small as {side} pixels."
    )


def _data(section: dict[str, Any], splits: Splits) -> list[_Line]:
    side, name = _side(splits), section["name"]
    lines = [_Line("name", name, _about(splits))]
    if "root" in section:
        lines.append(_Line("root", section["root"], "Where the images are."))
        lines.append(
            _Line(
                "image_size",
                side,
                "Images are scaled to cover so many pixels and cut in the centre: about the "
                "median shorter side of yours, 224 at most. Fewer are faster, more show more.",
            )
        )
    train, validation = len(splits.train), len(splits.validation)
    lines.append(
        _Line(
            "validation",
            0.2,
            f"Of the training images so many are held out to score networks on: {validation}, and "
            f"{train} are left to learn from. The test images are used once, at the end.",
        )
    )
    flips = name in FLIPPED
    why = "Random mirror images: set it to false where left and right differ, as in letters."
    if not flips:
        why = "No mirror images, since these would be other signs."
    lines.append(_Line("flip", flips, why))
    if side >= MOBILE_SIDE:
        lines.append(_Line("pad", 0, "No random shifts, since random crops are such too."))
        why = "Random crops keep so much of the area: raise the first where things are at the edge."
        lines.append(_Line("crop_scale", [0.5, 1.0], why))
        return lines
    lines.append(_Line("pad", max(1, side // 10), "Random shifts of up to so many pixels."))
    if flips:
        lines.append(_Line("padding_mode", "edge", "What comes in there repeats the edge."))
        why = "Random changes of brightness, contrast and saturation, of up to so much."
        lines.append(_Line("jitter", 0.2, why))
    return lines


def _about(splits: Splits) -> str:
    """What the images are: classes, numbers, sizes, and what is uneven about them."""
    counts = splits.class_counts
    train = counts["train"]
    channels, height, width = splits.image_shape
    parts = ", ".join(f"{sum(counts[part])} in {part}" for part in ("train", "validation", "test"))
    words = (
        f"{splits.classes} classes, {parts}; {'grey' if channels == 1 else 'in colour'}, "
        f"{height}x{width} pixels in a batch."
    )
    if splits.class_names is not None:
        shown = ", ".join(splits.class_names[:8])
        more = splits.classes - 8
        words += f" Classes are {shown}{f' and {more} more' if more > 0 else ''}."
    if max(train) > 2 * min(train):
        rarest = train.index(min(train))
        name = str(rarest) if splits.class_names is None else splits.class_names[rarest]
        words += (
            f" They are uneven: {min(train)} to {max(train)} images to learn from, the fewest of "
            f"{name}. Look at the balanced accuracy of the winners too."
        )
    return words


def _epochs(network: str, splits: Splits) -> tuple[int, int]:
    """Epochs of the supernet, and of its winners."""
    train = len(splits.train)
    if network == CONVOLUTIONS:
        every = train + len(splits.validation)
        return _least_epochs("train", train), _least_epochs("training", every)
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(IMAGES_SEEN / train)))
    return epochs, max(5, epochs // 5)


def _least_epochs(section: str, images: int) -> int:
    """The epochs that a section comes to by default, of so many images."""
    defaults, _ = OF_FOLDERS[section]
    epochs: int = max(defaults["epochs"], epochs_to_see(defaults["least_images"], images))
    return epochs


def _training(network: str, splits: Splits) -> _Sections:
    size = _batch_size(splits)
    lines = [
        _Line(
            "epochs",
            _epochs(network, splits)[0],
            f"Of {len(splits.train) // size} steps each. More make the order of networks more "
            "trustworthy. manyshot run FILE --dry-run says how long they take here; minutes = 30 "
            "in place of epochs takes as many as fit.",
        ),
        _Line("batch_size", size, "Images per step; each class is to be in most of them."),
    ]
    if network == CONVOLUTIONS:
        return {"train": lines + _optimised("train")}
    why = "The highest learning rate, which goes down to 0 along a cosine."
    return {"train": [*lines, _Line("lr", 0.05, why)]}


_WHYS = {
    "optimizer": "It needs less care for its rate than SGD.",
    "lr": "The highest learning rate, which goes down to 0 along a cosine.",
    "weight_decay": "Usual for AdamW.",
    "warmup_epochs": "The rate rises to the highest over so many epochs.",
    "label_smoothing": "So much of every target is shared out over all classes.",
    "precision": "bf16 where the processor or the GPU has units for it, and else fp32.",
}


def _optimised(section: str) -> list[_Line]:
    """How `convnet` is trained by default (`train`), or its winners (`training`)."""
    defaults, _ = OF_FOLDERS[section]
    again = section == "training"
    return [_Line(key, defaults[key], "As above." if again else _WHYS[key]) for key in _WHYS]


def _batch_size(splits: Splits) -> int:
    """64 images, or so many fewer that there are some steps in an epoch."""
    size = 64
    while size > 2 and 4 * size > len(splits.train):
        size //= 2
    return size


def _search(least: float, greatest: float, *, converts: bool) -> list[_Line]:
    share = 100 * least / greatest
    shares = [one for one in SHARES if one > ROOM * share]
    budgets = [f"macs<={one}%" for one in shares]
    amounts = ", ".join(f"{_amount(greatest * one / 100)}" for one in shares)
    candidates = 200 if converts else 120
    return [
        _Line(
            "budgets",
            budgets,
            f"One network each. The largest network of this space has {_amount(greatest)} "
            f"multiply-adds and the smallest {share:.2g}% of them; these limits are {amounts}. "
            "Others are params<=1M, size<=5MB, latency_ms<=2.5 (measured here), or several at "
            "once with 'and'.",
        ),
        _Line(
            "candidates",
            candidates,
            "Networks scored in all. A score takes a forward pass of the validation images.",
        ),
        _Line("generation", candidates // 5, "Networks scored between two proposals."),
    ]


def _amount(number: float) -> str:
    """A number of multiply-adds as a budget has it."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= unit:
            return f"{number / unit:.3g} {suffix}"
    return f"{number:.3g}"


def _rest(network: str, splits: Splits) -> _Sections:
    _, epochs = _epochs(network, splits)
    rates = [_Line("lr", 0.01, "Lower than in training, since weights are good already.")]
    if network == CONVOLUTIONS:
        rates = _optimised("training")
    return {
        "finish": [
            _Line(
                "mode",
                "finetune",
                "Winners go on from the supernet's weights; 'inherit' keeps these as they are, "
                "and 'scratch' trains from new ones.",
            ),
            _Line(
                "data",
                "train+validation",
                "What they learn from: 'train+validation' are all images but the test images, "
                "once nothing is chosen by them any more.",
            ),
        ],
        "finish.training": [
            _Line("epochs", epochs, "For each winner, and each network that it is compared with."),
            _Line("batch_size", _batch_size(splits), "As in training."),
            *rates,
        ],
        "export": [
            _Line(
                "formats",
                ["pt2", "json"],
                "A program that needs torch alone, and its card; 'onnx' and 'int8' need the extra "
                "onnx.",
            )
        ],
    }


def _text(splits: Splits, sections: _Sections) -> str:
    """A recipe as TOML with comments."""
    whose = "your images" if splits.name in FILES else splits.name
    head = (
        f"A first recipe for {whose}, written by manyshot init. Every value is a suggestion and "
        "may be changed; manyshot recipe --keys explains all that may be set."
    )
    lines = [*_comment(head), "schema = 1", "seed = 0"]
    for name, keys in sections.items():
        lines += ["", f"[{name}]"]
        for line in keys:
            lines += [*_comment(line.why), f"{line.key} = {in_one_line(line.value)}"]
    return "\n".join(lines) + "\n"


def _comment(words: str) -> list[str]:
    printable = "".join(c if c.isprintable() else "?" for c in words)
    return textwrap.wrap(
        printable,
        98,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
