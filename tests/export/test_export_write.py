"""The card, and one call for all formats."""

import json
import os
import platform

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import manyshot as ms
from manyshot.export import FORMATS, ExportMismatch, about_images, card, export, write_card
from manyshot.space import SearchSpace

SPACE = SearchSpace([ms.choose(("conv", "skip"), "layer0"), ms.choose((8, 16, 24), "width")])
DATA = {"name": "digits", "fingerprint": "9f2c"}


def full_card():
    return card(
        SPACE,
        (1, 2),
        costs={"macs": np.int64(1200), "latency_ms": np.float32(0.5)},
        scores={"proxy accuracy": 0.75, "test accuracy": None},
        data=DATA,
    )


class TestCard:
    def test_content(self, tmp_path, files):
        path = write_card(
            tmp_path / "deep" / "1-2.json", {**full_card(), "files": {"pt2": "a.pt2"}}
        )
        record = json.loads(path.read_text())
        versions = record.pop("versions")
        assert record == {
            "schema": 3,
            "architecture": "1-2",
            "choices": {"layer0": "skip", "width": 24},
            "costs": {"macs": 1200, "latency_ms": 0.5},
            "scores": {"proxy accuracy": 0.75, "test accuracy": None},
            "data": DATA,
            "checks": None,
            "files": {"pt2": "a.pt2"},
        }
        assert isinstance(record["costs"]["macs"], int)
        assert versions == {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "manyshot": ms.__version__,
        }
        assert files(tmp_path / "deep") == ["1-2.json"]

    def test_what_is_not_known_is_null(self, tmp_path):
        record = json.loads(write_card(tmp_path / "a.json", {}).read_text())
        assert [key for key, value in record.items() if value is None] == [
            "architecture", "choices", "costs", "scores", "data", "checks", "files"
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"scorse": {}}, "no field 'scorse'; have .*'scores'"),
            ({"versions": {}}, "no field 'versions'"),
            ({"scores": {"test R2": float("nan")}}, "JSON"),
            ({"data": {"name": "digits"}}, "'fingerprint'"),
            ({"costs": {"latency_ms": float("inf")}}, "JSON"),
        ],
    )
    def test_bad_record(self, record, message, tmp_path, files):
        with pytest.raises(ValueError, match=message):
            write_card(tmp_path / "a.json", record)
        assert files(tmp_path) == []

    def test_not_for_json(self, tmp_path, files):
        with pytest.raises(TypeError, match="Tensor"):
            write_card(tmp_path / "a.json", {"costs": {"macs": torch.zeros(1)}})
        assert files(tmp_path) == []

    def test_architecture_of_another_space(self):
        with pytest.raises(ValueError, match="layer0: option 2"):
            card(SPACE, (2, 0))

    def test_is_atomic(self, tmp_path, monkeypatch, files):
        path = write_card(tmp_path / "a.json", full_card())
        before = path.read_bytes()

        def fail(*args: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_card(path, {})
        assert path.read_bytes() == before
        assert files(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("size", "expected"), [(None, [12, 12]), ((8, 16), [8, 16])])
def test_a_card_says_how_images_in_files_are_resized(size, expected, tmp_path):
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.random.default_rng(i).integers(0, 255, (12, 20, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}{label}.png")
    splits = ms.data.load("folder", root=tmp_path, image_size=size, validation=2)
    about = about_images(splits)
    assert (about["class_names"], about["classes"]) == (["cat", "dog"], 2)
    assert about["image_shape"] == [3, *expected] and about["colours"] == "RGB"
    assert about["resize"] == {
        "size": expected,
        "interpolation": "bilinear, antialiased",
        "aspect": "kept",
        "crop": "centre",
        "how": "scaled to cover height x width, then cut in the centre",
    }
    own = about_images(ms.data.load("digits", image_size=(16, 8)))
    assert (own["resize"]["aspect"], own["resize"]["crop"]) == ("not kept", "none")
    assert own["resize"]["size"] == [16, 8] and own["colours"] == "grey"


class TestExport:
    def test_all_formats(self, images, tmp_path, files):
        module, folder = nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), tmp_path / "subnets"
        paths = export(module, example=images, folder=folder, stem="1-2", card=full_card())
        names = {"pt2": "1-2.pt2", "onnx": "1-2.onnx", "json": "1-2.json"}
        assert {kind: path.name for kind, path in paths.items()} == names
        assert files(folder) == sorted(names.values())
        record = json.loads(paths["json"].read_text())
        assert record["files"] == {"pt2": "1-2.pt2", "onnx": "1-2.onnx"}
        assert record["architecture"] == "1-2"
        with torch.no_grad():
            found = torch.export.load(paths["pt2"]).module()(images)
            torch.testing.assert_close(found, module(images), rtol=0, atol=1e-6)

    def test_the_card_lists_files_that_were_there_before(self, images, tmp_path):
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        listed = {"onnx": "1-2.onnx", "pt2": "old.pt2"}
        record = {**full_card(), "files": listed}
        paths = export(
            module,
            example=images,
            folder=tmp_path,
            stem="1-2",
            formats=["pt2", "json"],
            card=record,
        )
        kept = json.loads(paths["json"].read_text())["files"]
        assert list(kept.items()) == [("pt2", "1-2.pt2"), ("onnx", "1-2.onnx")]
        assert listed == {"onnx": "1-2.onnx", "pt2": "old.pt2"}

    def test_files_of_networks_carry_what_using_them_needs(self, images, tmp_path):
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        data = {**DATA, "class_names": ["ä", "b"], "mean": [0.1], "image_shape": [3, 16, 16]}
        record = {**full_card(), "data": data}
        paths = export(module, example=images, folder=tmp_path, stem="a", card=record)
        expected = {
            "schema": 3,
            "architecture": "1-2",
            "choices": {"layer0": "skip", "width": 24},
            "data": data,
        }
        extra = {"manyshot.json": ""}
        torch.export.load(paths["pt2"], extra_files=extra)
        assert json.loads(extra["manyshot.json"]) == expected
        session = onnxruntime.InferenceSession(paths["onnx"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["manyshot"]) == expected

    def test_files_that_normalise_take_pixels(self, images, tmp_path):
        """Their logits are those of the module for images that are normalised by hand."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        mean, std = [0.1, 0.4, 0.6], [0.5, 0.3, 0.2]
        pixels = np.random.default_rng(0).random((5, 3, 16, 16), np.float32)
        by_hand = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        with torch.no_grad():
            expected = module(torch.from_numpy(by_hand).float())
        data = {**DATA, "mean": mean, "std": std, "pixels": "divided by 255, minus mean"}
        paths = export(
            module,
            example=torch.rand(1, 3, 16, 16),
            folder=tmp_path,
            stem="a",
            card={**full_card(), "data": data},
            normalise=(mean, std),
        )
        extra = {"manyshot.json": ""}
        program = torch.export.load(paths["pt2"], extra_files=extra).module()
        torch.testing.assert_close(program(torch.from_numpy(pixels)), expected)
        session = onnxruntime.InferenceSession(paths["onnx"])
        assert [(axis.name, axis.shape) for axis in session.get_inputs()] == [
            ("images", ["batch", 3, 16, 16])
        ]
        (logits,) = session.run(None, {"images": pixels})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)
        card = json.loads(paths["json"].read_text())
        metadata = json.loads(session.get_modelmeta().custom_metadata_map["manyshot"])
        for said in (card, metadata, json.loads(extra["manyshot.json"])):
            assert (said["data"]["pixels"], said["data"]["mean"]) == ("divided by 255", mean)
            assert said["data"]["normalised_by"] == "the files"
        opsets = {o.domain: o.version for o in onnx.load(paths["onnx"]).opset_import}
        assert card["versions"]["onnx_opset"] == opsets[""]
        assert data["pixels"] == "divided by 255, minus mean"

    @pytest.mark.parametrize(
        ("normalise", "message"),
        [
            (([0.5], [0.0]), "std must be above 0"),
            (([0.5], [0.1, 0.2]), "one mean and one std per channel, got 1 and 2"),
        ],
    )
    def test_impossible_means(self, normalise, message, subnet, images, tmp_path, files):
        with pytest.raises(ValueError, match=message):
            export(subnet, example=images, folder=tmp_path, stem="a", normalise=normalise)
        assert files(tmp_path) == []

    def test_without_a_card_nothing_is_carried(self, images, tmp_path):
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        paths = export(module, example=images, folder=tmp_path, stem="a", formats=["pt2", "onnx"])
        extra = {"manyshot.json": ""}
        torch.export.load(paths["pt2"], extra_files=extra)
        assert extra["manyshot.json"] == ""
        session = onnxruntime.InferenceSession(paths["onnx"])
        assert "manyshot" not in session.get_modelmeta().custom_metadata_map

    def test_only_the_formats_asked_for(self, images, tmp_path, files):
        module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        paths = export(
            module, example=images, folder=tmp_path, stem="v1.0", formats=["json", "pt2"]
        )
        assert list(paths) == ["pt2", "json"]
        assert files(tmp_path) == ["v1.0.json", "v1.0.pt2"]
        assert json.loads(paths["json"].read_text())["files"] == {"pt2": "v1.0.pt2"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"formats": ["pt2", "tflite"]},
                r"unknown format 'tflite'; have \['pt2', 'onnx', 'int8', 'predict', 'json'\]",
            ),
            ({"stem": "a/b"}, "stem must be a file name"),
            ({"stem": ""}, "stem must be a file name"),
        ],
    )
    def test_bad_options(self, options, message, subnet, images, tmp_path, files):
        given = {"folder": tmp_path, "stem": "a", **options}
        with pytest.raises(ValueError, match=message):
            export(subnet, example=images, **given)
        assert files(tmp_path) == []

    def test_no_card_for_a_program_that_failed(self, images, tmp_path, files):
        class Wrong(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.flatten(1) + (1 if torch.compiler.is_compiling() else 0)

        with pytest.raises(ExportMismatch):
            export(Wrong(), example=images, folder=tmp_path, stem="a", formats=("json", "pt2"))
        assert files(tmp_path) == []

    def test_the_card_is_written_last(self):
        assert list(FORMATS)[-1] == "json"
