"""Writes the table of methods from the package itself: `python -m tools.methods`.

Of every method of a slot it takes the reference from the docstring, the recipe from the files in
`recipes/`, and the tests from their source. A method that lacks one of these is an error, so that
the table holds what there is and nothing else. What is no plug-in is listed in `OTHERS`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyshot.manual.slots import SLOTS

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "methods.md", ROOT / "README.md"
MARKS = ("<!-- methods: written by python -m tools.methods -->", "<!-- end of methods -->")
"""What the short table in README.md stands between."""

_NUMBER = r"(?:arXiv:\d{4}\.\d{4,5}|doi:10\.[^\s),]+|https://[^\s),]+)"


SUITES = {
    "sharing": "SharingSuite",
    "sampler": "SamplerSuite",
    "shrink": "ShrinkerSuite",
    "search": "SearcherSuite",
    "finish.distillation": "",
}
"""The slots that methods fill, and the class of tests that each of these has to pass; empty if
there is none."""


@dataclass(frozen=True)
class Method:
    """A method, and where the table finds what it says of it.

    Attributes:
        slot: what it is a choice of.
        name: what a recipe or a paper calls it.
        source: the class or function whose docstring has its reference; or the text of that.
        keys: what a recipe that uses it sets, by dotted keys; `...` for any value.
        names: by which its tests name it: identifiers, or options such as `codes=one_hot`.
        suite: the class of tests that it has to pass; empty if there is none.
    """

    slot: str
    name: str
    source: Callable[..., Any] | str
    keys: Mapping[str, Any]
    names: frozenset[str]
    suite: str = ""


def other(slot: str, name: str, source: str, keys: Mapping[str, Any], *names: str) -> Method:
    """A method that is no plug-in.

    Args:
        slot: what it is a choice of.
        name: what a user calls it.
        source: the class or function whose docstring has its reference, as `module:attribute`; or
            the text that begins with `Reference: `.
        keys: what a recipe that uses it sets.
        *names: by which its tests name it.
    """
    found = source if source.startswith("Reference") else _imported(source)
    return Method(slot, name, found, keys, frozenset(names))


def others() -> list[Method]:
    """The methods that are no plug-ins: options and settings, a line each."""
    return [
        other(
            "sharing", "few-shot splits",
            "Reference: Few-shot NAS (Zhao et al. 2021, arXiv:2006.06863). Sub-supernets, one per "
            "option of one decision, are the paper's; that they are slices of stacked tensors, and "
            "that options share one where there are more of them, is ours.",
            {"sharing.name": "k_shot", "sharing.options.codes": "one_hot",
             "sharing.options.split": None}, "codes=one_hot",
        ),
        other(
            "sharing", "splits by gradients", "manyshot.sharing.splits:GradientSplits",
            {"sharing.options.split": "gradients"}, "GradientSplits", "split=gradients",
        ),
        other(
            "training", "snapshots that vote", "manyshot.train.snapshots:Snapshots",
            {"train.snapshots.number": ...}, "Snapshots",
        ),
        other(
            "training", "Langevin noise", "manyshot.train.langevin:heat",
            {"train.sgld": ...}, "heat", "sgld",
        ),
        other(
            "shifting", "population", "manyshot.train.shifting:Shifter",
            {"shifting.name": "population"}, "Shifter",
        ),
        other(
            "search", "reward", "manyshot.search.reward:Reward",
            {"search.reward.target": ...}, "Reward",
        ),
        other(
            "space", "linear stand-ins for skips", "manyshot.nn.linear_skip:LinearSkip",
            {"network.options.linear_skips": True}, "LinearSkip",
        ),
        other(
            "sampler", "best or worst of several",
            "Reference: AttentiveNAS (Wang et al. 2021, arXiv:2011.09011). That the best or worst "
            "of several of one cost is trained is the paper's; that losses on held-out images say "
            "which, after the step before, is ours.",
            {"sampler.options.choose": ...}, "choose=best", "choose=worst",
        ),
        *(
            other("sampler", f"relaxed: {name}", f"Reference: {source}", keys, *names)
            for name, source, keys, names in RELAXED
        ),
    ]  # fmt: skip


RELAXED: tuple[tuple[str, str, Mapping[str, Any], tuple[str, ...]], ...] = (
    ("DARTS", "DARTS (Liu et al. 2019, arXiv:1806.09055), of first order. Mixed options, bilevel "
     "learning and Adam are the paper's; see `relaxed` for what is ours in all of these.",
     {"sampler.name": "relaxed", "name": "darts"}, ("expected_logits",)),
    ("DARTS, second order", "DARTS (Liu et al. 2019, arXiv:1806.09055), equations 6 to 8. That the "
     "step is without momentum and decay is the paper's, and not its code's.",
     {"sampler.options.schedule": "unrolled"}, ("unrolled_gradients", "schedule=unrolled")),
    ("GDAS", "GDAS (Dong & Yang 2019, arXiv:1910.04465). One option drawn by Gumbel noise, its "
     "straight-through gradient and the falling temperature are the paper's.",
     {"sampler.options.estimator": "hard", "name": "gdas"}, ("estimator=hard",)),
    ("DARTS-", "DARTS- (Chu et al. 2021, arXiv:2009.01027). The weight that falls to zero is the "
     "paper's; that it is added to the weight of the option that does nothing is the same sum.",
     {"sampler.options.skip": ...}, ("skip=skip",)),
    ("PC-DARTS", "PC-DARTS (Xu et al. 2020, arXiv:1907.05737). Partial channels, their shuffle and "
     "weights of edges are the paper's; that channels are slices of shared weights, and that edge "
     "weights are times their number, is ours.",
     {"sampler.options.partial": ...}, ("partial", "partial=4")),
    ("GOLD-NAS", "GOLD-NAS (Bi et al. 2020, arXiv:2007.03331), its schedule by third-party code. "
     "That a decision keeps its last option is ours.",
     {"sampler.options.prune": ...}, ("Pruning", "prune=0.1")),
    ("TAS", "TAS (Dong & Yang 2019, arXiv:1905.09717). Two drawn options and the band of costs are "
     "the paper's, as are interpolated widths; that these meet behind the activation is ours.",
     {"sampler.options.widths": "interpolated"},
     ("two", "estimator=two", "cost_target=0.5", "masks=interpolated")),
    ("FBNetV2", "FBNetV2 (Wan et al. 2020, arXiv:2004.05565), by its abstract. One convolution "
     "under the weighted sum of masks is the paper's; the price of costs is ours.",
     {"sampler.options.estimator": "gumbel"}, ("estimator=gumbel",)),
    ("one stage", "Single-stage protocol (Subbotko et al. 2024, arXiv:2405.16610), by its "
     "abstract, of which this has the protocol alone: what is judged is delivered. The gradient "
     "of options beside the drawn one is ours.",
     {"sampler.options.others": True, "finish.mode": "inherit"}, ("others=True",)),
    ("SD-DARTS", "SD-DARTS (Zhu et al. 2023, arXiv:2302.05629), by its abstract: snapshots vote on "
     "a mixture; the formula is ours.",
     {"sampler.name": "relaxed", "train.snapshots.number": ...}, ("Snapshots",)),
    ("DARTS-PT", "DARTS-PT (Wang et al. 2021, arXiv:2108.04392). The rule is the paper's; that "
     "removal is measured on single paths is ours.",
     {"sampler.name": "relaxed", "search.name": "perturbation"}, ("Perturbation",)),
)  # fmt: skip
"""The differentiable methods that the sampler `relaxed` is: name, reference, keys, tests."""


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def methods() -> list[Method]:
    """All methods, by slot."""
    listed = []
    for slot in (slot for slot in SLOTS if slot.section in SUITES):
        for name, plugin in slot.table.items():
            plain = plugin.func if isinstance(plugin, functools.partial) else plugin
            names = frozenset({plain.__name__, f"{slot.section}: {name}"})
            keys = {f"{slot.section}.name": name}
            listed.append(Method(slot.section, name, plain, keys, names, SUITES[slot.section]))
    listed += others()
    slots = list(dict.fromkeys(method.slot for method in listed))
    return sorted(listed, key=lambda method: slots.index(method.slot))


# -- what is said of a method ----------------------------------------------------------------------


def reference(method: Method) -> str:
    """The paragraph of the docstring that begins with `Reference`, in one line, without that word.

    Raises:
        ValueError: if there is none.
    """
    text = method.source if isinstance(method.source, str) else inspect.getdoc(method.source) or ""
    for paragraph in text.split("\n\n"):
        if match := re.match(r"References?:\s+", paragraph):
            return " ".join(paragraph[match.end() :].split())
    raise ValueError(
        f"{method.slot} {method.name!r}: the docstring of {method.source} has no paragraph that "
        "begins with 'Reference: ': write one, with authors, year, arXiv number or DOI, and what "
        "is the paper's, what public code's and what ours"
    )


def paper(method: Method) -> str:
    """The beginning of its reference, up to the number or address of the first paper.

    Raises:
        ValueError: if there is none in the first words, of which there are authors and year.
    """
    text = reference(method)
    match = re.match(rf".{{5,240}}?\b\d{{4}}.{{0,240}}?{_NUMBER}", text)
    if match is None:
        raise ValueError(
            f"{method.slot} {method.name!r}: its reference begins {text[:60]!r}: begin it with "
            "authors, year, and arXiv:NUMBER, doi:NUMBER or an address"
        )
    said = match[0]
    return said + ")" * (said.count("(") - said.count(")"))


def recipe(method: Method) -> Path:
    """The recipe that uses it, from the root: one by its name, else one that names its paper.

    Raises:
        ValueError: if none does.
    """
    using = [path for path, values in _recipes().items() if _uses(values, method.keys)]
    if not using:
        raise ValueError(
            f"{method.slot} {method.name!r}: no file in recipes/ has "
            f"{', '.join(f'{k} = {v!r}' for k, v in method.keys.items())}: write "
            "recipes/methods/NAME.toml"
        )
    own = re.sub(r"\W", "_", method.name)
    number = re.findall(_NUMBER, paper(method))[-1]

    def far(path: Path) -> tuple[bool, bool, bool, bool, Path]:
        head, name = (ROOT / path).read_text().partition("\nschema")[0], path.stem
        alone, large = path.parent.name == "methods", name.startswith("imagenet")
        return name != own, number not in head, not alone, large, path

    return min(using, key=far)


def _uses(values: Mapping[str, Any], keys: Mapping[str, Any]) -> bool:
    for key, wanted in keys.items():
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None if wanted is ... else value != wanted:
            return False
    return True


@functools.cache
def _recipes() -> dict[Path, dict[str, Any]]:
    paths = sorted((ROOT / "recipes").rglob("*.toml"))
    return {path.relative_to(ROOT): tomllib.loads(path.read_text()) for path in paths}


# -- tests -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestFile:
    """A file of tests.

    Attributes:
        path: from the root.
        suites: the classes that inherit a suite: by their name, that of the suite and all that
            they name.
        tests: what each test names, itself or by way of what is beside it.
    """

    path: Path
    suites: Mapping[str, tuple[frozenset[str], frozenset[str]]]
    tests: Mapping[str, frozenset[str]]


def suites(method: Method) -> list[tuple[Path, str]]:
    """The files and classes by which it passes the suite of its slot.

    Raises:
        ValueError: if there is none, and there has to be.
    """
    found = [
        (file.path, name)
        for file in test_files()
        for name, (bases, named) in file.suites.items()
        if method.suite in bases and named & method.names
    ]
    if method.suite and not found:
        raise ValueError(
            f"{method.slot} {method.name!r}: no class in tests/ that extends {method.suite} names "
            f"{' or '.join(sorted(method.names))}: write one"
        )
    return found


def tested(method: Method) -> tuple[Path, int]:
    """The file with the most tests of it beside the suite, and their number.

    Raises:
        ValueError: if there is none.
    """
    titles = {re.sub(r"\W", "_", method.name), *map(_snake, method.names)}

    def count(file: TestFile) -> tuple[float, float]:
        """Of the tests that name it: those whose title does too; all, by their share of a file."""
        naming = [name for name, named in file.tests.items() if named & method.names]
        titled = [n for n in naming if any(title in f"{file.path.stem}_{n}" for title in titles)]
        return len(titled), len(naming) ** 2 / max(1, len(file.tests))

    best = max(test_files(), key=lambda file: (*count(file), file.path))
    naming = sum(bool(named & method.names) for named in best.tests.values())
    if not naming:
        raise ValueError(
            f"{method.slot} {method.name!r}: no test in tests/ names "
            f"{' or '.join(sorted(method.names))}: write one against something that cannot share "
            "the bug"
        )
    return best.path, naming


@functools.cache
def test_files() -> tuple[TestFile, ...]:
    """What all files of tests name."""
    return tuple(_test_file(path) for path in sorted((ROOT / "tests").rglob("test_*.py")))


def _test_file(path: Path) -> TestFile:
    tree = ast.parse(path.read_text())
    named: dict[str, set[str]] = {}
    of_suites: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    for node in tree.body:
        names = set(_named(node))
        if isinstance(node, ast.ClassDef):
            bases = frozenset(_name(base) for base in node.bases)
            if any(base.endswith("Suite") for base in bases):
                of_suites[node.name] = bases, frozenset(names)
                continue
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            named |= {part.name: {*_named(part)} for part in node.body
                      if isinstance(part, ast.FunctionDef)}  # fmt: skip
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            named[node.name] = names
        elif isinstance(node, ast.Assign):
            named |= {target.id: names for target in node.targets if isinstance(target, ast.Name)}
    for start in named:  # what a helper names, its users name too
        waiting, seen = [start], {start}
        while waiting:
            more = named[waiting.pop()] & named.keys() - seen
            seen |= more
            waiting += more
        named[start] = set().union(*(named[name] for name in seen))
    tests = {name: frozenset(names) for name, names in named.items() if name.startswith("test_")}
    return TestFile(path.relative_to(ROOT), of_suites, tests)


def _named(node: ast.AST) -> Iterator[str]:
    """Identifiers, arguments (which may be fixtures), `key=value` of options, names of plug-ins."""
    for inner in ast.walk(node):
        match inner:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.keyword(arg=str(option), value=ast.Constant(value=set_to)):
                yield f"{option}={set_to!s}"
            case ast.Dict(keys=keys, values=values):
                for key, told in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(told, ast.Constant):
                        yield f"{key.value!s}={told.value!s}"
            case ast.Call(func=function, args=[ast.Constant(value=str(value)), *_]):
                sections = {"searcher": "search", "shrinker": "shrink"}
                kind = _name(function).removeprefix("make_")
                yield f"{sections.get(kind, kind)}: {value}"
            case ast.Constant(value=str(value)) if "=" in value and len(value) < 80:
                yield from _set(value)


def _set(text: str) -> Iterator[str]:
    """What an override such as `"search.name=nsga2"` names."""
    key, _, value = text.partition("=")
    section, _, last = key.rpartition(".")
    yield f"{section}: {value}" if last == "name" else f"{last}={value}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


# -- pages -----------------------------------------------------------------------------------------

INTRODUCTION = """
# Methods

