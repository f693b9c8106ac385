"""Shows that a change of the source leaves every number as it was, to the last bit.

For refactorings: what moves, renames or merges code must not change what is trained, drawn, scored
or chosen. This script does a fixed set of short runs by the command line of whatever `manyshot`
the interpreter finds, and keeps of each a digest, and the content, of all that is no time: the
tensors of all weights with their names, every candidate and score in the order of the search,
what was logged of the training, the winners, truths and rank correlations.

    python tests/golden.py write FILE      before the change
    python tests/golden.py compare FILE    after it; the exit status is 1 if anything differs

The numbers belong to one machine, so FILE is not for the repository. It says which torch, CPU
capability and ONEDNN_MAX_CPU_ISA it is of, and `compare` says where these differ. A change that is
meant to alter numbers differs here too: then look at what differs, and at whether it should.

The tables at the top hold every name that a refactoring may change. Change a name there, on the
right, and keep the name on the left: a FILE written before the change has that one. A name that is
no longer right ends in an error and never in a field left out.

Needs no images: all runs are of scikit-learn's digits, and the transfer's target is made here. It
takes a minute of one idle core. It is no test, and pytest does not collect it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

# -- names that a refactoring may change -----------------------------------------------------------

RECIPES = Path(__file__).parents[1] / "recipes"
SECTION = {"shifting": "shifting"}
"""Sections of a recipe, as called here and as they are."""
FILES = {
    "supernet": "supernet.safetensors",
    "shifted": "shifted.safetensors",
    "sampler": "sampler.pt",
    "subnets": "subnets/*.safetensors",
    "training": "train.jsonl",
    "sampling": "sampler.jsonl",
    "codes": "codes.jsonl",
    "candidates": "search.jsonl",
    "shifting": "shifting.jsonl",
    "order": "order.jsonl",
    "finished": "finish.jsonl",
    "result": "result.json",
    "truth": "truth.jsonl",
    "rank": "rank/*/rank.json",
}
"""Files in a run's folder, as called here and as they are."""
KEYS: dict[str, str] = {
    "watched": "order",
    "code_entropy": "code_entropy_share",
    "error": "error_grid_steps",
    "entropy": "entropy_nats",
    "proxy_accuracy": "proxy_score",
    "test_accuracy": "test_score",
    "shared_statistics_accuracy": "shared_statistics_score",
}
"""Keys of records, as called here and as they are; all others are the same."""
WORDS: dict[str, str] = {
    "shift": "shifting",
    "below_budget_share": "below_budget",
    "mean_score_before": "mean_accuracy_before",
    "mean_score_after": "mean_accuracy_after",
}
"""Names in records (of roles, predictors, stages), as they are and as called here; likewise."""

# -- the runs --------------------------------------------------------------------------------------

BUDGETS = 'search.budgets=["macs<=25%", "macs<=60%"]'
SHORT = (
    "train.log_steps=8",
    "evaluate.calibration_images=256",
    "finish.training.epochs=1",
    "finish.training.batch_size=64",
    "finish.training.log_steps=8",
    "latency.warmup=0",
    "latency.repeats=1",
    'export.formats=["json"]',
)
EVOLUTION = "population=6, parents=3, mutants=3, crossovers=3"
ON_DIGITS = (
    *('network.name="tiny"', "network.options={}"),
    *('data.name="digits"', "data.validation=0.2", "data.pad=1", "data.flip=false"),
)


def shifting(*settings: str) -> tuple[str, ...]:
    return tuple(f"{SECTION['shifting']}.{setting}" for setting in settings)


