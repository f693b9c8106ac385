"""What happens to a run that is killed, damaged, started twice, or fed with nonsense.

    python -m benchmarks.robustness [kills inputs flips starts] [--seed 0] [--scale 1]
    python -m benchmarks.robustness recipes/methods/*.toml [--seed 0] [--scale 1]

- `kills`: 40 commands (run, run that shifts, transfer, truth with two workers, rank) are killed by
  SIGKILL at a random moment and started again; what they end with must equal what the command ends
  with that was never killed, in all but times.
- a recipe: eight runs of it, shortened to a few steps that reach all its stages, are each killed up
  to three times; they, and a second one that is not killed, must equal one that was never killed.
- `inputs`: 1,000 recipes, overrides, budgets, truth tables, IDX files and records with one fault
  each must be refused: exit 1 or 2 with a message, no traceback, within 20 s.
- `flips`: 400 times a bit of a weights file or a card is flipped; none may be opened.
- `starts`: 20 times two commands start at once without `--out`, and two resume one folder: each of
  the first has a folder of its own, and of the second one at most is at work at a time.

Everything is drawn from the seed. A fault is a line on standard output with what is needed to see
it again, and the exit status is 1 if there is one. `--scale 0.1` does a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import manyshot as ms
from manyshot.cli import main as command_line
from manyshot.pipeline.identity import load_final_weights
from manyshot.recipe import Recipe
from manyshot.records import RecordError
from manyshot.run_folder import RunFolder
from manyshot.train.checkpoint import CheckpointError, digest, load_checkpoint

SMALL = (
    "network.options={width = 3}",
    "data.validation=64",
    "data.train_size=128",
    "train={epochs = 2, batch_size = 32, checkpoint_steps = 2, log_steps = 2}",
    "evaluate={calibration_images = 64, batch_size = 64}",
    "search={budgets = ['macs<=20%', 'macs<=90%'], candidates = 6, generation = 3, "
    "options = {population = 3, parents = 1, mutants = 2, crossovers = 1}}",
    "finish.training={epochs = 1, batch_size = 64, checkpoint_steps = 1, lr = 0.01}",
    "latency={warmup = 0, repeats = 1}",
    "controls={largest = false}",
    "export.formats=['json']",
    "truth={plan = 'uniform', count = 4, seeds = [0], training = {epochs = 1}}",
)
SHIFTS = ("shifting={name = 'population', steps = 2, batch_size = 16}",)
RESUME = ["run", "--resume", "o", "--quiet"]
TIMES = {"seconds", "images_per_second", "latency", "latency_ms"}
"""What is measured."""
LIMIT_S = 20
KILLS_OF_A_RECIPE = 8
SHORTER = (
    *("data.train_size=128", "data.validation=64", "export.formats=['json']"),
    *("train.epochs=3", "train.batch_size=32", "train.checkpoint_steps=5", "train.log_steps=3"),
    *("finish.training.epochs=2", "finish.training.checkpoint_steps=3"),
    *("evaluate.calibration_images=64", "controls.largest=false", "controls.random=1"),
    *("latency.warmup=0", "latency.repeats=1"),
)
"""What shortens any recipe to twelve steps, with checkpoints at others than those where a space
shrinks."""


def arguments(*sets: str) -> list[str]:
    """The small recipe as `--set`s."""
    return [word for text in (*SMALL, *sets) for word in ("--set", text)]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`manyshot WORDS` in a folder, as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "manyshot", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and output of `manyshot WORDS`."""
    process = started(folder, *words)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


# -- kills -----------------------------------------------------------------------------------------


def timeless(value: Any) -> Any:
    """A record without what is measured, and with digests in place of tensors."""
    if isinstance(value, dict):
        return {key: timeless(v) for key, v in value.items() if key not in TIMES}
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), digest({"": value})
    return [timeless(v) for v in value] if isinstance(value, list | tuple) else value