Every method that comes with manyshot: its name, whose it is, the recipe that uses it and the tests that it passes. A method is a choice in [a slot](design.md#seven-slots); slots compose. A name in `code` is what a recipe says, as in `sampler.name = "fair"`; rows without are options and settings, which their recipes show. *Suite* is the slot's contract, which plug-ins of others pass too; *tests* is the file that says most of the method beside it, and how many of its tests do. `manyshot recipes` lists all recipes.

Written by `python -m tools.methods` from the tables of plug-ins, their docstrings, the recipes and the source of the tests; a method that lacks a reference, a recipe or a test is an error there.
"""  # noqa: E501
CHOICE = """
## Which one should I take?

Begin with `uniform` paths, one copy of the weights (`one_shot`) and `evolution`, and give time to training and finishing. That is what `manyshot run` does by default; for a network that was converted it takes `sandwich` paths in place of uniform ones. No sampler, sharing scheme or shifting search was shown here to choose better networks than that, and all that was measured is small: minutes of training, digits and Fashion-MNIST. Which way of doing anything is best on your images is for `manyshot compare` to say, over at least five seeds.

- **What counts more than the method.** Batch norms that are calibrated for every network (on by default): without them tau falls from 0.56 and 0.59 to 0.36 ([study of the order](../benchmarks/studies/order_preservation/page.md)). How winners are trained and finished: plain networks of their sizes that train in the same way and as long are level with them ([emoji](../benchmarks/studies/emoji/page.md)). Counting multiply-adds or parameters orders networks about as well as a supernet of minutes does, so look at the controls of a run before you trust its winner.
- **Sampler.** `sandwich` where sizes vary and the largest and smallest networks matter; on one of two spaces it ordered a little better than uniform paths, on three seeds, and on the other not. `fair` gives every option of a decision a turn in each step, for as many passes as there are options; it was not told from uniform paths. `shiftnas` costs three times the time of uniform paths and its distribution stayed uniform by default, so that `uniform_cost` is the same for less; take either if networks of any cost shall come from a generator, without a search ([study of the methods](../benchmarks/studies/methods/page.md)). `fair`, `mct`, `table`, `balanced` and the shrinkers order networks no better than uniform paths at like cost, and `greedy`, the best of several and `progressive` worse, without selecting worse networks; `angle` loses good small networks, so that its view should be looked at before a tight budget ([study of samplers and shrinkers](../benchmarks/studies/family/page.md), ten seeds on a small space). `pada` is in no study.
- **Differentiable (`relaxed`, `sparse`).** To repeat what papers did. At like cost no arm selected better networks than evolution or the network of the most multiply-adds, and in cells DARTS, DARTS- and GDAS gave 3.6 to 4.8 of six edges to skips and poolings, and those cells are in the mean 2.2 to 2.3 points below those of evolution, with GDAS not told from it ([study](../benchmarks/studies/differentiable/page.md), on which `sparse` was not). GDAS is for cells: on a chain of layers its logits hardly move, unless `others` is set.
- **Sharing.** `k_shot` helps on a problem that is built for it ([planted codes](../benchmarks/studies/planted_sharing/page.md)); on images neither learnt, random nor one-hot codes ordered better than one copy, and steps that move codes are lost to the weights. `bilateral` and `locally_free` are for widths alone, and no study has them.
- **Search.** With 50 or 100 scores, `predictor`; then `optuna` with `tpe` or `cma_es`, which need no more than ten scores to begin. With hundreds, `evolution`, with a population of about 20, or `predictor` with `members = 5`, which takes four times as long to propose; without a budget `local`, moving to the first neighbour that is better, found the best as often. `nsga2` for a whole front at once, `random` as what to beat. `reinforce` was worse than evolution nearly everywhere ([searchers on published tables](../benchmarks/studies/searchers/page.md)). `nevonas` begins slowly and is as good after 400 scores; `dc_nas` and the searcher `mct` are behind; `perturbation` is in no study.
- **Shifting.** It hardly changes the order: gains of tau of 0.02 over all networks are excluded. If a trained supernet moves to other images it makes the best winners that are used as they are, and none that are better when they are trained alone ([transfer](../benchmarks/studies/transfer/page.md)).
- **One network that is trained already.** `ms.convert`, without training its slices further: ahead of or level with pruning that is finished as long ([converting](../benchmarks/studies/convert/page.md)).
- **Beside these.** Snapshots that vote, Langevin noise, teachers in place of labels, `search.reward` and linear stand-ins are in no study; take `search.reward` where cost is a matter of degree, and budgets where it is a limit.
"""  # noqa: E501


def page(listed: Iterable[Method]) -> str:
    """The page of all methods."""
    rows = ["| slot | name | whose | recipe | suite | tests |", "|---|---|---|---|---|---|"]
    for method in listed:
        classes = "<br>".join(f"[{name}](../{path.as_posix()})" for path, name in suites(method))
        file, count = tested(method)
        of_tests = f"[{file.stem.removeprefix('test_')}](../{file.as_posix()}), {count}"
        link = recipe(method)
        of_recipe = f"[{link.relative_to('recipes').as_posix()}](../{link.as_posix()})"
        whose = _cell(reference(method))
        cells = (method.slot, called(method), whose, of_recipe, classes, of_tests)
        rows.append(f"| {' | '.join(cells)} |")
    return (
        f"{INTRODUCTION.strip()}\n\n{CHOICE.strip()}\n\n## The table\n\n" + "\n".join(rows) + "\n"
    )


def short(listed: Iterable[Method]) -> str:
    """The short table, of README.md."""
    rows = ["| slot | name | paper | recipe |", "|---|---|---|---|"]
    for method in listed:
        path = recipe(method).as_posix()
        link = f"[{path.removeprefix('recipes/')}]({path})"
        rows.append(f"| {method.slot} | {called(method)} | {_cell(paper(method))} | {link} |")
    return "\n".join(rows)


def called(method: Method) -> str:
    """The name of a method: as code if a recipe says it, in words if it is options and settings."""
    is_plugin = method.keys.get(f"{method.slot}.name") == method.name
    return f"`{method.name}`" if is_plugin else method.name


def readme(listed: Iterable[Method]) -> str:
    """README.md with the short table between its marks."""
    before, begin, rest = README.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{README.name} has not both of {MARKS[0]} and {MARKS[1]}")
    return f"{before}{begin}\n\n{short(listed)}\n\n{end}{after}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[Path, str]:
    """The texts of both files."""
    listed = methods()
    return {PAGE: page(listed), README: readme(listed)}


def main() -> None:
    """Writes both."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
