"""Exported programs: they compute the module's logits, anywhere, or there is no file."""

import copy
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.export import ONNX_TOLERANCE, ExportMismatch, to_onnx, to_pt2
from manyshot.export.check import different_rows
from manyshot.zoo import tiny

WRITERS = {"pt2": to_pt2, "onnx": to_onnx}


@pytest.fixture(scope="module")
def written(subnet, images, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    return {kind: write(subnet, images, folder / f"a.{kind}") for kind, write in WRITERS.items()}


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
try:
    import manyshot
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the blocker does not block")
"""


def run_without(blocked: set[str], code: str, *args: object) -> None:
    script = BLOCKED.format(blocked=blocked) + code
    command = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


class TestAnywhere:
    def test_pt2_loads_without_manyshot(self, written, images, logits, tmp_path):
        torch.save({"images": images[:7], "logits": logits}, tmp_path / "expected.pt")
        code = """
import torch
torch.set_num_threads(1)
expected = torch.load(sys.argv[2], weights_only=True)
program = torch.export.load(sys.argv[1]).module()
torch.testing.assert_close(program(expected["images"]), expected["logits"], rtol=0, atol=1e-6)
"""
        run_without({"manyshot"}, code, written["pt2"], tmp_path / "expected.pt")

    def test_onnx_loads_without_manyshot_and_torch(self, written, images, logits, tmp_path):
        images[:7].numpy().tofile(tmp_path / "images.bin")
        logits.numpy().tofile(tmp_path / "logits.bin")
        code = """
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images, logits = (np.fromfile(path, np.float32) for path in sys.argv[2:4])
(found,) = session.run(["logits"], {"images": images.reshape(7, 3, 16, 16)})
assert abs(found - logits.reshape(7, 5)).max() <= float(sys.argv[4]) * abs(logits).max()
"""
        arguments = (tmp_path / "images.bin", tmp_path / "logits.bin", ONNX_TOLERANCE)
        run_without({"manyshot", "torch"}, code, written["onnx"], *arguments)

    def test_batch_is_the_only_free_axis(self, written):
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(written["onnx"])
        assert [axis.shape for axis in session.get_inputs()] == [["batch", 3, 16, 16]]
        assert [axis.shape for axis in session.get_outputs()] == [["batch", 5]]

    def test_nothing_of_this_machine_is_inside(self, written, images):
        with zipfile.ZipFile(written["pt2"]) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
        content += written["onnx"].read_bytes()
        source = str(Path(ms.__file__).parent.parent)
        assert source.encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content
        assert images[0, 0, 0].numpy().tobytes() not in content
        assert b"manyshot" not in written["onnx"].read_bytes()

    def test_folder_has_nothing_else(self, written, files):
        assert files(written["pt2"].parent) == ["a.onnx", "a.pt2"]


class TestInputs:
    def test_a_module_in_use_is_not_changed(self, images, tmp_path):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
        module.to(memory_format=torch.channels_last)(images)  # in training mode
        example = images[:1].contiguous(memory_format=torch.channels_last)
        before = {key: (t.clone(), t.stride()) for key, t in module.state_dict().items()}
        path = to_pt2(module, example, tmp_path / "new" / "a.pt2")
        assert module.training
        assert all(parameter.requires_grad for parameter in module.parameters())
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[key][0])
            assert tensor.stride() == before[key][1]
        with torch.no_grad():
            found = torch.export.load(path).module()(images[:7])
            torch.testing.assert_close(found, module.eval()(images[:7]), rtol=0, atol=1e-6)

    def test_other_inputs_and_precision(self, tmp_path):
        torch.manual_seed(0)
        words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).double()
        example = torch.tensor([[1, 2, 3]])
        for kind, write in WRITERS.items():
            write(words, example, tmp_path / f"words.{kind}")

    @pytest.mark.parametrize("kind", WRITERS)
    def test_a_head_that_is_none_in_eval_mode(self, kind, tmp_path):
        """Programs give what the module gives, and None where it gives None."""
        torch.manual_seed(0)
        path = WRITERS[kind](Headed(), torch.randn(2, 4), tmp_path / f"headed.{kind}")
        images = torch.randn(5, 4)
        expected = images @ torch.eye(4)[:, :3]
        if kind == "pt2":
            outputs = torch.export.load(path).module()(images)
            assert outputs["side"] is None and outputs.keys() == {"side", "out", "twice"}
            found = outputs["out"], outputs["twice"]
        else:
            runtime = pytest.importorskip("onnxruntime")
            session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
            [name] = [node.name for node in session.get_inputs()]
            found = map(torch.from_numpy, session.run(["out", "twice"], {name: images.numpy()}))
        for tensor, wanted in zip(found, (expected, 2 * expected), strict=True):
            torch.testing.assert_close(tensor, wanted)

    @pytest.mark.parametrize("kind", WRITERS)
    def test_refused(self, kind, subnet, images, tmp_path, files):
        write, path = WRITERS[kind], tmp_path / f"a.{kind}"
        net = ms.Supernet(tiny())
        for module in (net, net.model):
            with pytest.raises(ValueError, match=r"export net\.extract\(arch, stats=stats\)"):
                write(module, images, path)
        with pytest.raises(ValueError, match=r"export module\.float\(\)"):
            write(copy.deepcopy(subnet).bfloat16(), images, path)
        for example in (torch.zeros(3), torch.zeros(0, 3, 16, 16)):
            with pytest.raises(ValueError, match="must be a batch of inputs"):
                write(subnet, example, path)
        with pytest.raises(ValueError, match=f"'a.bin' must end with '.{kind}'"):
            write(subnet, images, tmp_path / "a.bin")
        assert files(tmp_path) == []


class Headed(nn.Module):
    """The first three numbers, and None from a head that only training has."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(4)[:3])

    def forward(self, x):
        out = self.first(x)
        return {"side": out if self.training else None, "out": out, "twice": out * 2}


class WrongWhenExported(nn.Module):
    """Computes one thing when it is run and another when it is exported."""

    def __init__(self, wrong) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wrong(x) if torch.compiler.is_compiling() else x.flatten(1)


@pytest.mark.parametrize("kind", WRITERS)
class TestMismatch:
    @pytest.mark.parametrize(
        ("wrong", "difference", "batch"),
        [
            (lambda x: x.flatten(1) + 0.5, 0.5, 1),
            (lambda x: x[:1].expand_as(x).flatten(1) + 0, 3.0, 3),
            (lambda x: x, float("inf"), 1),
            (lambda x: x.flatten(1) / 0, float("inf"), 1),
        ],
        ids=["value", "rows", "shape", "infinite"],
    )
    def test_leaves_no_file(self, kind, wrong, difference, batch, tmp_path, files):
        example = torch.tensor([[[1.0, 2.0, 4.0]]])
        with pytest.raises(ExportMismatch, match=f"the {kind} program differs") as caught:
            WRITERS[kind](WrongWhenExported(wrong), example, tmp_path / f"a.{kind}")
        assert caught.value.difference == pytest.approx(difference)
        assert caught.value.batch == batch
        assert files(tmp_path) == []

    def test_keeps_an_earlier_file(self, kind, tmp_path, files):
        path = tmp_path / f"a.{kind}"
        path.write_text("earlier")
        with pytest.raises(ExportMismatch):
            WRITERS[kind](WrongWhenExported(lambda x: -x.flatten(1)), torch.ones(1, 1, 3), path)
        assert path.read_text() == "earlier"
        assert files(tmp_path) == [path.name]

    def test_logits_that_are_not_numbers(self, kind, tmp_path, files):
        example = torch.full((1, 1, 3), float("nan"))
        right = WrongWhenExported(lambda x: x.flatten(1))
        with pytest.raises(ExportMismatch):
            WRITERS[kind](right, example, tmp_path / f"a.{kind}")
        assert files(tmp_path) == []


def test_rows_of_the_check_differ():
    rows = different_rows(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), 3)
    assert rows.tolist() == [[1, 2, 3, 4], [8, 5, 6, 7], [3, 4, 1, 2]]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_packages(missing, subnet, images, tmp_path, monkeypatch, files):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install manyshot\[onnx\]"):
        to_onnx(subnet, images, tmp_path / "a.onnx")
    assert files(tmp_path) == []


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        if x.mean() > 0.5:
            x = x + 1
        return self.head(x)


def test_what_cannot_be_traced_is_said_in_a_sentence_and_no_graph_is_printed(tmp_path, capfd):
    lines = Path(__file__).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.strip() == "if x.mean() > 0.5:")
    with pytest.raises(ValueError, match=rf"by the values of tensors \(test_.*\.py, line {line}: "):
        to_pt2(Branches(), torch.rand(3, 4), tmp_path / "branches.pt2")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not logging.getLogger("torch.fx.experimental.symbolic_shapes").disabled


class Talks(nn.Module):
    def forward(self, x):
        print("words of its own", file=sys.stderr)
        return x * 2


def test_what_a_network_prints_while_it_is_traced_is_passed_on(tmp_path, capsys):
    to_pt2(Talks(), torch.rand(3, 4), tmp_path / "talks.pt2")
    assert "words of its own" in capsys.readouterr().err