SHIFTS = shifting("steps=2", "batch_size=32", "rescored=6", "watched=12", "watched_best=5")
DIGITS = (
    *SHORT,
    BUDGETS,
    *("train.epochs=3", "search.candidates=18", "search.generation=6"),
    f"search.options={{{EVOLUTION}}}",
)
K_SHOT = (
    *SHORT,
    *ON_DIGITS,
    BUDGETS,
    *("train.epochs=3", "train.batch_size=64", "evaluate.images=200"),
    *("search.candidates=18", "search.generation=6", "search.options={population=6}"),
)
SHIFTNAS = (
    *SHORT,
    *("data.train_size=256", "data.validation=100", "sampler.held_out=100"),
    *("train.epochs=6", "train.warmup_epochs=1.0", "train.lr=0.003"),
    "sampler.options={rule='paper', grid=[0.7e6, 3.5e6, 0.4e6], period=4, images=64, "
    "kept='weights', dead_zone=0.0, entropy_weight=0.0, mix_uniform=0.0, policy_share=1.0, "
    "policy_every=1}",
)
SHIFTING = (
    *SHORT,
    BUDGETS,
    *("train.epochs=3", "search.candidates=18", "search.generation=6"),
    f'search.options={{{EVOLUTION}, dedupe="per_generation"}}',
    *SHIFTS,
)
TRUTH = (
    *('truth.plan="uniform"', "truth.count=8", "truth.seeds=[0, 1]", "truth.training.epochs=2"),
    *("data.train_size=256", 'network.name="tiny"'),
)

SEARCHED = ("supernet", "training", "candidates", "finished", "subnets", "winners", "images")
"""What every run that trains and searches has; before it and after it is what only some have."""


def everything(folder: Path) -> Iterable[tuple[str, Callable[[], dict[str, Any]]]]:
    """The runs by name, each a function that does it and returns its fields in order.

    The transfer starts from the first run, and the truth is that of its ranking.
    """
    digits, moved, truth = folder / "digits", folder / "transfer", folder / "truth"

    def whole(name: str, recipe: str | None, settings: Sequence[str], *more: str) -> dict[str, Any]:
        path = [] if recipe is None else [RECIPES / recipe]
        manyshot("run", *path, *sets(settings), "--out", folder / name)
        return fields(folder / name, more)

    def transfer() -> dict[str, Any]:
        images(folder / "images")
        root = f"data.root={json.dumps(str(folder / 'images'))}"
        settings = (*SHIFTS, "transfer.head_epochs=1", "data.train_size=256", root)
        manyshot("transfer", digits, "--data", "mnist", *sets(settings), "--out", moved)
        return fields(moved, ("shifting", "shifted", "order", "watched"))

    def ranking() -> dict[str, Any]:
        manyshot("truth", *sets(TRUTH), "--out", truth)
        manyshot("rank", digits, "--truth", truth)
        return {"truth": FIELDS["truth"](truth), "rank": FIELDS["rank"](digits)}

    shifted = ("shifting", "shifted", "order", "watched")
    yield "digits", lambda: whole("digits", None, DIGITS)
    yield "k_shot", lambda: whole("k_shot", "kshot.toml", K_SHOT, "code_training", "codes")
    yield (
        "shiftnas",
        lambda: whole(
            "shiftnas", "shiftnas_vit.toml", SHIFTNAS, "sampling", "sampler", "generated"
        ),
    )
    yield "shifting", lambda: whole("shifting", "supernet_shifting.toml", SHIFTING, *shifted)
    yield "transfer", transfer
    yield "rank", ranking


