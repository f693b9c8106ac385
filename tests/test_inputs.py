"""Other inputs than images, through everything that takes a network's inputs."""

import copy

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.export import to_onnx, to_pt2
from manyshot.nn.inputs import as_call, inputs_of, with_samples
from token_nets import LENGTH, Tokens, batch, costs


def tokens_net(**options):
    torch.manual_seed(0)
    return ms.Supernet(Tokens(**options), example_inputs=batch(4)[0])


def test_blocks_that_take_a_mask_are_extracted_at_every_depth():
    net, (inputs, _) = tokens_net().eval(), batch(5, seed=2)
    for arch in net.space.enumerate():
        plain = net.extract(arch)
        assert isinstance(plain.body, nn.Sequential)
        with torch.no_grad():
            torch.testing.assert_close(plain(**inputs), net(inputs, arch), rtol=0, atol=0)


class Pair(nn.Module):
    """Two positional inputs, of which one is shared by all samples; two outputs."""

    def __init__(self):
        super().__init__()
        self.width = ms.choose((4, 8), "width")
        self.first, self.head = ms.nn.Linear(5, self.width), ms.nn.Linear(self.width, 2)

    def forward(self, x, shift):
        hidden = self.first(x + shift)
        return self.head(hidden), hidden.mean(-1)


@pytest.mark.parametrize("side", [False, True])
def test_costs_of_a_network_on_tokens_are_those_by_hand(side):
    net = tokens_net(heads_out=side)
    archs = list(net.space.enumerate())
    expected = [costs(net, arch, side) for arch in archs]
    assert ms.cost.macs(net, archs).tolist() == [macs for macs, _ in expected]
    assert ms.cost.params(net, archs).tolist() == [params for _, params in expected]
    other = ms.Supernet(Tokens(heads_out=side))
    assert ms.cost.macs(other, archs, example_inputs=batch(5)[0]).tolist() == [
        macs for macs, _ in expected
    ]
    for arch, (macs, _) in zip(archs, expected, strict=True):
        assert ms.cost.subnet_macs(net.extract(arch), example_inputs=batch(3)[0]) == macs


def test_what_a_network_takes_is_said_once_or_asked_for():
    net = ms.Supernet(Tokens())
    with pytest.raises(ValueError, match="not known: give input_shape"):
        ms.cost.macs(net, [net.space.largest])
    with pytest.raises(ValueError, match="give one"):
        ms.cost.macs(net, [net.space.largest], (3, 4, 4), example_inputs=batch(2)[0])
    with pytest.raises(ValueError, match="give one"):
        ms.Supernet(Tokens(), input_shape=(3, 4, 4), example_inputs=batch(2)[0])
    remembered = tokens_net().example_inputs
    assert {name: (t.is_meta, tuple(t.shape), t.dtype) for name, t in remembered.items()} == {
        "tokens": (True, (4, LENGTH), torch.int64),
        "mask": (True, (4, LENGTH), torch.bool),
    }
    images = ms.Supernet(ms.zoo.tiny(), input_shape=(1, 8, 8)).double()
    assert inputs_of(images).dtype == torch.float64


def test_samples_are_rows_of_what_has_a_batch():
    inputs = (torch.arange(6).view(3, 2), {"shared": torch.zeros(5, 2), "scale": 2.0})
    more, rest = with_samples(inputs, 5)
    assert more.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert rest["shared"].shape == (5, 2) and rest["scale"] == 2.0
    assert with_samples(inputs, 1)[0].tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="hold a tensor with a batch"):
        with_samples((torch.tensor(1.0),), 2)


def test_latency_runs_on_the_values_that_are_given():
    """Zeros stand for what is not: indices and masks of any other value could be outside."""
    net = tokens_net()
    seen = []

    def note(module, args, kwargs):
        if not kwargs["tokens"].is_meta:
            seen.append(copy.deepcopy(kwargs))

    net.model.register_forward_pre_hook(note, with_kwargs=True)
    inputs, _ = batch(3)
    options = {"warmup": 0, "repeats": 1, "checked": 2}
    table = ms.cost.latency_table(net, example_inputs=inputs, batch_size=5, **options)
    assert table.inputs == f"tokens=(1, {LENGTH}), mask=(1, {LENGTH})"
    expected = torch.cat((inputs["tokens"], inputs["tokens"][:2]))
    assert all(torch.equal(kwargs["tokens"], expected) for kwargs in seen) and seen
    assert ms.cost.latency_ms(net, [net.space.largest], table)[0] > 0
    seen.clear()
    ms.cost.latency_table(net, batch_size=2, **options)
    assert all(not kwargs["tokens"].any() and not kwargs["mask"].any() for kwargs in seen)
    took = ms.cost.measure(net.extract(net.space.smallest), example_inputs=inputs, repeats=2)
    assert took.median_ms > 0


