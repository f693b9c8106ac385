"""What a run records of its winners' predictions, compared with what these predict."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline import run as whole_run
from manyshot.pipeline.stages import examples
from manyshot.recipe import Recipe
from manyshot.run_folder import PredictionsRecord, RunFolder
from photos import COLOURS, tinted

BASE = [
    "network.name=plain_nets:plain", "network.convert={}", "data.name=folder",
    "data.validation=12", "train.epochs=1", "train.batch_size=16", "train.lr=0.02",
    "evaluate.calibration_images=24", "evaluate.batch_size=8", "search.budgets=['macs<=60%']",
    "search.candidates=4", "search.generation=2", "search.name=random",
    "finish.training.epochs=1", "finish.training.batch_size=16", "latency.warmup=0",
    "latency.repeats=1", "export.formats=[]", "seed=1",
    "controls={largest=true, random=1, scaled=false}",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of three colours, 72 pixels, that are easily taken for one another."""
    numbers = {"train": (16, 15, 14), "test": (7, 6, 5)}
    return tinted(tmp_path_factory.mktemp("data") / "photos", 72, 5, numbers)


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe.load(None, [*BASE, f"data.root={photos}"])
    whole_run(recipe, folder)
    return folder, recipe


def predicted(folder, photos, recipe):
    """Files, labels and probabilities of all test images, read and normalised here."""
    files = sorted((photos / "test").glob("*/*.png"))
    splits = Workspace.build(recipe).splits
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (splits.mean, splits.std))
    pixels = [torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) / 255 for f in files]
    [winner] = ms.Run(folder).winners
    with torch.no_grad():
        logits = winner.module()(torch.stack([(p - mean) / std for p in pixels]))
    labels = [COLOURS.index(file.parent.name) for file in files]
    return winner, files, np.array(labels), logits.softmax(1).numpy()


def test_what_is_recorded_is_what_the_winner_predicts(done, photos):
    folder, recipe = done
    winner, files, labels, shares_NC = predicted(folder, photos, recipe)
    record = RunFolder(folder).predictions("-".join(map(str, winner.arch)))
    best = shares_NC.argmax(1)
    for label in range(3):
        of_label = best[labels == label]
        assert record.confusion[label] == tuple((of_label == other).sum() for other in range(3))
        assert record.class_images[label] == len(of_label) == 7 - label
        assert record.class_right[label] == (of_label == label).sum()
    [told] = json.loads((folder / "result.json").read_text())["winners"]
    assert sum(record.class_right) / 18 == pytest.approx(told["test_score"])
    wrong = np.flatnonzero(best != labels)
    assert len(wrong) > 1, "else nothing is tested"
    surest = sorted(wrong, key=lambda i: -shares_NC[i].max())[: examples.WRONG]
    assert [e.index for e in record.wrong] == surest
    assert record.right and all(best[e.index] == labels[e.index] for e in record.right)
    for example in (*record.right, *record.wrong):
        assert example.file.endswith(
            f"{files[example.index].parent.name}/{files[example.index].name}"
        )
        assert (example.label, example.predicted) == (labels[example.index], best[example.index])
        assert example.probability == pytest.approx(shares_NC[example.index].max(), abs=1e-4)


def test_examples_are_small_pictures_of_the_files(done, photos):
    folder, recipe = done
    winner, files, _, _ = predicted(folder, photos, recipe)
    record = RunFolder(folder).predictions("-".join(map(str, winner.arch)))
    for example in (*record.right, *record.wrong):
        head, _, text = example.image.partition(",")
        assert head == "data:image/png;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(text)))
        assert shown.size == (examples.SIDE, examples.SIDE)
        small = Image.open(files[example.index]).resize(shown.size, Image.Resampling.BICUBIC)
        gap = np.abs(np.asarray(shown, dtype=float) - np.asarray(small, dtype=float))
        assert gap.mean() < 2, "another image is tens away"


def test_winners_alone_have_such_a_file(done):
    folder, _ = done
    result = json.loads((folder / "result.json").read_text())
    others = {c["arch"] for c in result["controls"]} - {w["arch"] for w in result["winners"]}
    assert others
    written = {path.name for path in (folder / "subnets").glob("*.tested.json")}
    assert written == {f"{w['arch']}.tested.json" for w in result["winners"]}


def test_many_classes_have_no_confusion_matrix(photos, monkeypatch):
    ws = Workspace.build(Recipe.load(None, [*BASE, f"data.root={photos}"]))
    labels = ws.splits.test.labels
    logits = torch.nn.functional.one_hot(labels, 3).float()
    assert examples.predictions(ws, logits, labels).wrong == ()
    assert examples.predictions(ws, logits, labels).confusion == ((7, 0, 0), (0, 6, 0), (0, 0, 5))
    monkeypatch.setattr(examples, "MOST_CLASSES", 2)
    assert examples.predictions(ws, logits, labels).confusion is None


def test_a_record_whose_parts_do_not_fit_is_refused(done):
    folder, _ = done
    [path] = (folder / "subnets").glob("*.tested.json")
    record = json.loads(path.read_text())
    for changes in (
        {"class_right": record["class_right"][:2]},
        {"confusion": record["confusion"][:2]},
        {"right": [{**record["right"][0], "label": 3}]},
        {"right": [{**record["right"][0], "image": "https://example.org/a.png"}]},
    ):
        with pytest.raises(ValueError, match=r"class_images|pattern"):
            PredictionsRecord.of({**record, **changes})
