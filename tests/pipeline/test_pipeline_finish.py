"""What becomes of winners, and of any architecture: finished, tested once, exported."""

import contextlib
import hashlib
import json
import shutil

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot import records
from manyshot.cli import main
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.stages import alone, work
from manyshot.pipeline.stages.exports import ExportFailed
from manyshot.progress import Silent
from manyshot.seeding import seeded
from manyshot.train import engine, load_weights
from pipeline_runs import export_architecture, lines, outcome, run, small


def test_modes_differ_and_inherit_is_the_supernets_own(base, tmp_path):
    folder, recipe, finetuned = base
    results = {"finetune": finetuned}
    for mode in ("inherit", "scratch"):
        other = small(f"finish.mode={mode}")
        results[mode] = run(other, tmp_path / mode, trained=folder)
    winners = {mode: [w["arch"] for w in r["winners"]] for mode, r in results.items()}
    assert winners["inherit"] == winners["scratch"] == winners["finetune"]
    places = {"finetune": folder, "inherit": tmp_path / "inherit", "scratch": tmp_path / "scratch"}
    losses = {m: [row["test_loss"] for row in lines(p, "finish.jsonl")] for m, p in places.items()}
    distinct = len(set(winners["finetune"]))
    assert len({loss for own in losses.values() for loss in own}) == 3 * distinct
    assert [row["mode"] for row in lines(places["scratch"], "finish.jsonl")] == [
        "scratch"
    ] * distinct

    ws = Workspace.build(recipe)
    load_weights(folder / "supernet.safetensors", ws.net)
    for row in lines(places["inherit"], "finish.jsonl"):
        score = ms.evaluate.score(
            ws.net,
            ws.net.space.from_text(row["arch"]),
            calibration=ws.calibration(),
            validation=ws.fixed("test", None),
        )
        assert (row["test_score"], row["test_loss"]) == (score.value, score.loss)


def test_scratch_weights_owe_nothing_to_the_supernet(tmp_path):
    """Supernets trained differently give the same stand-alone network."""
    rows = []
    for epochs in (1, 2):
        recipe = small(
            "finish.mode=scratch", f"train.lr={0.1 * epochs}", "search.candidates=256",
            "search.generation=64", "search.budgets=['macs<=18%']",
        )  # fmt: skip
        folder = tmp_path / str(epochs)
        train_only(recipe, folder)
        export_architecture(recipe, folder, "0-1-2-3", test=True)
        rows += lines(folder, "exported.jsonl")
    losses = {row["test_loss"] for row in rows}
    assert len(losses) == 1


def test_scratch_begins_from_weights_of_its_own(base, monkeypatch):
    """Those of the seed after the run's, not those that the supernet began with."""
    folder, recipe, _ = base
    monkeypatch.setattr(alone, "fit", lambda *args, **kwargs: None)
    ws = Workspace.build(recipe)
    accelerator = engine(ws.device, recipe.train)
    settings = recipe.finish.model_copy(update={"mode": "scratch"})
    arch = (3, 2, 1, 0)
    subnet = alone.finished(ws, accelerator, folder, arch, settings, Silent())
    begun = ws.net.extract(arch).state_dict()
    with seeded(recipe.seed + 1, "weights"):
        fresh = ms.Supernet(ms.zoo.tiny(width=3)).extract(arch).state_dict()
    assert subnet.state_dict().keys() == fresh.keys()
    assert all(torch.equal(subnet.state_dict()[name], fresh[name]) for name in fresh)
    assert not torch.equal(begun["chain.0.0.weight"], fresh["chain.0.0.weight"])


def test_winners_may_learn_from_validation_images_too(base, monkeypatch):
    folder, recipe, _ = base
    learnt = []
    monkeypatch.setattr(alone, "fit", lambda net, batches, **kwargs: learnt.append(batches))
    ws = Workspace.build(recipe)
    accelerator = engine(ws.device, recipe.train)
    for data in ("train", "train+validation"):
        settings = recipe.finish.model_copy(update={"data": data})
        alone.finished(ws, accelerator, folder, (3, 2, 1, 0), settings, Silent())
    train, every = (sorted(one.dataset.images.flatten(1).tolist()) for one in learnt)
    validation = ws.splits.validation.images.flatten(1).tolist()
    assert train == sorted(ws.splits.train.images.flatten(1).tolist())
    assert every == sorted(train + validation)
    assert not any(image in every for image in ws.splits.test.images[:20].flatten(1).tolist())


