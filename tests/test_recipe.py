"""Recipes: defaults, overrides, messages, and TOML that comes back the same."""

import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot import records
from manyshot.recipe import (
    DataSettings,
    EvaluationSettings,
    ExportSettings,
    FinishSettings,
    NetworkSettings,
    Recipe,
    RecipeError,
    SamplerSettings,
    SearchSettings,
    TrainingSettings,
    bytes_of,
)
from manyshot.toml import dumps, read

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))


def load(*overrides: str, path: Path | None = None) -> Recipe:
    return Recipe.load(path, overrides)


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*overrides, path=path)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_parses_and_is_named_after_its_file(path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert tomllib.loads(path.read_text())["schema"] == 1
    assert Recipe.load(None, []).search.budgets  # and the default one parses


def test_the_digits_recipe_is_the_default_one():
    assert Recipe.load(Path(__file__).parents[1] / "recipes" / "digits.toml") == Recipe()
    assert len(RECIPES) >= 2


def test_overrides_are_toml_values():
    recipe = load(
        "train.epochs=5",
        "train.lr = 1",
        "name=other",
        'device="cpu"',
        "data.flip=true",
        "search.budgets=['params<=50%', 'macs<=1M']",
        "sampler.options.paths=3",
        "finish.training.clip_norm=0.5",
        "network.options={width = 4}",
        "data.image_size=[6, 10]",
    )
    assert recipe.data.image_size == [6, 10]
    assert recipe.train.epochs == 5
    assert recipe.train.lr == 1.0
    assert (recipe.name, recipe.device, recipe.data.flip) == ("other", "cpu", True)
    assert recipe.search.budgets == ["params<=50%", "macs<=1M"]
    assert recipe.sampler.options == {"paths": 3}
    assert recipe.finish.training.clip_norm == 0.5
    assert recipe.network.options == {"width": 4}
    assert recipe.train.batch_size == Recipe().train.batch_size


def test_overrides_change_what_a_file_says(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[train]\nepochs = 7\nlr = 0.3\n")
    recipe = load("train.epochs=8", path=path)
    assert (recipe.train.epochs, recipe.train.lr) == (8, 0.3)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("trian.epochs=3", "unknown key 'trian'; did you mean 'train'?"),
        ("finish.training.momentun=0", "did you mean 'finish.training.momentum'?"),
        ("shema=1", "unknown key 'shema'; did you mean 'schema'?"),
        (
            "budgets=['params<=50%']",
            "unknown key 'budgets'; did you mean 'shrink.budgets' or 'search.budgets'?",
        ),
        ("batch_size=8", "unknown key 'batch_size'; did you mean 'train.batch_size' or"),
        ("search.batch_size=8", "'search.batch_size'; did you mean 'train.batch_size' or "),
        ("data.zzzzzz=1", "unknown key 'data.zzzzzz'; have name, options, root, download"),
        ("train.epochs=-1", "train.epochs = -1: Input should be greater than or equal to 0"),
        ("train.epochs=1.5", "train.epochs = 1.5: Input should be a valid integer"),
        ("train.epochs=true", "train.epochs = True: Input should be a valid integer"),
        ("train.lr=0", "train.lr = 0: Input should be greater than 0"),
        ("train.lr=inf", "train.lr = inf: Input should be a finite number"),
        ("train.lr=nan", "train.lr = nan: Input should be a finite number"),
        ("train.optimizer=adam", "Input should be 'sgd', 'adamw' or 'lamb'"),
        ("data.validation=0", "data.validation"),
        ("data.image_size=0", "data.image_size = 0: give at least 1 pixel, or"),
        (
            "data.image_size=big",
            ": data.image_size = 'big': Input should be a valid integer or a valid list, in square",
        ),
        ("data.image_size=[1,'a']", "; data.image_size.1 = 'a': Input should be a valid integer"),
        ("data.flip=yes", "Input should be a valid boolean, true or false"),
        ("search.budgets=macs<=50%", "a valid list, in square brackets, with texts in quotes"),
        ("threads=many", ": threads = 'many': Input should be a valid integer or 'default'"),
        ("data.image_size=[4]", "give at least 1 pixel, or [height, width]"),
        ("data.image_size=[4, 0]", "give at least 1 pixel, or [height, width]"),
        ("data.bad=ignore", "data.bad = 'ignore': Input should be 'refuse' or 'skip'"),
        ("schema=2", "schema = 2: Input should be less than or equal to 1"),
        ("name=../up", "name = '../up': String should match pattern"),
        ("name=..", "name = '..': String should match pattern"),
        ("search.budgets=[]", "give at least one budget, such as 'macs<=50%'"),
        ("search.budgets=['macs<50%']", "budget 'macs<50%' is not understood"),
        ("search.budgets=['flops<=50%']", "is no cost; have macs, params, size, latency_ms,"),
        ("search.budgets=['macs<=9%', 'macs<=9%']", "repeat one"),
        ("export.formats=['tflite']", "Input should be 'pt2', 'onnx', 'int8' or 'json'"),
        ("train=5", "train = 5: Input should be"),
        ("train.epochs", "--set 'train.epochs' is not of the form section.key=value"),
        ("=5", "--set '=5' is not of the form section.key=value"),
    ],
)
def test_what_is_wrong_is_said(override, text):
    assert message(override).startswith("--set")
    assert text in message(override)


