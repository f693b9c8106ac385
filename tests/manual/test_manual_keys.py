"""Every key of a recipe is explained, with the type and the default that it really has."""

import tomllib

import pytest

from manyshot.manual.keys import keys, sections
from manyshot.recipe import Recipe, RecipeError


def flat(values: dict, above: str = "") -> dict[str, object]:
    """Values by their dotted keys; tables of settings that are free in their keys are values."""
    out: dict[str, object] = {}
    for key, value in values.items():
        is_free = key in ("options", "costs", "rates")
        more = flat(value, f"{above}{key}.") if isinstance(value, dict) and not is_free else None
        out |= {f"{above}{key}": value} if more is None else more
    return out


def test_all_keys_are_there_and_no_others():
    converted = Recipe.build({"network": {"convert": {}}}, (), "here").model_dump(by_alias=True)
    assert {key.path for key in keys()} == flat(converted).keys()


def test_defaults_are_those_of_the_default_recipe_as_toml():
    defaults = flat(Recipe().model_dump(by_alias=True))
    own = [key for key in keys() if key.section != "network.convert"]
    for key in own:
        value = defaults[key.path]
        read = tomllib.loads(f"value = {key.default}")["value"] if key.default else None
        assert read == value, key
    assert len(own) > 90


def test_every_key_has_words():
    assert [key.path for key in keys() if not key.words.endswith(".")] == []
    assert [name for name, words in sections().items() if not words.endswith(".")] == []


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("schema", "whole number = 1", "Of which form the recipe is"),
        ("train.epochs", "whole number >= 0", "0 trains nothing"),  # not those of its base
        ("finish.training.epochs", "whole number >= 1", "How often all training images"),
        ("shifting.momentum", "number >= 0 and < 1", "Of SGD (Nesterov)"),  # of its base
        ("train.optimizer", '"sgd", "adamw", "lamb"', "SGD with"),
        ("data.image_size", "whole number or list of whole numbers", "Resize to"),
        ("network.convert.ratios", "list of numbers > 0 and <= 1", "Widths, as parts"),
        ("data.flip", "true or false", "Random horizontal flips."),
        ("network.weights", "text", "Begin with the weights in this file"),
        ("search.options", "table", "Those here are for the default searcher"),
    ],
)
def test_what_is_said_of_some(path, kind, words):
    [key] = [key for key in keys() if key.path == path]
    assert key.type == kind and key.words.startswith(words)


def test_a_section_has_those_below_it():
    of = {key.section for key in keys("finish")}
    assert of == {"finish", "finish.distillation", "finish.training"}
    assert {key.section for key in keys("finish.training")} == {"finish.training"}
    with pytest.raises(RecipeError, match="has no section 'finsh'; did you mean 'finish'"):
        keys("finsh")