def outcome(folder: Path) -> dict[str, Any]:
    """All that a command wrote below a folder, but for times and for what is of one machine."""
    kept: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            kept[name] = digest(load_file(path))
        elif path.suffix == ".pt":
            kept[name] = timeless(load_checkpoint(path))
        elif path.suffix == ".jsonl":
            lines = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
            kept[name] = sorted(map(str, lines)) if path.name == "truth.jsonl" else lines
        elif path.suffix == ".json" and path.name not in ("environment.json", "lock.json"):
            kept[name] = timeless(json.loads(path.read_text()))
    return kept


def commands(base: Path) -> dict[str, tuple[list[str], list[str]]]:
    """By name: what is started, and how it is started again; `base` is a finished run."""
    run = ["run", *arguments(), "--out", "o", "--quiet"]
    shifts = ["run", *arguments(*SHIFTS), "--out", "o", "--quiet"]
    transfer = ["transfer", str(base), "--data", "digits", "--out", "o", "--quiet"]
    transfer += ["--set", "data.train_size=100", "--set", "data.validation=64"]
    truth = ["truth", *arguments(), "--out", "o", "--workers", "2", "--quiet"]
    rank = ["rank", "run", "--truth", "truth", "--quiet"]
    return {
        "run": (run, RESUME),
        "shifting": (shifts, RESUME),
        "transfer": (transfer, transfer),
        "truth": (truth, truth),
        "rank": (rank, rank),
    }


def of_recipe(path: Path) -> list[str]:
    """The command that runs a recipe, shortened."""
    recipe, sets = Recipe.load(path), list(SHORTER)
    if recipe.train.snapshots.number:
        sets.append("train.snapshots.epochs=0.5")
    words = [word for text in sets for word in ("--set", text)]
    return ["run", str(path.resolve()), *words, "--out", "o", "--quiet"]


def emptied(folder: Path) -> Path:
    """The folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def kills(work: Path, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Commands killed at a random moment; gives faults."""
    base, truth = work / "base", work / "truth"
    for words in (["run", *arguments(), "--out", str(base), "--quiet"],
                  ["truth", *arguments(), "--out", str(truth), "--quiet"]):  # fmt: skip
        status, output = done(work, *words)
        assert status == 0, output

    def place(name: str) -> Path:
        folder = emptied(work / name)
        shutil.copytree(base, folder / "run")
        shutil.copytree(truth, folder / "truth")
        return folder

    whole: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    by_name = commands(base)
    for number in range(count):
        name = list(by_name)[number % len(by_name)]
        words, again = by_name[name]
        if name not in whole:
            folder, began = place(f"whole-{name}"), time.monotonic()
            status, output = done(folder, *words)
            assert status == 0, f"{name}: {output}"
            whole[name], seconds[name] = outcome(folder), time.monotonic() - began
        moments = [rng.uniform(0.2, 1.0) * seconds[name]]
        happened = killed(place("killed"), words, again, moments, whole[name])
        if happened:
            yield f"{name} {said(moments)}", happened