def sets(settings: Iterable[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def manyshot(*words: str | Path) -> None:
    """Runs a command of the package; what it says is shown if it fails, and then all ends."""
    command = [sys.executable, "-m", "manyshot", *map(str, words), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")


def images(root: Path) -> None:
    """The transfer's target, as MNIST's files: noise whose brightness is its class."""
    root.mkdir()
    for seed, (part, count) in enumerate((("train", 400), ("t10k", 100))):
        labels = (np.arange(count) % 10).astype(np.uint8)
        noise = np.random.default_rng(seed).integers(0, 64, (count, 8, 8), dtype=np.uint8)
        pixels = noise + (19 * labels)[:, None, None]
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (root / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


# -- what is kept of a run -------------------------------------------------------------------------


def fields(folder: Path, more: Sequence[str]) -> dict[str, Any]:
    """Those that every run has and some more, in the order in which a run makes them."""
    wanted = {*SEARCHED, *more}
    return {name: read(folder) for name, read in FIELDS.items() if name in wanted}


def files(folder: Path, name: str) -> list[Path]:
    """The files called so here, sorted.

    Raises:
        SystemExit: if there is none.
    """
    paths = sorted(folder.glob(FILES[name]))
    if not paths:
        there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
        sys.exit(
            f"{folder} has no {FILES[name]}: correct FILES[{name!r}] in {__file__}, if it was "
            f"renamed; there are {', '.join(there)}"
        )
    return paths


def value(record: dict[str, Any], key: str) -> Any:
    """What a record holds under the key called so here.

    Raises:
        SystemExit: if it has no such key.
    """
    name = KEYS.get(key, key)
    if name not in record:
        sys.exit(
            f"a record has no {name!r}: correct KEYS[{key!r}] in {__file__}, if it was renamed; "
            f"it has {', '.join(record)}"
        )
    return worded(record[name])


def worded(item: Any) -> Any:
    """The same with the names of `WORDS` as they are called here."""
    if isinstance(item, dict):
        return {worded(key): worded(part) for key, part in item.items()}
    if isinstance(item, list):
        return [worded(part) for part in item]
    return WORDS.get(item, item) if isinstance(item, str) else item


def record_of(folder: Path, name: str) -> dict[str, Any]:
    (path,) = files(folder, name)
    return dict(json.loads(path.read_text()))


def rows(name: str, keys: str) -> Callable[[Path], list[dict[str, Any]]]:
    """Reads these keys of every line of a file, in its order."""

    def read(folder: Path) -> list[dict[str, Any]]:
        (path,) = files(folder, name)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: value(line, key) for key in keys.split()} for line in lines]

    return read


def leaves(item: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Whatever is in dictionaries and lists, by the way to it."""
    if isinstance(item, dict | list | tuple):
        parts = item.items() if isinstance(item, dict) else enumerate(item)
        for key, part in parts:
            yield from leaves(part, f"{name}/{key}" if name else str(key))
    else:
        yield name, item


def tensors(state: dict[str, Any]) -> dict[str, str]:
    """By name in sorted order: type, shape and digest of every tensor; else the value."""
    digests = {}
    for name, leaf in sorted(leaves(state)):
        digests[name] = repr(leaf)
        if isinstance(leaf, torch.Tensor):
            data = leaf.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            digest = hashlib.sha256(data).hexdigest()
            digests[name] = f"{leaf.dtype} {list(leaf.shape)} sha256 {digest}"
    return digests


def weights(name: str) -> Callable[[Path], dict[str, str]]:
    return lambda folder: tensors(load_file(files(folder, name)[0]))


def sampler(folder: Path) -> dict[str, str]:
    state = torch.load(files(folder, "sampler")[0], weights_only=True)
    return tensors({key: part for key, part in state.items() if key != "schema"})


def subnets(folder: Path) -> dict[str, dict[str, str]]:
    return {path.stem: tensors(load_file(path)) for path in files(folder, "subnets")}


def winners(folder: Path) -> list[dict[str, Any]]:
    keys = ("budget", "arch", "macs", "params", "proxy_accuracy", "test_accuracy")
    found = value(record_of(folder, "result"), "winners")
    return [{key: value(winner, key) for key in keys} for winner in found]


def of_result(key: str) -> Callable[[Path], Any]:
    return lambda folder: value(record_of(folder, "result"), key)


def rank(folder: Path) -> dict[str, Any]:
    """The scores, and of every set of architectures every predictor's correlations."""
    record = record_of(folder, "rank")
    keys = ("arch", "truth", "proxy_accuracy", "proxy_loss", "shared_statistics_accuracy")
    points = [{key: value(point, key) for key in keys} for point in value(record, "points")]
    judged = {}
    for each in value(record, "sets"):
        judged[value(each, "name")] = {
            "archs": value(each, "archs"),
            "run_to_run": value(each, "run_to_run"),
            "predictors": {
                name: {key: value(figures, key) for key in ("kendall", "spearman", "pearson")}
                for name, figures in value(each, "predictors").items()
            },
        }
    return {"points": points, "sets": judged}


SCORED = "generation role arch proxy_accuracy proxy_loss macs params weights_version"
FIELDS: dict[str, Callable[[Path], Any]] = {
    "training": rows("training", "step images lr loss"),
    "code_training": rows("training", "step code_loss code_entropy code_spread slice_distance"),
    "sampling": rows("sampling", "step targets probabilities counts error entropy"),
    "supernet": weights("supernet"),
    "sampler": sampler,
    "codes": rows("codes", "arch macs code"),
    "candidates": rows("candidates", SCORED),
    "shifting": rows("shifting", "generation weights_version images loss candidates elites"),
    "shifted": weights("shifted"),
    "order": rows("order", SCORED),
    "watched": of_result("watched"),
    "generated": of_result("generated"),
    "finished": rows("finished", "arch mode proxy_accuracy test_accuracy test_loss"),
    "subnets": subnets,
    "winners": winners,
    "images": of_result("images_forwarded"),
    "truth": rows("truth", "arch seed test_accuracy test_loss macs params images_forwarded"),
    "rank": rank,
}
"""How each field is read from a run's folder, in the order in which a run makes them."""

# -- writing and comparing -------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What the last bits of numbers depend on, beside the source."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", "not set"),
    }


def measured() -> dict[str, Any]:
    """Does all runs: the machine, and per run and field its digest and content."""
    where = "import manyshot; print(manyshot.__file__)"
    source = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True)
    print(f"runs of {source.stdout.strip() or source.stderr}", file=sys.stderr)
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in everything(Path(folder)):
            began = time.perf_counter()
            runs[name] = {
                field: {"sha256": digest_of(content), "content": content}
                for field, content in run().items()
            }
            print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return {"machine": machine(), "runs": runs}


def digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def first_difference(before: Any, after: Any, where: str = "content") -> str | None:
    """Where two contents first differ, and how; None if they do not."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            there = f"{where}[{key!r}]"
            if key not in before or key not in after:
                return f"{there}: is only {'before' if key in before else 'after'} the change"
            inside = first_difference(before[key], after[key], there)
            if inside is not None:
                return inside
        return None
    if isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            inside = first_difference(one, other, f"{where}[{index}]")
            if inside is not None:
                return inside
        same = len(before) == len(after)
        return None if same else f"{where}: {len(before)} entries before, {len(after)} after"
    # by their texts, in which 1 and 1.0, and 0.0 and -0.0, are not the same
    one, other = json.dumps(before), json.dumps(after)
    return None if one == other else f"{where}: {one} before, {other} after"


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line per run and field that differ, in the order in which they were made."""
    lines = []
    for run in [*before, *(run for run in after if run not in before)]:
        if run not in before or run not in after:
            lines.append(f"{run}: is only {'before' if run in before else 'after'} the change")
            continue
        one, other = before[run], after[run]
        for field in [*one, *(field for field in other if field not in one)]:
            if field not in one or field not in other:
                when = "before" if field in one else "after"
                lines.append(f"{run}, {field}: is only {when} the change")
            elif one[field]["sha256"] != other[field]["sha256"]:
                at = first_difference(one[field]["content"], other[field]["content"])
                lines.append(f"{run}, {field}: first differs at {at}")
    return lines


def write(path: Path) -> int:
    """Does all runs and writes the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(measured(), indent=1) + "\n"
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text)
    temporary.replace(path)
    return 0


def compare(path: Path) -> int:
    """Does all runs and prints what differs from the file; 1 if anything does."""
    before = json.loads(path.read_text())
    after = measured()
    for key in sorted({*before["machine"], *after["machine"]}):
        one, other = before["machine"].get(key), after["machine"].get(key)
        if one != other:
            print(
                f"ANOTHER MACHINE: {key} is {one} in {path} and {other} here. Numbers may differ "
                "for that alone; write the file anew, from the source before the change, here."
            )
    lines = differences(before["runs"], after["runs"])
    for line in lines:
        print(line)
    count = sum(len(run) for run in after["runs"].values())
    if lines:
        print(f"{len(lines)} differences in {count} fields. The first made is: {lines[0]}")
        return 1
    print(f"All {count} fields of {len(after['runs'])} runs are the same.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Shows that a change of the source leaves every number as it was."
    )
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    if asked.what == "compare" and not asked.file.exists():
        parser.error(f"{asked.file} does not exist: write it first, before the change")
    return write(asked.file) if asked.what == "write" else compare(asked.file)


if __name__ == "__main__":
    sys.exit(main())
