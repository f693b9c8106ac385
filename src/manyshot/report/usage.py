"""How the files of winners are used, as text to copy."""

from __future__ import annotations

from manyshot.report.derived import merged
from manyshot.report.page import Code, Heading, Part, Parts
from manyshot.report.reading import RunRecords
from manyshot.run_folder import WinnerRecord
from manyshot.tables import numbers

_PT2 = """import torch

network = torch.export.load("{path}").module()
outputs = network(inputs)  # {inputs}"""

_ONNX = """import onnxruntime

session = onnxruntime.InferenceSession("{path}")
name = session.get_inputs()[0].name
[outputs, *_] = session.run(None, {{name: inputs}})  # {inputs}"""


def usage(run: RunRecords) -> Parts:
    """What to type to use each winner, from the folder of the run."""
    parts: list[Part] = []
    used = [(budgets, winner, _code(run, winner)) for budgets, winner in merged(run.winners)]
    for budgets, winner, code in used:
        if code:
            if len(used) > 1:
                parts.append(Heading(f"{', '.join(map(numbers.budget, budgets))}: {winner.arch}"))
            parts.append(Code(code))
    if not parts:
        return []
    words = "In the folder of this run. No file needs manyshot"
    if any("predict" in winner.files for winner in run.winners):
        words += "; the script needs numpy, Pillow and onnxruntime, and prints a line per image: "
        words += "its path, its class and the probability of that"
    return [f"{words}.", *parts]


def _code(run: RunRecords, winner: WinnerRecord) -> str:
    """What to type; empty if no file can be used so."""
    files, inputs = winner.files, _inputs(run, winner)
    if "predict" in files:
        return f"python {files['predict']} photo.png another.jpg"
    if "pt2" in files:
        return _PT2.format(path=files["pt2"], inputs=inputs)
    if "onnx" in files:
        return _ONNX.format(path=files["onnx"], inputs=inputs)
    return ""


def _inputs(run: RunRecords, winner: WinnerRecord) -> str:
    """What a file takes."""
    shape = () if run.images is None else run.images.image_shape
    if not shape:
        return "as the network takes them"
    normalised = {line.arch: line.normalised for line in run.finished}.get(winner.arch)
    sizes = ", ".join(map(str, shape))
    values = "pixels from 0 to 1" if normalised else "normalised as the card says"
    return f"float32 (batch, {sizes}), {values}"