def kills_of_recipe(
    path: Path, work: Path, count: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Runs of a recipe that are killed up to three times; gives faults."""
    words, began = of_recipe(path), time.monotonic()
    folder = emptied(work / "whole")
    status, output = done(folder, *words)
    if status:
        yield "it is never killed", f"it ends with {status}: {output[-300:]}"
        return
    whole, seconds = outcome(folder), time.monotonic() - began
    for number in range(count + 1):
        moments = [rng.uniform(0.2, 1.0) * seconds for _ in range(number and rng.randint(1, 3))]
        happened = killed(emptied(work / "killed"), words, RESUME, moments, whole)
        if happened:
            yield said(moments), happened


def said(moments: Sequence[float]) -> str:
    """When a command was killed."""
    after = ", ".join(f"{moment:.2f} s" for moment in moments)
    return f"killed after {after}" if moments else "not killed"


def killed(
    folder: Path,
    words: Sequence[str],
    again: Sequence[str],
    moments: Sequence[float],
    whole: Mapping[str, Any],
) -> str:
    """Nothing if a command ends as one that was never killed, else what happened.

    Args:
        folder: where it works.
        words: start it.
        again: start it again.
        moments: when it and what goes on with it are killed, in seconds after each start.
        whole: the outcome of one that was never killed.
    """
    for wait in moments:
        process = started(folder, *(again if has_begun(folder) else words))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    status, output = done(folder, *(again if has_begun(folder) else words))
    if status:
        return f"starting again ended with {status}: {output[-300:]}"
    got = outcome(folder)
    other = [key for key in whole.keys() | got.keys() if whole.get(key) != got.get(key)]
    return f"differs in {sorted(other)}" if other else ""


def has_begun(folder: Path) -> bool:
    """Whether what works in a folder has written down what it does."""
    return (folder / "o" / "recipe.toml").exists()


# -- inputs ----------------------------------------------------------------------------------------


class Accepted(Exception):
    """An input was taken: a run would begin."""


def refused(work: Callable[[], object]) -> str:
    """Nothing if an input is refused as it should be, else what happened."""

    def too_long(signum: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            work()
    except SystemExit as left:
        text = said.getvalue()
        if left.code not in (1, 2):
            return f"silent: exit {left.code}"
        if "MANYSHOT_DEBUG" in text or not text.strip().startswith("error: "):
            return f"no message for people: {text[-200:]!r}"
        return "" if len(text) < 2000 else f"endless message of {len(text)} characters"
    except TimeoutError:
        return "hangs"
    except Accepted:
        return "silent: accepted"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "silent: accepted"


def leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of all plain values of a recipe."""
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "options":
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def misspelt(word: str, rng: random.Random) -> str:
    """The word with one letter more."""
    at = rng.randrange(len(word) + 1)
    return f"{word[:at]}{rng.choice('qzxj')}{word[at:]}"


def bad_set(rng: random.Random) -> str:
    """An override that must be refused."""
    keys = sorted(leaves(Recipe().model_dump(by_alias=True)))
    *sections, key = rng.choice(keys)
    wrong = ["{a = {b = 1}}", "[[1]]", "nan", "1979-05-27", "-1.5e300", "1\nb = 2", "''''"]
    kind = rng.randrange(4)
    if kind == 0:
        return ".".join([*sections, misspelt(key, rng)]) + "=1"
    if kind == 1:
        return ".".join([*sections, key])  # no value
    if kind == 2:
        return ".".join([*sections, key, "deeper", "still"]) + "=1"
    return ".".join([*sections, key]) + "=" + rng.choice(wrong[:4])


def bad_recipe(rng: random.Random) -> str:
    """The text of a recipe that must be refused."""
    text = Recipe().to_toml()
    kind = rng.randrange(3)
    if kind == 0:  # torn inside a line
        lines = text.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if " = " in line])
        return "\n".join([*lines[:at], lines[at].partition("=")[0] + "="])
    if kind == 1:
        return text + f"\n[{misspelt('train', rng)}]\nepochs = 1\n"
    return text.replace("\n", f"\n{misspelt('seed', rng)} = 1\n", 1)


def bad_budget(rng: random.Random) -> str:
    """A budget that must be refused."""
    metric = rng.choice(["macs", "params", "latency_ms", "flops", "MACs", ""])
    sign = rng.choice(["<=", ">=", "<", "=", "=<", "≤"])
    number = rng.choice(["0", "-5", "1e6", "1e-320", "9" * 400, "", "nan", "1,5", "5 5", "0x10"])
    return f"{metric}{sign}{number}{rng.choice(['', '%', 'M', 'km', '%%'])}"


def bad_table(rng: random.Random) -> bytes:
    """A truth in CSV that must be refused."""
    cells = [["0-0-0-0", "0.5", "100"], ["1-0-0-0", "0.6", "200"], ["2-0-0-0", "0.7", "300"]]
    header = ["arch", "accuracy", "macs"]
    row = rng.randrange(3)
    kind = rng.randrange(8)
    if kind == 0:
        cells[row][0] = rng.choice(["", "0-x", "0--1", "9999999999999999999-0-0-0", "a"])
    elif kind == 1:
        cells[row][1] = rng.choice(["1.5", "-0.1", "inf", "x", "1e400"])
    elif kind == 2:
        cells[row][2] = rng.choice(["-5", "1e300", "nan", "x", "inf", ""])
    elif kind == 3:
        cells[row] = cells[row][:2]
    elif kind == 4:
        cells.append(cells[row])
    elif kind == 5:
        header[rng.randrange(3)] = "other"
    elif kind == 6:
        cells.clear()
    else:
        return b"arch,accuracy\n\xff\xfe0-0,0.5\n"
    return "\n".join(",".join(line) for line in [header, *cells]).encode()


