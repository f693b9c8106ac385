"""Networks as ONNX files of 8-bit integers."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from manyshot.export import ExportMismatch, OnnxProgram, export, to_int8, to_onnx


def calibration(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((16, 3, 16, 16), generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def pair(subnet, tmp_path_factory):
    """The subnet's file, and that of 8-bit integers."""
    folder, seen = tmp_path_factory.mktemp("int8"), calibration()
    exact = to_onnx(subnet, seen[0], folder / "a.onnx")
    return exact, to_int8(subnet, seen[0], folder / "a.int8.onnx", seen, about='{"a": 1}')


def test_weights_are_integers_with_a_scale_per_channel(pair):
    exact, small = (onnx.load(path) for path in pair)
    floats = {i.name: numpy_helper.to_array(i) for i in exact.graph.initializer}
    made = {i.name: i for i in small.graph.initializer}
    convolutions = [n.input[1] for n in exact.graph.node if n.op_type == "Conv"]
    assert len(convolutions) > 3
    for name in convolutions:
        quantised = made[f"{name}_quantized"]
        assert quantised.data_type == TensorProto.INT8
        scale = numpy_helper.to_array(made[f"{name}_scale"])
        assert scale.shape == floats[name].shape[:1]
        values = numpy_helper.to_array(quantised)
        assert abs(values).max() <= 64  # 7 bits, so that no pair of products overflows 16
        restored = values * scale.reshape(-1, 1, 1, 1)
        assert np.abs(restored - floats[name]).max() <= scale.max() / 2 * 1.01
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in small.graph.node}
    assert json.loads({p.key: p.value for p in small.metadata_props}["manyshot"]) == {"a": 1}


def test_it_gives_nearly_the_same(pair, subnet):
    session = onnxruntime.InferenceSession(pair[1])
    assert [axis.shape for axis in session.get_inputs()] == [["batch", 3, 16, 16]]
    assert [axis.name for axis in session.get_outputs()] == ["logits"]
    for batch in (1, 5):
        images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = subnet(images).numpy()
        assert 0 < abs(found - expected).max() < 0.25 * abs(expected).max()
        program = OnnxProgram(pair[1], subnet, images)
        np.testing.assert_array_equal(program(images).numpy(), found)


@pytest.mark.slow
def test_calibration_decides_the_ranges(subnet, tmp_path):
    """Far from what it has seen, the network saturates."""
    seen, far = calibration(1), 30 * calibration(1)[0]
    narrow = to_int8(subnet, seen[0], tmp_path / "n.onnx", seen)
    wide = to_int8(subnet, seen[0], tmp_path / "w.onnx", [*seen, far])
    with torch.no_grad():
        expected = subnet(far)
    errors = [
        (OnnxProgram(path, subnet, far)(far) - expected).abs().mean() for path in (narrow, wide)
    ]
    assert errors[0] > 2 * errors[1]


def test_other_inputs(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(12, 2)

        def forward(self, words: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": self.head(self.table(words).flatten(1) * weight)}

    example = {"words": torch.tensor([[1, 2, 3], [4, 5, 6]]), "weight": torch.rand(2, 12)}
    module = Two().eval()
    path = to_int8(module, example, tmp_path / "a.onnx", [example])
    found = OnnxProgram(path, module, example)(**example)["y"]
    torch.testing.assert_close(found, module(**example)["y"].detach(), rtol=0, atol=0.1)


@pytest.mark.slow
def test_what_cannot_be(subnet, images, tmp_path, files):
    with pytest.raises(ValueError, match="int8 needs calibration: at least one batch"):
        to_int8(subnet, images, tmp_path / "a.onnx", [])
    with pytest.raises(ValueError, match="int8 needs calibration"):
        export(subnet, example=images, folder=tmp_path, stem="a", formats=["int8"])

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) / 0

    with pytest.raises(ExportMismatch):
        to_int8(Nothing(), images, tmp_path / "a.onnx", [images])
    assert files(tmp_path) == []
