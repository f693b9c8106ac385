"""Runs on data of one's own: tokens with a mask, by a recipe or as they are in Python."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import manyshot as ms
from manyshot.pipeline.given import identity_of
from manyshot.pipeline.verbs.transfer import transfer_recipe
from manyshot.recipe import Recipe, RecipeError
from manyshot.records import RecordError
from manyshot.runs import perform
from manyshot.train import CheckpointError
from own_data import Sentences, sentences
from token_nets import Tokens, batch, costs

SMALL = {
    "train": {"epochs": 2, "batch_size": 16, "checkpoint_steps": 3, "log_steps": 2},
    "evaluate": {"calibration_images": 32, "batch_size": 32},
    "search": {"candidates": 6, "generation": 3, "name": "random"},
    "finish": {"training": {"epochs": 1, "batch_size": 16}},
    "latency": {"warmup": 0, "repeats": 1},
    "export": {"formats": ["pt2", "json"]},
}
UNEXPORTED = {**SMALL, "export": {"formats": []}}
BUDGETS = ["macs<=70%", "params<=100%"]


def net():
    torch.manual_seed(0)
    return Tokens()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run on data given in Python, and its network as it was."""
    given = net()
    before = copy.deepcopy(given.state_dict())
    out = tmp_path_factory.mktemp("own") / "run"
    run = ms.run(network=given, data=sentences(), budgets=BUDGETS, out=out, **SMALL)
    assert all(torch.equal(t, before[n]) for n, t in given.state_dict().items())
    return run


def test_a_run_gives_networks_that_take_what_was_given(ran):
    space = ran.net.space
    assert [winner.budget for winner in ran.winners] == BUDGETS
    assert ran.winner("macs <= 70.0%").arch == ran.winners[0].arch
    inputs, _ = batch(9, seed=5)
    for winner in ran.winners:
        macs, params = costs(ran.net, winner.arch)
        assert (winner.costs["macs"], winner.costs["params"]) == (macs, params)
        program = torch.export.load(winner.file("pt2")).module()
        with torch.no_grad():
            torch.testing.assert_close(program(**inputs), winner.module()(**inputs))
    assert len(space) == 3
    card = json.loads(ran.winners[0].file("json").read_text())
    assert card["data"]["inputs"] == "tokens=(1, 6), mask=(1, 6)"
    images = ran.files.space().images
    assert "first and last samples" in images.notes[0]
    assert images.digests.keys() == {"train", "validation", "test"}
    assert (ran.folder / "report.html").exists()


def test_the_same_gives_the_same(ran, tmp_path):
    again = ms.run(
        network=net(), data=sentences(), budgets=BUDGETS, out=tmp_path / "a", **UNEXPORTED
    )
    for name, tensor in ran.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name])
    assert [w.arch for w in again.winners] == [w.arch for w in ran.winners]


def test_a_folder_does_not_hold_what_was_given(ran):
    alone = ms.Run(ran.folder)
    for use in (lambda: alone.net, alone.resume, lambda: alone.export(ran.winners[0].arch, "pt2")):
        with pytest.raises(RecipeError, match=r"given its (data|network) in Python.*ms\.Run\("):
            use()
    complete = ms.Run(ran.folder, network=net(), data=sentences())
    before = (ran.folder / "result.json").read_bytes()
    assert complete.resume().folder == ran.folder
    assert json.loads(before)["winners"] == [w.plain() for w in complete.result.winners]
    with pytest.raises(RecipeError, match="is not the one that this run began with"):
        other = Tokens()
        _ = ms.Run(ran.folder, network=other, data=sentences()).net