def test_scores_are_taken_one_by_one_where_stages_do_not_apply():
    net = tokens_net()
    batches = [batch(8, seed=i) for i in range(2)]
    archs = list(net.space.enumerate())[:3]
    population = ms.evaluate.Population(net, archs, calibration=batches, validation=batches)
    scores = dict(population)
    assert population.method.startswith("one by one: ")
    for arch in archs:
        stats = ms.evaluate.calibrate(net, arch, batches)
        plain = net.extract(arch, stats=stats).eval()
        with torch.no_grad():
            right = [(plain(**x).argmax(1) == labels).float().mean() for x, labels in batches]
        assert scores[arch].value == pytest.approx(float(sum(right)) / 2)
        assert ms.evaluate.score_module(plain, batches).value == scores[arch].value


def test_calibration_takes_dicts_and_any_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ms.nn.Linear(3, ms.choose((2, 4), "w"))
            self.norm = ms.nn.BatchNorm1d(self.fc.out_features)

        def forward(self, x, scale):
            return {"y": self.norm(self.fc(x)) * scale, "n": 7}

    net = ms.Supernet(Net())
    x = torch.randn(16, 3)
    alone = [{"x": x, "scale": torch.ones(16, 1)}]
    stats = ms.evaluate.calibrate(net, (0,), alone)
    pairs = ms.evaluate.calibrate(net, (0,), [(alone[0], torch.zeros(16))])
    with torch.no_grad():
        hidden = net.extract((0,)).fc(x)
    for found in (stats, pairs):
        mean, _ = found.tensors["norm"]
        torch.testing.assert_close(mean, hidden.mean(0))


def test_the_classifier_of_a_network_on_tokens_is_found():
    net = tokens_net()
    assert ms.transfer.classifier(net)[0] == "head"
    ms.transfer.new_head(net, 7)
    inputs, _ = batch(2)
    assert net.eval()(inputs, net.space.smallest).shape == (2, 7)


def checked_program(tmp_path, kind, module, example, inputs):
    path = {"pt2": to_pt2, "onnx": to_onnx}[kind](module, example, tmp_path / f"net.{kind}")
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        expected = module(*args, **kwargs)
    if kind == "pt2":
        return torch.export.load(path).module()(*args, **kwargs), expected
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path), expected


@pytest.mark.parametrize(
    ("side", "kind"),
    [
        (False, "pt2"),
        (True, "onnx"),
        pytest.param(False, "onnx", marks=pytest.mark.slow),
        pytest.param(True, "pt2", marks=pytest.mark.slow),
    ],
)
def test_programs_take_inputs_by_name(tmp_path, kind, side):
    net = tokens_net(heads_out=side)
    plain = net.extract(net.space.smallest).eval()
    inputs, _ = batch(7, seed=3)
    got, expected = checked_program(tmp_path, kind, plain, batch(4)[0], inputs)
    if kind == "onnx":
        assert [node.name for node in got.get_inputs()] == ["tokens", "mask"]
        names = [node.name for node in got.get_outputs()]
        assert names == (["logits", "auxiliary"] if side else ["logits"])
        outputs = got.run(names, {name: t.numpy() for name, t in inputs.items()})
        got = dict(zip(names, map(torch.from_numpy, outputs), strict=True))
        got = got if side else got["logits"]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_programs_take_several_inputs_of_which_some_are_for_all_samples(tmp_path, kind):
    plain = ms.Supernet(Pair()).extract((0,)).eval()
    shift = torch.randn(5)
    got, expected = checked_program(
        tmp_path, kind, plain, (torch.randn(3, 5), shift), (torch.randn(8, 5), shift * 2)
    )
    if kind == "onnx":
        assert [node.name for node in got.get_inputs()] == ["x", "shift"]
        assert [node.name for node in got.get_outputs()] == ["output0", "output1"]
        return
    torch.testing.assert_close(got, expected)
