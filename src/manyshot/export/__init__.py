"""Writes an extracted network to files that need no manyshot, and checks each before it is kept."""

from manyshot.export.card import about_images, card, write_card
from manyshot.export.check import CHECKED_BATCHES, ExportMismatch
from manyshot.export.normalised import Normalised
from manyshot.export.programs import (
    ONNX_OPSET,
    ONNX_TOLERANCE,
    PT2_TOLERANCE,
    OnnxProgram,
    output_name,
    to_int8,
    to_onnx,
    to_pt2,
)
from manyshot.export.trial import SCRIPT_TOLERANCE, ScriptFailed, Trial, image_files, tried
from manyshot.export.write import CARD, FORMATS, INT8, SCRIPT, export

__all__ = [
    "CARD",
    "CHECKED_BATCHES",
    "FORMATS",
    "INT8",
    "ONNX_OPSET",
    "ONNX_TOLERANCE",
    "PT2_TOLERANCE",
    "SCRIPT",
    "SCRIPT_TOLERANCE",
    "ExportMismatch",
    "Normalised",
    "OnnxProgram",
    "ScriptFailed",
    "Trial",
    "about_images",
    "card",
    "export",
    "image_files",
    "output_name",
    "to_int8",
    "to_onnx",
    "to_pt2",
    "tried",
    "write_card",
]
