"""Networks of libraries and with given weights: where they come from, and what is refused."""

import functools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from manyshot.data import Splits, load
from manyshot.pipeline.networks import (
    build_network,
    build_supernet,
    load_given,
    make_network,
    read_state,
)
from manyshot.recipe import Recipe, RecipeError
from manyshot.train import CheckpointError

SMALL = ("network.name=torchvision:squeezenet1_1", "data.image_size=32")
"""A network with few parameters, on digits, which are grey."""


def recipe(*overrides: str) -> Recipe:
    return Recipe.load(None, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def digits():
    return load("digits", image_size=32)


@functools.cache
def coloured(channels: int = 3, classes: int = 10) -> Splits:
    """What a network has to know of images: their shape and classes; the pixels are others."""
    return replace(load("digits", image_size=32), image_shape=(channels, 32, 32), classes=classes)


def leaf_values(model: nn.Module) -> list[float]:
    return [p.detach().double().sum().item() for p in model.parameters()]


def test_a_network_of_torchvision_is_what_torchvision_makes() -> None:
    made = make_network(recipe(), coloured())
    theirs = torchvision.models.squeezenet1_1(num_classes=10)
    assert type(made) is type(theirs)
    assert {n: p.shape for n, p in made.state_dict().items()} == {
        n: p.shape for n, p in theirs.state_dict().items()
    }


def test_weights_are_a_function_of_the_seed(digits) -> None:
    one, same = (leaf_values(build_network(recipe("seed=3"), digits)) for _ in range(2))
    assert one == same != leaf_values(build_network(recipe("seed=4"), digits))


def test_options_reach_the_function() -> None:
    made = make_network(recipe("network.options.dropout=0.25"), coloured())
    assert [m.p for m in made.modules() if isinstance(m, nn.Dropout)] == [0.25]


def test_grey_images_are_seen_as_three_equal_channels(digits) -> None:
    theirs = torchvision.models.squeezenet1_1(num_classes=10).eval()
    ours = build_network(recipe(), digits).eval()
    load_given(ours, theirs.state_dict(), 10, "here")
    grey = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(ours(grey), theirs(grey.expand(-1, 3, -1, -1)))


def test_a_network_of_timm_takes_channels_and_classes_from_the_data(digits) -> None:
    timm = pytest.importorskip("timm")
    made = build_network(recipe("network.name=timm:test_resnet"), digits)
    theirs = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    assert {n: p.shape for n, p in made.state_dict().items()} == {
        n: p.shape for n, p in theirs.state_dict().items()
    }


def test_timm_is_only_needed_for_its_networks(digits, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'manyshot\[timm\]'"):
        build_network(recipe("network.name=timm:test_resnet"), digits)
    make_network(recipe(), coloured())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.name=torchvision:resnet19"], "no such network; did you mean 'resnet18'"),
        (["network.name=torchvision:fasterrcnn_resnet50_fpn"], "no such network"),
        (["network.name=timm:resnet18x"], "timm has no such network; did you mean 'resnet18"),
        (["network.options.width=3"], "unexpected keyword argument 'width'"),
        (["network.options.weights=DEFAULT"], "give network.pretrained = true"),
        (
            ["network.name=timm:test_resnet", "network.options.checkpoint_path=evil.pth"],
            "checkpoint_path is not for a recipe",
        ),
    ],
)
def test_what_a_library_does_not_have_is_said(overrides, words) -> None:
    pytest.importorskip("timm")
    with pytest.raises(RecipeError, match=words):
        make_network(recipe(*overrides), coloured())


def test_a_function_may_name_its_sizes_as_libraries_do(digits) -> None:
    asked = recipe("network.name=plain_nets:named_otherwise", "network.convert={}")
    made = make_network(asked, digits)
    assert (made.stem[0].in_channels, made.head.out_features) == (1, 10)
    five = recipe("network.name=plain_nets:named_otherwise", "network.options.num_classes=5")
    assert make_network(five, digits).head.out_features == 5


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(RecipeError, match="takes images of 3 channels, or of 1.*these have 4"):
        make_network(recipe(), coloured(channels=4))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.name=tiny", "network.pretrained=true"], "is for networks of torchvision"),
        (["network.pretrained=true", "network.weights=a.pt"], "contradict each other"),
        (["network.convert.ratio=[0.5]"], "unknown key 'network.convert.ratio'; did you mean"),
        (["network.convert.ratios=[]"], "give at least one"),
        (["network.convert.ratios=[2.0]"], "less than or equal to 1"),
        (["network.convert.importance=l3"], "'l1', 'l2', 'scale' or 'none'"),
    ],
)
def test_settings_that_cannot_be(overrides, words) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(*overrides)


def test_defaults_of_a_converted_network() -> None:
    assert recipe().network.convert is not None and recipe().sampler.name == "sandwich"
    assert Recipe.load(None).network.convert is None
    assert recipe("sampler.name=uniform").sampler.name == "uniform"
    assert recipe("sampler.options.random=3").sampler.name == "sandwich"
    own = Recipe.load(None, ["network.name=my.code:net", "network.convert={}"])
    assert own.sampler.name == "sandwich" and own.network.convert == recipe().network.convert


def test_networks_of_libraries_are_nobodys_code() -> None:
    assert recipe().named_code == {}
    assert Recipe.load(None, ["network.name=timm:resnet18"]).named_code == {}
    assert Recipe.load(None, ["network.name=timm.models:resnet18"]).named_code == {
        "network.name": "timm.models:resnet18"
    }


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """Weights as if of a training, for ten classes and images in colour."""
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1(num_classes=10)