def bad_idx(rng: random.Random, good: bytes) -> bytes:
    """An IDX file of images that must be refused."""
    kind = rng.randrange(4)
    if kind == 0:
        return good[: rng.randrange(len(good))]
    if kind == 1:
        return good + b"x" * rng.randrange(1, 50)
    at = rng.randrange(4) if kind == 2 else rng.randrange(4, 16)
    return good[:at] + bytes([(good[at] + rng.randrange(1, 255)) % 256]) + good[at + 1 :]


def bad_record(rng: random.Random, text: str, *, lines: bool) -> str:
    """The text of records in which one that must be refused."""
    records = text.splitlines() if lines else [text]
    at = rng.randrange(len(records))
    record = json.loads(records[at])
    key = rng.choice(sorted(record))
    kind = rng.randrange(5)
    if kind == 0:
        record["schema"] = rng.choice([99, "1", None, True, 1.5])
    elif kind == 1 and "loss" not in record:  # a line of training may hold any number by name
        record[misspelt(key, rng)] = 1
    elif kind == 2:
        record[key] = {"a": [{"b": None}]}
    else:
        del record["schema"]
    broken = json.dumps(record)
    records[at] = broken if kind < 4 else broken[: len(broken) // 2]
    return "\n".join(records) + "\n"


def inputs(work: Path, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Inputs with one fault; gives those that are not refused."""
    base = work / "for-inputs"
    ms.run(overrides=[*SMALL, *SHIFTS], out=base)
    images = torch.zeros(20, 28, 28, dtype=torch.uint8).numpy().tobytes()
    idx = b"".join(n.to_bytes(4, "big") for n in (0x803, 20, 28, 28)) + images
    labels = b"".join(n.to_bytes(4, "big") for n in (0x801, 20)) + bytes(i % 10 for i in range(20))
    read = ["train.jsonl", "search.jsonl", "shifting.jsonl", "result.json"]  # by the report

    def accepted(*words: object, **options: object) -> None:
        raise Accepted

    with unittest.mock.patch("manyshot.pipeline.verbs.run.open_folder", accepted):
        for number in range(count):
            kind = ("set", "recipe", "budget", "table", "idx", "record")[number % 6]
            words = ["run", "--out", str(work / "never"), "--quiet"]
            if kind == "set":
                text = bad_set(rng)
                words += ["--set", text]
            elif kind == "budget":
                text = bad_budget(rng)
                words += ["--set", f"search.budgets=[{json.dumps(text)}]"]
            elif kind == "recipe":
                text = bad_recipe(rng)
                (work / "bad.toml").write_text(text)
                words.insert(1, str(work / "bad.toml"))
            elif kind == "table":
                table = bad_table(rng)
                (work / "bad.csv").write_bytes(table)
                text = repr(table)
                words = ["rank", str(base), "--truth", str(work / "bad.csv"), "--quiet"]
            elif kind == "idx":
                bad = bad_idx(rng, idx)
                for part in ("train", "t10k"):
                    (work / f"{part}-images-idx3-ubyte").write_bytes(bad)
                    (work / f"{part}-labels-idx1-ubyte").write_bytes(labels)
                text = f"{len(bad)} bytes that begin with {bad[:16].hex()}"
                words += ["--set", "data.name=mnist", "--set", f"data.root={work}"]
            else:
                shutil.rmtree(work / "bad", ignore_errors=True)
                shutil.copytree(base, work / "bad")
                path = work / "bad" / rng.choice(read)
                text = bad_record(rng, path.read_text(), lines=path.suffix == ".jsonl")
                path.write_text(text)
                text = f"{path.name}: {text[-400:]}"
                words = ["report", str(work / "bad")]
            happened = refused(lambda words=words: command_line(words))  # type: ignore[misc]
            if happened:
                yield f"{kind} {text!r}", happened


# -- flips, starts ---------------------------------------------------------------------------------


def flips(work: Path, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Flipped bits of weights and cards; gives those that are opened all the same."""
    base = work / "for-flips"
    run = ms.run(overrides=[*SMALL, *SHIFTS], out=base)
    arch = run.winners[0].arch
    text = "-".join(map(str, arch))
    files = RunFolder(base)
    paths = [files.shifted, files.subnets / f"{text}.safetensors", files.subnets / f"{text}.json"]
    workspace = run._workspace
    uses: list[Callable[[], object]] = [
        lambda: load_final_weights(workspace, files),
        lambda: run.finished(arch),
        lambda: run.file(arch, "json"),
    ]
    for number in range(count):
        path, use = paths[number % 3], uses[number % 3]
        whole = path.read_bytes()
        at = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            use()
            yield f"bit {at} of {path.name}", "silent: it is opened"
        except (CheckpointError, RecordError):
            pass
        finally:
            path.write_bytes(whole)


def starts(work: Path, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Two commands at once; gives what went wrong."""
    for number in range(count):
        folder = work / f"starts-{number}"
        folder.mkdir()
        pair = [
            started(folder, "train", *arguments(), "--set", f"seed={seed}", "--quiet")
            for seed in (1, 2)
        ]
        outputs = [process.communicate(timeout=600)[0] for process in pair]
        folders = sorted((folder / "runs").glob("*"))
        seeds = {RunFolder(run).recipe().seed for run in folders}
        if any(process.returncode for process in pair) or seeds != {1, 2} or len(folders) != 2:
            yield f"two new runs, try {number}", " | ".join(outputs)[-500:]
            continue
        resume = ("run", "--resume", str(folders[0]), "--quiet")
        pair = [started(folder, *resume) for _ in range(2)]
        outputs = [process.communicate(timeout=600)[0] for process in pair]
        codes = sorted(process.returncode for process in pair)
        locked = any("is at work in" in text for text in outputs)
        if codes not in ([0, 1], [0, 0]) or (codes == [0, 1]) != locked:
            yield f"two resumes, try {number}", " | ".join(outputs)[-500:]
        elif ms.Run(folders[0]).result.winners == ():
            yield f"two resumes, try {number}", "no winners"
        shutil.rmtree(folder)


SECTIONS: dict[str, tuple[Callable[..., Iterator[tuple[str, str]]], int]] = {
    "kills": (kills, 40),
    "inputs": (inputs, 1000),
    "flips": (flips, 400),
    "starts": (starts, 20),
}


def section_of(name: str) -> tuple[Callable[..., Iterator[tuple[str, str]]], int]:
    """What a section does, and how often; a section may be a recipe."""
    if name in SECTIONS:
        return SECTIONS[name]
    return functools.partial(kills_of_recipe, Path(name)), KILLS_OF_A_RECIPE


def faults(section: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """The faults of a section: what was done, and what happened."""
    work, _ = section_of(section)
    with tempfile.TemporaryDirectory() as place:
        yield from work(Path(place), count, random.Random(f"{section} {seed}"))


def main() -> None:
    """Does the sections, and prints every fault and a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    for section in given.sections:
        if section not in SECTIONS and not Path(section).is_file():
            parser.error(f"{section!r} is neither of {', '.join(SECTIONS)} nor a recipe's file")
    found = 0
    for section in given.sections:
        count = math.ceil(section_of(section)[1] * given.scale)
        began, here = time.monotonic(), 0
        for case, happened in faults(section, count, given.seed):
            here += 1
            print(f"{section}: {case}: {happened}", flush=True)
        seconds = time.monotonic() - began
        print(f"{section}: {count} done, {here} faults, {seconds:.0f} s", flush=True)
        found += here
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