def test_the_test_set_is_not_touched_before_the_end(tmp_path, monkeypatch):
    """All of it is read once per winner, after the last score is on record."""
    touched, fixed = [], Workspace.fixed

    def spy(self, part, images):
        if part == "test":
            assert len(lines(tmp_path, "search.jsonl")) == 6
            touched.append(images)
        return fixed(self, part, images)

    monkeypatch.setattr(Workspace, "fixed", spy)
    result = run(small(), tmp_path)
    assert touched == [None] * len({w["arch"] for w in result["winners"]})


def test_the_test_images_decide_nothing(tmp_path, monkeypatch):
    """With other labels on the test images, only test scores differ."""
    run(small(), tmp_path / "a")
    score_module = ms.evaluate.score_module

    def shifted(module: nn.Module, batches, **options):
        return score_module(module, [(x, (y + 1) % 10) for x, y in batches], **options)

    monkeypatch.setattr(ms.evaluate, "score_module", shifted)
    run(small(), tmp_path / "b")
    one, two = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    assert one["finish.jsonl"] != two["finish.jsonl"]
    assert one["search.jsonl"] == two["search.jsonl"]
    assert [w["arch"] for w in one["result"]["winners"]] == [
        w["arch"] for w in two["result"]["winners"]
    ]


def test_any_architecture_can_be_exported(base, tmp_path):
    folder, recipe, result = base
    own = small("finish.mode=inherit", "export.formats=['pt2', 'json']")
    run(own, tmp_path / "run", trained=folder)
    record = export_architecture(own, tmp_path / "run", "3-0-2-1")
    assert record["arch"] == "3-0-2-1"
    assert record["files"] == {k: f"subnets/3-0-2-1.{k}" for k in ("pt2", "json")}
    program = torch.export.load(tmp_path / "run" / record["files"]["pt2"]).module()
    ws = Workspace.build(own)
    load_weights(folder / "supernet.safetensors", ws.net)
    arch = (3, 0, 2, 1)
    stats = ms.evaluate.calibrate(ws.net, arch, ws.calibration())
    images = next(iter(ws.fixed("test", 8)))[0]
    with torch.no_grad():
        expected = ws.net.eval()(images, arch, stats=stats)
        pixels = images * ws.splits.std[0] + ws.splits.mean[0]
        torch.testing.assert_close(program(pixels), expected, rtol=1e-4, atol=1e-5)
    card = json.loads((tmp_path / "run" / "subnets" / "3-0-2-1.json").read_text())
    assert card["scores"] == {}
    assert card["data"]["fingerprint"] == ws.splits.training_fingerprint