def test_an_override_inside_a_value_is_an_error():
    assert "'seed' is a value, not a section" in message("seed=3", "seed.x=4")


def test_every_problem_is_named_at_once():
    text = message("train.epochs=-1", "sede=3")
    assert "train.epochs = -1" in text
    assert "unknown key 'sede'; did you mean 'seed'?" in text


def test_files_that_cannot_be_read(tmp_path):
    assert message(path=tmp_path / "none.toml") == f"there is no recipe {tmp_path / 'none.toml'}"
    assert message(path=tmp_path) == f"recipe {tmp_path} cannot be read: Is a directory"
    (tmp_path / "bad.toml").write_text("[train\n")
    assert f"{tmp_path / 'bad.toml'} is not TOML: Expected" in message(path=tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"name = '\xff'")
    assert "is not TOML" in message(path=tmp_path / "bad.toml")


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 1


# -- TOML comes back the same ------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
whole = st.integers(1, 10**9)
numbers = st.floats(allow_nan=False, allow_infinity=False)
plain = st.one_of(
    text, st.booleans(), st.integers(-(2**62), 2**62), numbers,
    st.lists(st.integers(-5, 5)), st.lists(numbers), st.lists(text),
)  # fmt: skip
options = st.dictionaries(text, plain, max_size=3)
share = st.floats(0, 1, exclude_max=True)
above = st.floats(0, 1e300, exclude_min=True)
training = st.builds(
    TrainingSettings,
    epochs=whole,
    batch_size=whole,
    optimizer=st.sampled_from(["sgd", "adamw"]),
    lr=above,
    momentum=share,
    weight_decay=st.floats(0, 10),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    warmup_epochs=st.floats(0, 10),
    label_smoothing=share,
    clip_norm=st.none() | above,
    precision=st.sampled_from(["fp32", "bf16", "auto"]),
    tracker=st.sampled_from([None, "tensorboard"]),
)
budgets = st.lists(
    st.builds("{}<={}{}".format, st.sampled_from(["macs", "params", "latency_ms"]), whole,
              st.sampled_from(["", "K", "M", "%"])),
    min_size=1, unique=True,
)  # fmt: skip
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"\A[A-Za-z0-9_é][A-Za-z0-9_é.-]{0,5}\Z"),
    seed=st.integers(0, 2**40),
    device=text,
    network=st.builds(NetworkSettings, name=text, options=options),
    data=st.builds(
        DataSettings,
        root=st.none() | text,
        validation=whole | st.floats(0, 1, exclude_min=True),
        train_size=st.none() | whole,
        flip=st.booleans(),
    ),
    sampler=st.builds(SamplerSettings, name=text, options=options),
    train=training,
    evaluate=st.builds(EvaluationSettings, images=st.none() | whole),
    search=st.builds(SearchSettings, budgets=budgets, options=options),
    finish=st.builds(
        FinishSettings, mode=st.sampled_from(["inherit", "finetune", "scratch"]), training=training
    ),
    export=st.builds(
        ExportSettings,
        formats=st.lists(st.sampled_from(["pt2", "onnx", "int8", "json"]), unique=True),
        normalise=st.booleans(),
    ),
)