def test_a_killed_run_ends_the_same(ran, tmp_path, monkeypatch):
    from manyshot.train import trainer

    out = tmp_path / "killed"
    save, saved = trainer.Trainer.save, []

    def once(self):
        save(self)
        saved.append(self.step)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "save", once)
    with pytest.raises(KeyboardInterrupt):
        ms.run(network=net(), data=sentences(), budgets=BUDGETS, out=out, **UNEXPORTED)
    monkeypatch.setattr(trainer.Trainer, "save", save)
    assert saved == [3]
    again = ms.run(network=net(), data=sentences(), budgets=BUDGETS, out=out, **UNEXPORTED)
    for name, tensor in ran.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name])


def test_other_data_are_not_taken_for_the_same(ran, tmp_path):
    train, test = sentences()
    other = Sentences(95, 1), test
    with pytest.raises(CheckpointError, match="belong to .*other images"):
        ms.run(network=net(), data=other, budgets=BUDGETS, out=ran.folder, **SMALL)


def test_a_recipe_names_its_data(tmp_path):
    values = {
        **UNEXPORTED,
        "network": {"name": "token_nets:Tokens"},
        "data": {"name": "own_data:three", "options": {"count": 64}},
        "search": {**SMALL["search"], "budgets": BUDGETS[:1]},
    }
    recipe = Recipe.build(copy.deepcopy(values), (), "a test")
    assert recipe.name == "three" and "data.name" in recipe.named_code
    assert Recipe.build(__import__("tomllib").loads(recipe.to_toml()), (), "again") == recipe
    run = ms.run(recipe, out=tmp_path / "run")
    assert ms.Run(tmp_path / "run").net.space.size == 8
    counts = run.files.space().images.class_counts
    assert sum(counts["validation"]) == 40 and sum(counts["train"]) == 64


def test_a_pretrained_supernet_in_memory_and_loaders(tmp_path):
    supernet = ms.Supernet(net(), example_inputs=batch(2)[0])
    train, test = sentences()
    tensors = TensorDataset(torch.randn(64, 5), torch.randint(0, 3, (64,)))
    ms.fit(supernet, DataLoader(train, batch_size=7), settings=settings())
    with pytest.raises(ValueError, match="augment is for images"):
        ms.fit(supernet, tensors, settings=settings(), augment=ms.data.Augment(pad=1))
    found = ms.find(
        supernet,
        budgets=["macs<=80%"],
        score=(DataLoader(train, batch_size=7), DataLoader(test)),
        searcher="random",
        candidates=4,
        generation=2,
    )
    assert found.winners[0].costs["macs"] == costs(supernet, found.winners[0].arch)[0]
    run = ms.run(
        network=supernet, data={"train": train, "test": test}, budgets=BUDGETS[:1],
        out=tmp_path / "run", **UNEXPORTED,
    )  # fmt: skip
    assert run.recipe.network.options["identity"] == identity_of(supernet)