def test_an_export_touches_the_test_images_only_if_told_to(base, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(base[0], folder)
    recipe, finished = base[1], lines(folder, "finish.jsonl")
    touched, fixed = [], Workspace.fixed

    def spy(self, part, images):
        touched.append(part)
        return fixed(self, part, images)

    monkeypatch.setattr(Workspace, "fixed", spy)
    assert "3-0-2-1" not in [row["arch"] for row in finished]
    record = export_architecture(recipe, folder, "3-0-2-1")
    assert "test" not in touched
    assert "test_score" not in record
    assert lines(folder, "finish.jsonl") == finished
    assert [row["arch"] for row in lines(folder, "exported.jsonl")] == ["3-0-2-1"]

    record = export_architecture(recipe, folder, "3-0-2-1", test=True)
    assert touched.count("test") == 1
    card = json.loads((folder / "subnets" / "3-0-2-1.json").read_text())
    scores = {f"test {name}": value for name, value in record["test_metrics"].items()}
    assert card["scores"] == scores and scores["test accuracy"] == record["test_score"]
    [row] = lines(folder, "exported.jsonl")
    assert row["test_score"] == record["test_score"]

    arch = finished[0]["arch"]  # a winner was tested, and keeps its accuracies
    card = (folder / "subnets" / f"{arch}.json").read_text()
    (folder / "subnets" / f"{arch}.json").unlink()
    assert {"schema": 2, **export_architecture(recipe, folder, arch)} == finished[0]
    assert touched.count("test") == 1
    assert (folder / "subnets" / f"{arch}.json").read_text() == card
    assert sorted(map(str, lines(folder, "finish.jsonl"))) == sorted(map(str, finished))


@pytest.mark.parametrize(
    "mode", ["inherit", "scratch", pytest.param("finetune", marks=pytest.mark.slow)]
)
def test_a_format_is_added_without_training_again(base, tmp_path, monkeypatch, mode):
    """What is fine-tuned is trained by the same code as what is trained from scratch."""
    one = "search.budgets=['macs<=90%']"
    recipe = small(one, f"finish.mode={mode}", "export.formats=['pt2']")
    folder = tmp_path / "run"
    run(recipe, folder, trained=base[0])
    record = lines(folder, "finish.jsonl")[0]
    ws = Workspace.build(recipe)
    images = next(iter(ws.fixed("validation", 8)))[0].contiguous()
    images = images * ws.splits.std[0] + ws.splits.mean[0]
    before = torch.export.load(folder / record["files"]["pt2"]).module()(images)
    (folder / record["files"]["pt2"]).unlink()

    def untouched(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(alone, "fit", untouched)
    monkeypatch.setattr(work, "finished", untouched)
    more = small(one, f"finish.mode={mode}", "export.formats=['json']")
    again = export_architecture(more, folder, record["arch"])
    assert again["files"].keys() == {"pt2", "json"}
    assert again["test_loss"] == record["test_loss"]
    after = torch.export.load(folder / again["files"]["pt2"]).module()(images)
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_file_that_is_missing_is_made_again(base, tmp_path, kind):
    folder = tmp_path / "run"
    shutil.copytree(base[0], folder)
    arch = base[2]["winners"][0]["arch"]
    before, path = outcome(folder), folder / "subnets" / f"{arch}.{kind}"
    content = path.read_bytes()
    path.unlink()
    run(base[1], folder)
    assert path.read_bytes() == content
    after = outcome(folder)
    for found in (before, after):
        found["finish.jsonl"] = sorted(map(str, found["finish.jsonl"]))
    assert after == before


@pytest.fixture(scope="module")
def programs(base, tmp_path_factory):
    """A finished run with programs and cards, which tests only read."""
    folder = tmp_path_factory.mktemp("programs") / "run"
    run(small("finish.mode=inherit", "export.formats=['pt2', 'json']"), folder, trained=base[0])
    return folder


def test_records_have_the_digest_of_every_exported_file(programs, tmp_path):
    for row in lines(programs, "finish.jsonl"):
        contents = {kind: (programs / path).read_bytes() for kind, path in row["files"].items()}
        assert row["sha256"] == {k: hashlib.sha256(c).hexdigest() for k, c in contents.items()}
        assert row["sha256"].keys() == {"pt2", "json"}
        card = json.loads(contents["json"])
        assert card["files"] == {"pt2": f"{row['arch']}.pt2"}


@pytest.mark.parametrize("kind", ["pt2", "json"])
def test_a_file_that_was_changed_is_written_again(programs, tmp_path, monkeypatch, kind):
    folder = shutil.copytree(programs, tmp_path / "run")
    before, row = outcome(folder), lines(folder, "finish.jsonl")[0]
    path, other = (folder / "subnets" / f"{row['arch']}.{k}" for k in (kind, "safetensors"))
    content, at = path.read_bytes(), len(path.read_bytes()) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    program = folder / row["files"]["pt2"]
    times = {p: p.stat().st_mtime_ns for p in {program, other} - {path}}
    if kind == "pt2":
        with pytest.raises(records.RecordError, match="is not what is on record of it: restore"):
            ms.Run(folder).winners[0].file("pt2")
    for module, name in ((alone, "fit"), (work, "finished")):
        monkeypatch.setattr(module, name, None)
    with (
        pytest.warns(UserWarning, match=rf"{path} is not what is on record .* is written again"),
        pytest.raises(SystemExit) as left,
    ):
        main(["run", "--resume", str(folder), "--quiet"])
    assert left.value.code == 0
    assert path.read_bytes() == content
    assert {p: p.stat().st_mtime_ns for p in times} == times
    after = outcome(folder)
    for found in (before, after):
        found["finish.jsonl"] = sorted(map(str, found["finish.jsonl"]))
        found["files"] = [name for name in found["files"] if name != "report.html"]
    assert after == before
    assert ms.Run(folder).winners[0].file(kind).read_bytes() == content


def test_a_changed_file_of_an_exported_architecture_is_noticed(programs, tmp_path):
    folder = shutil.copytree(programs, tmp_path / "run")
    opened, arch = ms.Run(folder), (3, 0, 2, 1)
    with pytest.raises(records.RecordError, match="no pt2 of architecture 3-0-2-1 on record, have"):
        opened.file(arch, "pt2")
    path = opened.export(arch, "pt2")["pt2"]
    assert opened.file(arch, "pt2") == path
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        records.RecordError, match=r"restore it .* Run\.export\(\(3, 0, 2, 1\), 'pt2'"
    ):
        opened.file(arch, "pt2")
    with pytest.warns(UserWarning, match="is written again"):
        opened.export(arch, "json")
    assert opened.file(arch, "pt2").read_bytes() == content
    card = json.loads(opened.file(arch, "json").read_text())
    assert card["files"] == {"pt2": path.name}
    path.unlink()
    with pytest.raises(records.RecordError, match="is missing: restore it"):
        opened.file(arch, "pt2")
    opened.export(arch)  # what is missing is made again without a word
    assert opened.file(arch, "pt2").read_bytes() == content


def test_programs_normalise_images_unless_told_otherwise(programs, tmp_path):
    """They take pixels in [0, 1]; what took others before is written again, and that is said."""
    folder = shutil.copytree(programs, tmp_path / "run")
    opened = ms.Run(folder)
    winner, splits = opened.winners[0], Workspace.build(opened.recipe).splits
    pixels = splits.test.images[:9].float() / 255
    normalised = (pixels - splits.mean[0]) / splits.std[0]
    with torch.no_grad():
        expected = winner.module()(normalised)
    found = torch.export.load(winner.file("pt2")).module()(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    card = json.loads(winner.file("json").read_text())["data"]
    assert (card["pixels"], card["normalised_by"]) == ("divided by 255", "the files")
    rows = lines(folder, "finish.jsonl")
    assert [row["normalised"] for row in rows] == [True] * len(rows)
    values = opened.recipe.model_dump(by_alias=True)
    values["export"]["normalise"] = False
    with pytest.warns(UserWarning, match="written again, to take images that were normalised"):
        line = export_architecture(opened.recipe.build(values, (), ""), folder, rows[0]["arch"])
    assert line["normalised"] is False and line["files"].keys() == {"pt2", "json"}
    found = torch.export.load(folder / line["files"]["pt2"]).module()(normalised)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    card = json.loads((folder / line["files"]["json"]).read_text())["data"]
    assert card["pixels"].endswith("minus mean, divided by std") and "input" not in card
    with pytest.warns(UserWarning, match=r"to take pixels in \[0, 1\]: export.normalise is true"):
        run(opened.recipe, folder)
    assert lines(folder, "finish.jsonl")[-1] == rows[0]


def test_a_format_that_is_missing_is_added(tmp_path):
    """What is on record is not done again, unless another format is asked for."""
    result = run(small("finish.mode=inherit", "export.formats=[]"), tmp_path)
    arch = result["winners"][0]["arch"]
    before = lines(tmp_path, "finish.jsonl")
    assert [row["files"] for row in before] == [{}] * len(before)
    more = small("finish.mode=inherit", "export.formats=['json']")
    record = export_architecture(more, tmp_path, arch)
    assert record["files"] == {"json": f"subnets/{arch}.json"}
    assert (tmp_path / record["files"]["json"]).is_file()
    [own] = [row for row in before if row["arch"] == arch]
    assert record["test_loss"] == own["test_loss"]
    assert len(lines(tmp_path, "finish.jsonl")) == len(before)


def test_exports_that_cannot_be(base, tmp_path):
    folder, recipe, _ = base
    with pytest.raises(ValueError, match="option 9 is not in 0..3"):
        export_architecture(recipe, folder, "9-0-0-0")
    with pytest.raises(ValueError, match="not of the form '0-2-1'"):
        export_architecture(recipe, folder, "best")
    with pytest.raises(records.RecordError, match=r"has no supernet.safetensors: train it first"):
        export_architecture(recipe, tmp_path, "0-0-0-0")


class Branches(nn.Module):
    """Looks at its activations, which torch.export cannot follow."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.op = ms.nn.Choice(
            {"a": nn.Conv2d(channels, 4, 1), "b": nn.Conv2d(channels, 4, 3, padding=1)}, "op"
        )
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        y = self.op(x).mean((2, 3))
        if y.device.type != "meta" and y.mean() > 1e6:
            y = y + 1
        return self.head(y)


def test_a_format_that_fails_is_said_at_the_start_and_all_else_is_written(tmp_path):
    recipe = small(
        f"network={{name = '{__name__}:Branches', options = {{}}}}",
        "search={name = 'random', budgets = ['macs<=100%'], candidates = 2, options = {}}",
        "finish.mode=inherit",
        "export.formats=['pt2', 'json']",
    )
    for _ in range(2):  # again when it is resumed, unless that is mended
        with (
            pytest.warns(UserWarning, match="cannot be written as pt2 .* stop now to mend that")
            if not (tmp_path / "run").exists()
            else contextlib.nullcontext(),
            pytest.raises(
                ExportFailed, match=r"could not be written as pt2 \(.*all else is on file"
            ),
        ):
            run(recipe, tmp_path / "run")
        [winner] = records.read_json(tmp_path / "run" / "result.json")["winners"]
        assert winner["files"].keys() == {"json"}
        assert "decides by the values of tensors (" in winner["failed"]["pt2"]
    mended = recipe.model_copy(update={"export": type(recipe.export)(formats=["json"])})
    assert not export_architecture(mended, tmp_path / "run", "0").get("failed")
