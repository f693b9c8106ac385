"""`ms.fit`, `ms.find`, `ms.run` and `ms.Run` against the parts that they put together."""

import html
import json

import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.recipe import RecipeError
from manyshot.records import RecordError
from manyshot.search import Infeasible
from manyshot.train import Standalone, Trainer, Uniform, engine, train
from manyshot.train.checkpoint import digest

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
SETTINGS = ms.TrainingSettings(epochs=2, batch_size=32, lr=0.05)
SHORT = {
    "name": "short",
    "network": {"options": {"width": 3}},
    "data": {"validation": 64, "train_size": 128},
    "train": {"epochs": 1, "batch_size": 32},
    "evaluate": {"calibration_images": 64},
    "search": {"name": "random", "budgets": ["macs<=40%", "macs<=90%"], "candidates": 6},
    "finish": {"training": {"epochs": 1, "lr": 0.01}},
    "latency": {"warmup": 0, "repeats": 1},
    "export": {"formats": ["json"]},
}


@pytest.fixture(scope="module")
def splits():
    return ms.data.load("digits", train_size=96, validation=64, held_out=32)


def supernet(width=3):
    torch.manual_seed(0)
    return ms.Supernet(ms.zoo.tiny(width=width), input_shape=(1, 8, 8))


class TestFit:
    def test_it_is_the_loop_with_everything_given(self, splits):
        ours, by_hand = supernet(), supernet()
        trainer = ms.fit(ours, splits, settings=SETTINGS, seed=3)
        assert trainer.step == SETTINGS.epochs * (96 // 32)
        looks = {"mean": splits.mean, "std": splits.std, "seed": 3}
        train(
            Trainer(
                net=by_hand,
                sampler=Uniform(by_hand.space),
                batches=ms.data.Batches(splits.train, 32, **looks),
                settings=SETTINGS,
                seed=3,
                largest=by_hand.space.largest,
                accelerator=engine(torch.device("cpu"), SETTINGS),
            )
        )
        assert digest(ours.state_dict()) == digest(by_hand.state_dict())
        assert digest(ours.state_dict()) != digest(supernet().state_dict())

    def test_a_plain_module_trains_as_it_is(self, splits):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        before = digest(module.state_dict())
        trainer = ms.fit(module, splits, settings=SETTINGS)
        assert isinstance(trainer.net, Standalone) and digest(module.state_dict()) != before
        with pytest.raises(ValueError, match="a sampler chooses paths of a ms.Supernet"):
            ms.fit(module, splits, sampler=Uniform(supernet().space))

    def test_a_folder_makes_it_go_on(self, splits, tmp_path):
        whole = supernet()
        ms.fit(whole, splits, settings=SETTINGS, folder=tmp_path / "a")
        again = supernet(width=3)
        ms.fit(again, splits, settings=SETTINGS, folder=tmp_path / "a")  # restores, does nothing
        assert digest(again.state_dict()) == digest(whole.state_dict())
        assert (tmp_path / "a" / "train.jsonl").exists()
        quieter = SETTINGS.model_copy(update={"log_steps": 7})
        ms.fit(again, splits, settings=quieter, folder=tmp_path / "a")
        other = SETTINGS.model_copy(update={"lr": 0.123})
        with pytest.raises(ms.train.CheckpointError, match=r"other settings.*0\.123"):
            ms.fit(again, splits, settings=other, folder=tmp_path / "a")
        with pytest.raises(ms.train.CheckpointError, match="now seed 4"):
            ms.fit(again, splits, settings=SETTINGS, seed=4, folder=tmp_path / "a")

    def test_held_out_images_reach_a_sampler_that_learns(self, splits):
        net = supernet()
        costs = {"macs": ms.cost.macs_table(net, (1, 8, 8))}
        options = ms.train.ShiftNASOptions(period=2, hidden=8, warmup=0.2, images=16)
        sampler = ms.train.ShiftNAS(net.space, costs, options, seed=0)
        assert ms.fit(net, splits, sampler=sampler, settings=SETTINGS).prober.images > 0

    def test_held_out_batches_are_those_of_a_recipe(self):
        """300 images are two batches of 150, of equal size and none above evaluate.batch_size."""
        splits = ms.data.load("digits", train_size=96, validation=64, held_out=300)
        settings = SETTINGS.model_copy(update={"epochs": 1})
        made = list(ms.fit(supernet(), splits, settings=settings).prober.held_out(1024, 5))
        assert [len(labels) for _, labels in made] == [150, 150]
        data = {"validation": 64, "train_size": 96}
        overrides = SHORT | {"data": data, "sampler": {"held_out": 300}}
        ws = Workspace.build(ms.Recipe.model_validate(overrides))
        for (x, y), (images, labels) in zip(made, ws.held_out(1024, 5), strict=True):
            assert torch.equal(y, labels) and torch.equal(x, images)

    def test_augmentation_is_for_batches_made_here(self, splits):
        looks = {"mean": splits.mean, "std": splits.std, "seed": 0}
        batches = ms.data.Batches(splits.train, 32, **looks)
        with pytest.raises(ValueError, match="augment is for batches that are made here"):
            ms.fit(supernet(), batches, augment=ms.data.Augment(pad=1))


class TestFind:
    def test_the_best_of_all_networks_by_a_score_of_ones_own(self):
        net = supernet()
        target = net.space.to_text(net.space.largest)

        def score(arch):
            return -float(np.abs(np.subtract(arch, net.space.largest)).sum())

        searched = ms.find(
            net, budgets=["macs<=100%", "macs<=60%"], score=score, searcher="random", candidates=256
        )
        assert len(searched.history) == 256 and "256 architectures scored" in repr(searched)
        assert net.space.to_text(searched.winner("macs<=100%").arch) == target
        macs = ms.cost.macs(net, list(net.space.enumerate()), (1, 8, 8))
        limit = 0.6 * macs.max()
        within = [a for a, m in zip(net.space.enumerate(), macs, strict=True) if m <= limit]
        small = searched.winner("macs<=60%")
        assert small.score == max(map(score, within)) and small.costs["macs"] <= limit
        assert small.choices == net.space.choices(small.arch)
        with pytest.raises(KeyError, match="was not searched for, have 'macs<=100%'"):
            searched.winner("macs<=1%")

    def test_the_default_score_is_validation_accuracy(self, splits):
        net = supernet()
        before = digest(net.state_dict())
        asked = {"budgets": ["macs<=90%"], "candidates": 12, "generation": 5, "searcher": "random"}
        proposed = ms.find(net, score=lambda arch: 0.0, **asked).history
        sizes = []  # of the batches of whole forwards; a look at the stages takes two images
        hook = net.model.register_forward_hook(lambda model, args, out: sizes.append(len(args[0])))
        searched = ms.find(net, score=splits, **asked)
        hook.remove()
        assert [arch for arch, _ in searched.history] == [arch for arch, _ in proposed]
        assert max(sizes) == 2
        looks = {"mean": splits.mean, "std": splits.std, "seed": 0}
        calibration = ms.data.fixed(splits.train, 96, 256, **looks)
        validation = ms.data.fixed(splits.validation, None, 256, **looks)
        for arch, accuracy in searched.history:
            score = ms.evaluate.score(net, arch, calibration=calibration, validation=validation)
            assert score.value == accuracy
        assert digest(net.state_dict()) == before

    def test_a_winner_gives_its_module(self, splits):
        net = supernet()
        searched = ms.find(
            net, budgets=["macs<=90%"], score=splits, candidates=3, searcher="random", seed=4
        )
        winner = searched.winner(" macs <= 90.0 % ")  # however it is spelt
        assert winner is searched.winners[0]
        looks = {"mean": splits.mean, "std": splits.std, "seed": 4}
        calibration = ms.data.fixed(splits.train, 512, 256, **looks)
        stats = ms.evaluate.calibrate(net, winner.arch, calibration)
        images, _ = next(iter(ms.data.fixed(splits.validation, 8, 8, **looks)))
        module = winner.module()
        assert not module.training and type(module) is type(net.model)
        expected = net.eval()(images, winner.arch, stats=stats)
        assert torch.equal(module(images), expected)
        other = winner.module(ms.data.fixed(splits.validation, 8, 8, **looks))
        assert not torch.equal(other(images), expected)
        with pytest.raises(ValueError, match="is not understood"):
            searched.winner("macs")

    def test_a_module_needs_batches_if_the_score_had_none(self, splits):
        net = supernet()
        winner = ms.find(
            net, budgets=["macs<=90%"], score=sum, searcher="random", candidates=40
        ).winners[0]
        with pytest.raises(ValueError, match="give calibration=, batches of training images"):
            winner.module()
        looks = {"mean": splits.mean, "std": splits.std, "seed": 0}
        calibration = ms.data.fixed(splits.train, 64, 64, **looks)
        stats = ms.evaluate.calibrate(net, winner.arch, calibration)
        images, _ = next(iter(calibration))
        expected = net.eval()(images, winner.arch, stats=stats)
        assert torch.equal(winner.module(calibration)(images), expected)
        plain = ms.Supernet(
            ms.nn.Linear(3, ms.choose((2, 4), "width")), example_inputs=images[:, 0, 0, :3]
        )
        [alone] = ms.find(plain, budgets=["params<=50%"], score=sum, candidates=2).winners
        assert alone.module().out_features == 2  # nothing to calibrate

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"budgets": "macs<=50%"}, "budgets = 'macs<=50%': give a list"),
            ({"fitness": "accuracy"}, "fitness must be 'metric' or 'loss', got 'accuracy'"),
            ({"score": 3}, "score is a int: give a function"),
            ({"score": lambda arch: None}, "score gives None: give one finite number"),
            ({"score": lambda arch: "good"}, "score gives 'good'"),
            ({"net": torch.nn.Linear(2, 2)}, r"net is a Linear: .*ms.Supernet\(model\)"),
        ],
    )
    def test_what_cannot_be_searched_is_said(self, arguments, message):
        usual = {"net": supernet(), "budgets": ["macs<=90%"], "score": sum, "searcher": "random"}
        with pytest.raises(ValueError, match=message):
            ms.find(**{**usual, **arguments})

    def test_a_search_that_never_learns_says_so(self):
        net = supernet()
        asked = {"budgets": ["macs<=90%"], "score": sum}
        says = (
            "candidates = 60 are all drawn at random, because the searcher only learns from scores "
            "after the first 50, with generation = 30 after 60: raise candidates above 60, set "
            "generation to 50 to 59, or set searcher = 'random'"
        )
        with pytest.warns(UserWarning) as warned:
            ms.find(net, candidates=60, **asked)
        assert [str(one.message) for one in warned] == [says]
        assert warned[0].filename == __file__
        with pytest.warns(UserWarning, match="above 60, lower options.population, or set searcher"):
            ms.find(net, candidates=50, **asked)
        few = {"population": 8, "parents": 2, "mutants": 4, "crossovers": 4}
        for learning in (
            {"candidates": 61},
            {"candidates": 60, "generation": 50},
            {"candidates": 9, "generation": 4, "options": few},
            {"candidates": 9, "searcher": "random"},
            {"candidates": net.space.size, "options": {"population": net.space.size}},  # all of it
        ):
            ms.find(net, **asked, **learning)

    def test_same_seed_same_history(self):
        net = supernet()
        runs = [
            ms.find(net, budgets=["macs<=50%"], score=lambda a: -sum(a), candidates=70, seed=seed)
            for seed in (1, 1, 2)
        ]
        assert runs[0] == runs[1] and runs[0].history != runs[2].history

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"budgets": []}, "give a list of at least one"),
            ({"budgets": ["latency_ms<=2"]}, "no costs for latency_ms, have macs, params"),
            ({"budgets": ["macs<=1"]}, "is impossible: macs of this space reach from"),
            ({"searcher": "evolutoin"}, "did you mean 'evolution'"),
            ({"options": {"populaton": 3}}, "populat"),
        ],
    )
    def test_what_is_wrong_is_said(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ms.find(supernet(), **{"budgets": ["macs<=50%"], "score": sum, **arguments})

    def test_a_network_without_a_shape_has_no_costs(self):
        with pytest.raises(ValueError, match="macs need the shape of the inputs"):
            ms.find(ms.Supernet(ms.zoo.tiny(width=3)), budgets=["macs<=50%"], score=sum)

    def test_a_budget_that_nothing_scored_meets(self):
        net = supernet()
        macs = ms.cost.macs_table(net, (1, 8, 8))

        class Largest:
            def ask(self, n):
                return [net.space.canonical(net.space.largest)]

            def tell(self, archs, scores, weights_version=0): ...

            def elites(self):
                return []

        with pytest.raises(Infeasible, match="none of the 1 architectures scored is within"):
            ms.find(
                net, budgets=[f"macs<={int(macs.range()[0])}"], score=sum, searcher=Largest(),
                candidates=1,
            )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ms.run(out=tmp_path_factory.mktemp("front") / "run", **SHORT)


class TestRun:
    def test_winners_are_those_on_record(self, run):
        result = json.loads((run.folder / "result.json").read_text())
        assert [w.budget for w in run.winners] == ["macs<=40%", "macs<=90%"]
        for winner, record in zip(run.winners, result["winners"], strict=True):
            assert run.net.space.to_text(winner.arch) == record["arch"]
            assert winner.costs["macs"] == record["macs"]
            assert winner.test_score == record["test_score"]
            assert all(path.exists() for path in winner.files.values())
        assert (run.folder / "report.html").exists()
        with pytest.raises(KeyError, match="'macs<=7%' has no winner in .*, have 'macs<=40%'"):
            run.winner("macs<=7%")

    def test_the_module_has_the_recorded_accuracy(self, run):
        winner = run.winner("macs<=40%")
        module = winner.module()
        splits = ms.data.load("digits", validation=64, train_size=128)
        test = ms.data.fixed(splits.test, None, 256, mean=splits.mean, std=splits.std, seed=0)
        assert ms.evaluate.score_module(module, test).value == winner.test_score
        assert not any(type(m).__module__.startswith("manyshot.nn") for m in module.modules())

    def test_statistics_and_the_supernet(self, run):
        arch = run.net.space.smallest
        images = torch.randn(4, 1, 8, 8)
        stats = run.stats(arch)
        run.net.eval()
        subnet = run.net.extract(arch, stats=stats).eval()
        with torch.no_grad():
            assert torch.equal(run.net(images, arch, stats=stats), subnet(images))

    def test_any_architecture_is_exported(self, run):
        arch = run.net.space.canonical(run.net.space.largest)
        paths = run.export(arch, "json")
        assert json.loads(paths["json"].read_text())["architecture"] == run.net.space.to_text(arch)
        assert run.finished(arch).training is False

    def test_it_is_opened_again_and_shown(self, run):
        again = ms.Run(run.folder)
        assert again.recipe == run.recipe and again.result == run.result
        assert repr(again).startswith("Run(") and "macs<=40%: " in repr(again)
        page = again._repr_html_()
        result = run.result
        assert page.count("<tr>") == 1 + len(result.winners) + len(result.controls) > 3
        assert "macs\u00a0≤\u00a040%" in page and result.verdict.words[0] in html.unescape(page)
        assert again.verdict == result.verdict

    def test_what_is_done_is_not_done_again(self, run):
        weights = (run.folder / "supernet.safetensors").stat().st_mtime_ns
        assert run.resume().result.winners[0].arch == run.result.winners[0].arch
        assert (run.folder / "supernet.safetensors").stat().st_mtime_ns == weights

    def test_folders_that_are_no_run(self, tmp_path, run):
        with pytest.raises(RecordError, match="is not a run: it has no recipe.toml"):
            ms.Run(tmp_path)
        (tmp_path / "recipe.toml").write_text(run.recipe.to_toml())
        unfinished = ms.Run(tmp_path)
        assert "not finished" in repr(unfinished) and "not finished" in unfinished._repr_html_()
        with pytest.raises(RecordError, match="has no result.json: finish it"):
            _ = unfinished.winners

    def test_a_recipe_in_three_forms(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = []
        monkeypatch.setattr("manyshot.runs.perform", lambda *given, **_: done.append(given))
        ms.run(**SHORT)
        ms.run(ms.Recipe.build(SHORT, (), "here"))
        (tmp_path / "short.toml").write_text(done[0][0].to_toml())
        ms.run("short.toml", overrides=["seed=4"])
        assert done[0][0] == done[1][0] == done[2][0].model_copy(update={"seed": 0})
        assert done[2][0].seed == 4 and str(done[0][1]) == "runs/short"
        with pytest.raises(RecipeError, match="did you mean 'train.epochs'"):
            ms.run(train={"epoch": 1})
        with pytest.raises(RecipeError, match="cannot both be given"):
            ms.run("short.toml", train={"epochs": 1})


def test_dir_shows_what_is_public():
    assert dir(ms) == sorted(ms.__all__)