def settings():
    return ms.TrainingSettings(epochs=1, batch_size=16)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"name": "own_data:three", "flip": True}}, "flip = True is for images"),
        ({"data": {"name": "own_data:three", "pad": 2}}, "pad = 2 is for images"),
        ({"data": {"name": "digits", "options": {"count": 1}}}, "a function of your own"),
    ],
)
def test_settings_of_images_are_refused(sections, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.build(sections, (), "a test")


def test_what_cannot_be_used_is_said(tmp_path):
    with pytest.raises(RecipeError, match=r"own_data:nothing.*cannot be imported"):
        ms.run(data={"name": "own_data:nothing"}, out=tmp_path / "a")
    with pytest.raises(RecipeError, match=r"own_data:three.*unexpected keyword"):
        ms.run(data={"name": "own_data:three", "options": {"x": 1}}, out=tmp_path / "b")
    for options, words in (
        ({"gives": "nothing"}, "data is a NoneType: give"),
        ({"gives": "three of four"}, "data is a tuple: give"),
        ({"gives": "an error"}, "KeyError: 'file'"),
        ({"gives": "a loader of some"}, "data.train is a DataLoader with a SubsetRandomSampler"),
    ):
        with pytest.raises(RecipeError, match=f"data.name = 'own_data:wrong': {words}"):
            ms.run(data={"name": "own_data:wrong", "options": options}, out=tmp_path / "w")
    with pytest.raises(RecipeError, match=r"budgets = 'macs<=50%': give a list, such as \['macs"):
        ms.run(network=net(), data=sentences(), budgets="macs<=50%", out=tmp_path / "w")
    with pytest.raises(RecipeError, match="a run names its task.*package.module:attribute"):
        ms.run(network=net(), data=sentences(), task=ms.tasks.Dense(), out=tmp_path / "w")
    with pytest.raises(RecipeError, match="data has the parts training, test"):
        train, test = sentences()
        ms.run(network=net(), data={"training": train, "test": test}, out=tmp_path / "w")
    with pytest.raises(RecipeError, match="needs new weights"):
        small = {**SMALL, "finish": {"mode": "scratch"}}
        ms.run(network=net(), data=sentences(), budgets=BUDGETS, out=tmp_path / "c", **small)
    shared = ms.Supernet(net(), sharing=ms.sharing.KShot(copies=2))
    with pytest.raises(RecipeError, match="has KShot sharing already"):
        ms.run(network=shared, data=sentences(), budgets=BUDGETS, out=tmp_path / "d", **SMALL)
    assert not (tmp_path / "a").exists()
    with pytest.raises(RecordError):
        ms.Run(tmp_path / "a")


class Plain(nn.Module):
    """A transformer of torch without decisions, which a run converts."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, mask):
        x = self.encoder(self.embed(tokens), src_key_padding_mask=~mask)
        return self.head(x.masked_fill(~mask[..., None], 0).sum(1))


METHODS = {
    "converted": (Plain, {}),
    "K copies and a learnt sampler": (
        net,
        {
            "sharing": {"name": "k_shot", "options": {"copies": 2, "m": 2, "code_every": 2}},
            "sampler": {
                "name": "shiftnas",
                "held_out": 0.2,
                "options": {"period": 1, "warmup": 0.25},
            },
        },
    ),
    "shifting": (net, {"shifting": {"name": "population", "batch_size": 16, "rescored": 2}}),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_any_inputs(name, tmp_path):
    make, more = METHODS[name]
    torch.manual_seed(0)
    sections = {**SMALL, "export": {"formats": []}, "finish": {"mode": "inherit"}, **more}
    budgets = ["macs<=80%"]
    run = ms.run(network=make(), data=sentences(), budgets=budgets, out=tmp_path / "r", **sections)
    [winner] = run.winners
    inputs, _ = batch(4)
    with torch.no_grad():
        assert winner.module()(**inputs).shape == (4, 3)
    macs = ms.cost.subnet_macs(winner.module(), example_inputs=inputs)
    assert macs == winner.costs["macs"] <= 0.8 * run.files.space().largest["macs"]


def test_a_supernet_moves_to_data_of_ones_own(tmp_path):
    """Five classes in place of three; what is inherited of images is left out."""
    source = ms.run(
        network={"name": "token_nets:Tokens"}, data={"name": "own_data:sentences"},
        budgets=BUDGETS[:1], out=tmp_path / "source", **UNEXPORTED,
    )  # fmt: skip
    sets = ["transfer.head_epochs=1", "shifting.batch_size=16"]
    untold = transfer_recipe(source.folder, None, "own_data:untold", sets)
    with pytest.raises(RecipeError, match="these do not tell theirs: give a TensorDataset or a li"):
        perform(untold, tmp_path / "untold", source=source.folder)
    asked = transfer_recipe(source.folder, None, "own_data:in_five", sets)
    assert asked.name == "sentences-in_five" and not asked.data.pad
    moved = perform(asked, tmp_path / "moved", source=source.folder)
    inputs, _ = batch(4)
    with torch.no_grad():
        assert moved.winners[0].module()(**inputs).shape == (4, 5)