FORMS = {
    "weights.safetensors": lambda state: state,
    "weights.pt": lambda state: state,
    "checkpoint.pth": lambda state: {"epoch": 3, "state_dict": state},
    "parallel.pt": lambda state: {f"module.{name}": t for name, t in state.items()},
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_in_a_file(name, trained, tmp_path) -> None:
    path, content = tmp_path / name, FORMS[name](trained.state_dict())
    save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
    net, original = build_supernet(recipe(f"network.weights={path}"), coloured())
    images = torch.rand(2, 3, 32, 32)
    expected = trained.eval()(images)
    torch.testing.assert_close(original.module(images), expected, rtol=0, atol=0)
    torch.testing.assert_close(net.eval()(images, stats=net.conversion.stats), expected)
    assert original.teaches and original.is_given


def test_the_statistics_of_a_conversion_are_those_of_the_weights(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    model = timm.create_model("test_resnet", num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    torch.save(model.state_dict(), tmp_path / "resnet.pt")
    asked = recipe("network.name=timm:test_resnet", f"network.weights={tmp_path / 'resnet.pt'}")
    net, _ = build_supernet(asked, coloured())
    images = torch.rand(2, 3, 32, 32)
    output = net.eval()(images, stats=net.conversion.stats)
    torch.testing.assert_close(output, model.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_classifier_for_other_classes_is_new(trained, tmp_path) -> None:
    torch.save(trained.state_dict(), tmp_path / "w.pt")

    three = coloured(classes=3)
    _, original = build_supernet(recipe(f"network.weights={tmp_path / 'w.pt'}"), three)
    assert original.new_classifier == "classifier.1" and not original.teaches
    state, before = original.module.state_dict(), trained.state_dict()
    assert state["classifier.1.weight"].shape[0] == 3
    new = build_network(recipe(), three).state_dict()
    for name, tensor in state.items():
        expected = new if name.startswith("classifier") else before
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("features.0.bias"), r"missing \['features.0.bias'\]"),
        (lambda s: s.update(extra=torch.ones(1)), r"unknown \['extra'\]"),
        (
            lambda s: s.update({"features.0.bias": torch.ones(3)}),
            r"features.0.bias is \(3,\), here \(64,\)",
        ),
        (
            lambda s: s.update({"features.0.bias": s["features.0.bias"] * float("nan")}),
            r"here: the weights 'features.0.bias' are not all finite",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, words, trained) -> None:
    state = dict(trained.state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=words):
        load_given(make_network(recipe(), coloured()), state, 10, "here")


def test_no_code_in_a_file_is_run(tmp_path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(RecipeError, match="cannot be read.*torch.save\\(model.state_dict"):
        read_state(tmp_path / "model.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(RecipeError, match="holds no state dict"):
        read_state(tmp_path / "none.pt")
    with pytest.raises(RecipeError, match="there is no file"):
        read_state(tmp_path / "nowhere.pt")


def test_published_weights_that_are_there(trained, tmp_path, monkeypatch) -> None:
    """Torch keeps what it has downloaded; a file that lies there is as if downloaded."""
    torch.manual_seed(3)
    published = torchvision.models.squeezenet1_1()
    name = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    place = tmp_path / "hub" / "checkpoints" / name
    place.parent.mkdir(parents=True)
    torch.save(published.state_dict(), place)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, original = build_supernet(recipe("network.pretrained=true"), coloured())
    state = original.module.state_dict()
    assert torch.equal(state["features.0.weight"], published.state_dict()["features.0.weight"])
    assert original.new_classifier == "classifier.1"


def test_published_weights_that_cannot_be_had(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(RecipeError, match="could not be had .*no route.*network.weights"):
        build_supernet(recipe("network.pretrained=true"), coloured())


def test_published_weights_of_timm_that_cannot_be_had(monkeypatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def unreachable(name, pretrained=False, **arguments):
        if pretrained:
            raise OSError("no route to host")
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", unreachable)
    asked = recipe("network.name=timm:test_resnet", "network.pretrained=true")
    with pytest.raises(
        RecipeError, match="weights of 'timm:test_resnet' could not be had .*no rou"
    ):
        build_supernet(asked, coloured())


def test_published_weights_of_timm(monkeypatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    published = create("test_resnet", num_classes=10)

    def there(name, pretrained=False, **arguments):
        return published if pretrained else create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", there)
    asked = recipe("network.name=timm:test_resnet", "network.pretrained=true")
    _, original = build_supernet(asked, coloured())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(original.module(images), published.eval()(images))
    assert original.teaches


def test_further_copies_begin_near_the_weights(trained, tmp_path) -> None:
    from manyshot.pipeline.networks import build_sharing

    torch.save(trained.state_dict(), tmp_path / "w.pt")
    asked = recipe(
        f"network.weights={tmp_path / 'w.pt'}", "sharing.name=k_shot", "sharing.options.copies=2"
    )
    net, _ = build_supernet(asked, coloured(), sharing=build_sharing(asked, coloured()))
    plain, _ = build_supernet(asked, coloured())
    one, two = net.state_dict(), plain.state_dict()
    stacked = [n for n in two if one[n].shape != two[n].shape]
    assert stacked
    for name in stacked:  # the noises of a tensor's slices sum to zero
        torch.testing.assert_close(one[name].mean(0), two[name], rtol=1e-4, atol=1e-5)
        assert name.endswith("bias") or not torch.equal(one[name][0], one[name][1])


def test_new_copies_are_converted_too(digits) -> None:
    from manyshot.pipeline.networks import build_sharing

    asked = recipe("sharing.name=k_shot", "sharing.options.copies=2")
    net, original = build_supernet(asked, digits, sharing=build_sharing(asked, digits))
    assert net.conversion is not None and not original.is_given
    values = net(torch.rand(2, 1, 32, 32), net.space.largest)
    assert values.shape == (2, 10) and np.isfinite(values.detach().numpy()).all()