@settings(max_examples=30)
@given(recipes)
def test_a_recipe_written_and_read_is_the_same(recipe):
    toml = recipe.to_toml()
    again = Recipe.model_validate(tomllib.loads(toml))
    assert again == recipe
    assert again.to_toml() == toml
    types = [type(v) for v in again.network.options.values()]
    assert types == [type(v) for v in recipe.network.options.values()]


@given(text, plain)
def test_overrides_reach_any_option(key, value):
    line = dumps({"value": value}).removeprefix("value = ").strip()
    recipe = load(f"network.options.width={line}")
    assert recipe.network.options["width"] == value


def test_written_files_are_utf8_whatever_the_locale(tmp_path):
    recipe = Recipe(data=DataSettings(root="/größe/\x07\U000e0001"))
    (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "r.toml") == recipe


nested = st.recursive(
    st.none() | plain, lambda inner: st.dictionaries(text, inner, max_size=4), max_leaves=12
)


def without_none(value):
    if not isinstance(value, dict):
        return value
    return {key: without_none(inner) for key, inner in value.items() if inner is not None}


@given(st.dictionaries(text, nested, max_size=4))
def test_any_tables_written_to_a_file_and_read_are_the_same(values):
    """Tables before plain values, inside tables, and with any key: nothing slips elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.toml"
        records.write_text(path, dumps(values))
        assert read(path) == without_none(values)


def test_a_path_of_other_bytes_than_utf8_is_refused():
    recipe = Recipe(data=DataSettings(root="/images\udcff"))
    with pytest.raises(RecipeError, match=r"UTF-8 text and cannot hold 'root = .*udcff.*another"):
        recipe.to_toml()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schema=true", "schema = True: Input should be a valid integer"),
        ("threads=1000000", "threads.* = 1000000: Input should be less than or equal to 1024"),
        ("search.budgets=['macs<=60%', 'macs <= 60.0 %']", "budgets macs<=60%, macs<=60% repeat"),
        ("search.budgets=['macs<=" + "9" * 400 + "']", "must be above zero, and below 1e"),
        ("train.epochs=5\nseed=3", "has more than one line: give each its own --set"),
        ("seed=1" + "0" * 30, "seed = 10+: Input should be less than"),
        ("name='" + "x" * 5000 + "!'", "name = 'x{59}..."),
    ],
    ids=range(7),
)
def test_values_beyond_reason_are_refused_in_few_words(override, message):
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.load(None, [override])
    assert len(str(caught.value)) < 300


def test_setting_one_option_of_the_default_searcher_keeps_the_others():
    options = Recipe().search.options
    changed = Recipe.load(None, ["search.options.population=40"]).search.options
    assert changed == {**options, "population": 40} != options


def test_a_run_is_named_after_its_data(tmp_path):
    assert Recipe.load(None, ["data.name=mnist"]).name == "mnist"
    assert Recipe.load(None, ["data.name=mnist", "name=mine"]).name == "mine"
    root = tmp_path / "my photos (2)"
    assert Recipe.load(None, ["data.name=folder", f"data.root={root}"]).name == "my-photos-2"


def test_images_are_where_they_were_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load(None, ["data.name=folder", "data.root=photos"])
    assert recipe.data.root == str(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Recipe.load(None, ["data.root=~/x"]).data.root == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 kB", 1500), ("1MiB", 2**20), ("0B", 0), ("3tb", 3 * 10**12)],
)
def test_memory_is_a_number_of_bytes(text, size):
    assert bytes_of(Recipe.build({"data": {"memory": text}}, (), "here").data.memory) == size


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "2 gigabytes", "1iB"])
def test_memory_of_another_form_is_refused(text):
    with pytest.raises(RecipeError, match="data.memory = .*give a number of bytes such as '2GB'"):
        Recipe.build({"data": {"memory": text}}, (), "here")


class TestFolders:
    """Images in folders have a network for their size by default."""

    def load(self, *overrides):
        return Recipe.load(None, ["data.name=folder", "data.root=photos", *overrides])

    def test_without_a_network_they_get_one_and_settings_that_fit_it(self):
        recipe, asked = self.load(), Recipe.load(Path("recipes/folder.toml"))
        assert recipe.network == asked.network
        assert (recipe.sampler, recipe.train) == (asked.sampler, asked.train)
        assert recipe.finish == asked.finish
        augmented = recipe.data.model_copy(update={"flip": True, "root": None})
        assert augmented == asked.data

    def test_what_is_asked_for_stays(self):
        recipe = self.load(
            "train.epochs=7",
            "finish.training.lr=0.5",
            "sampler.name=fair",
            "network.options.width=8",
        )
        assert recipe.train.epochs == 7 and recipe.train.optimizer == "adamw"
        assert recipe.train.least_images is None
        assert recipe.finish.training == TrainingSettings(lr=0.5)
        assert recipe.sampler.name == "fair" and not recipe.sampler.options
        assert recipe.network.name == "convnet" and recipe.network.options == {"width": 8}

    def test_other_tasks_are_not_asked_to_smooth_targets(self):
        for task, smoothing in (("classification", 0.1), ("my.module:Task", 0.0)):
            for form in (task, {"name": task}):
                values = {"data": {"name": "folder", "root": "photos"}, "task": form}
                recipe = Recipe.build(values, (), "here")
                smoothed = {recipe.train.label_smoothing, recipe.finish.training.label_smoothing}
                assert smoothed == {smoothing} and recipe.train.lr == 4e-3

    def test_a_network_that_is_named_has_the_defaults_of_all(self):
        recipe = self.load("network.name=tiny")
        assert recipe.train == Recipe().train and recipe.finish == Recipe().finish
        assert recipe.data.pad == Recipe().data.pad and recipe.sampler == Recipe().sampler

    def test_a_resolved_recipe_is_not_changed(self):
        recipe = self.load("train.lr=0.25")
        assert Recipe.build(tomllib.loads(recipe.to_toml()), (), "again") == recipe

    @pytest.mark.parametrize("wrong", ["train=5", "finish=5", "finish.training=5", "network=5"])
    def test_sections_that_are_no_tables_are_errors(self, wrong):
        with pytest.raises(RecipeError, match=wrong.partition("=")[0]):
            self.load(wrong)


def test_errors_blame_what_they_come_from(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("seed = -1\n[train]\nlr = 0.2\n")
    text = message("train.lrr=1", "data.pad=2", "train.min_lr=0.3", path=path)
    by_file = text.index(f"{path}: seed = -1: ")
    typo = text.index(f"--set 'train.lrr=1', on {path}: unknown key 'train.lrr'; did you mean")
    assert typo != by_file and "data.pad" not in text
    path.write_text("[train]\nlr = 0.2\n")
    text = message("data.pad=2", "train.min_lr=0.3", path=path)
    assert text.startswith(f"--set 'train.min_lr=0.3', on {path}: train = ")
    # Of two that disagree each is to blame.
    text = message("train.lr=0.1", "data.pad=2", "train.min_lr=0.15")
    assert text.startswith("--set 'train.lr=0.1' --set 'train.min_lr=0.15', on the default recipe:")


def test_what_a_recipe_sets_can_be_dropped(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[search]\nname = 'nsga2'\noptions = {population = 8}\n[train]\nepochs = 3\n")
    assert load("search.name=random", path=path).search.options == {"population": 8}
    assert load("search.name=random", "search.options=", path=path).search.options == {}
    assert load("search.options.population= ", path=path).search.options == {}
    assert load("train=", path=path).train == Recipe().train
    assert load('data.root=""').data.root is not None  # an empty text is a value
    for text in ("train.lr=", "trian.epochs="):
        assert f"--set '{text}' drops a key that the recipe does not set" in message(
            text, path=path
        )
