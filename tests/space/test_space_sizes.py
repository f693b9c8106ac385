"""Decisions and sizes."""

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manyshot.space as ms
from manyshot.space import Decision, SearchSpace

QUICK = settings(deadline=None, derandomize=True, max_examples=100)


def test_arithmetic_equals_arithmetic_on_the_values() -> None:
    w, r = ms.choose((16, 24, 32), "w"), ms.choose((3, 6), "r")
    size = (w * r + 2 - r) // 3 + (100 - w) + 1000 // w + 2 * r + (r + w)
    for a in (16, 24, 32):
        for b in (3, 6):
            expected = (a * b + 2 - b) // 3 + (100 - a) + 1000 // a + 2 * b + (b + a)
            assert size.evaluate({w: a, r: b}) == expected
    assert size.decisions() == (w, r)


def test_a_size_lists_its_values_over_all_options() -> None:
    w, r = ms.choose((16, 24), "w"), ms.choose((3, 6), "r")
    assert sorted((w * r).over_options()) == [48, 72, 96, 144]
    assert sorted((w * w).over_options()) == [256, 576]  # one decision, however often it is used


@pytest.mark.parametrize(
    "use",
    [
        int,
        float,
        bool,
        lambda s: range(s),
        lambda s: s == 16,
        lambda s: s != 16,
        lambda s: s < 20,
        lambda s: max(s, 20),
        lambda s: s > s,
        lambda s: [1, 2, 16].index(s),
    ],
)
@pytest.mark.parametrize("make", [lambda w: w, lambda w: w * 2, lambda w: ms.round_to(w, 8)])
def test_a_size_is_no_number_and_says_what_to_do(make, use) -> None:
    with pytest.raises(TypeError, match=r"depends on the architecture.*ms\.value\(size\)"):
        use(make(ms.choose((16, 24), "w")))


def test_sizes_are_compared_and_hashed_by_identity() -> None:
    a, b = ms.choose((1, 2), "w"), ms.choose((1, 2), "w")
    assert a == a and a != b and len({a, b, a}) == 2


def test_names_are_no_sizes() -> None:
    op = ms.choose(("conv", "pool"), "op")
    with pytest.raises(TypeError, match=r"op: conv, pool.*names"):
        op * 2
    with pytest.raises(TypeError, match="combined by \\+ with 'x'"):
        ms.choose((1, 2), "w") + "x"


def best_multiple(number: float, divisor: int) -> int:
    """The rule in words: nearest multiple, halves up, at least one, one more if 10 % too small."""
    multiples = range(divisor, int(number) + 2 * divisor + 1, divisor)
    nearest = min(multiples, key=lambda m: (abs(m - number), -m))
    return nearest if nearest >= 0.9 * number else nearest + divisor


@QUICK
@given(st.integers(1, 4000), st.sampled_from([1, 2, 4, 8, 16]))
def test_round_to(quarters: int, divisor: int) -> None:
    number = quarters / 4
    rounded = ms.round_to(number, divisor)
    assert rounded == best_multiple(number, divisor)
    assert isinstance(rounded, int) and rounded % divisor == 0 and rounded >= 0.9 * number
    w = ms.choose((number, 9999), "w")
    assert ms.round_to(w, divisor).evaluate({w: number}) == rounded


def test_round_to_published_examples() -> None:
    # MobileNetV2 x0.35 and x1.4 (Sandler et al. 2018): widths 32, 16, 24, 1280 as torchvision has.
    assert [ms.round_to(c * 0.35, 8) for c in (32, 16, 24)] == [16, 8, 8]
    assert [ms.round_to(c * 1.4, 8) for c in (32, 16, 1280)] == [48, 24, 1792]
    with pytest.raises(ValueError, match="positive integer divisor, got 0"):
        ms.round_to(5, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "op has no options"),
        ((1, 2, 1), "repeat a value"),
        ((1, "a"), "mix numbers and names"),
        ((1, math.nan), "not finite"),
        ((True, False), "numbers or names"),
        ((None,), "numbers or names"),
    ],
)
def test_bad_options_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ms.choose(options, "op")


def test_scopes_prefix_names_and_end() -> None:
    with ms.scope("stage1"):
        with ms.scope("block2"):
            inner = ms.choose((1, 2), "k")
        unnamed = ms.choose((1, 2))
    assert (inner.name, unnamed.name, ms.choose((1, 2), "k").name) == ("stage1.block2.k", None, "k")
    with pytest.raises(RuntimeError), ms.scope("left"):
        raise RuntimeError
    assert ms.scoped("k") == "k"
    with pytest.raises(ValueError, match="scope name is empty"), ms.scope(""):
        pass


def test_two_decisions_with_one_name() -> None:
    a, b = ms.choose((1, 2), "width"), ms.choose((3, 4), "width")
    with pytest.raises(ValueError) as error:
        SearchSpace([a, b])
    for part in ("'width'", "Decision(width: 1, 2)", "Decision(width: 3, 4)", "share", "ms.scope"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"\(unnamed\).*has no name.*name="):
        SearchSpace([ms.choose((1, 2))])


def test_deepcopy_makes_new_decisions_and_keeps_sharing_inside_one_copy() -> None:
    w = ms.choose((16, 24), "w")
    block = {"in": w, "out": w, "hidden": ms.round_to(w * 6, 8)}
    one, two = copy.deepcopy(block), copy.deepcopy(block)
    assert one["in"] is one["out"] and one["hidden"].decisions() == (one["in"],)
    assert len({w, one["in"], two["in"]}) == 3
    assert one["in"].options == w.options and one["in"].name == "w"
    assert w.order < one["in"].order < two["in"].order  # defined when copied
    assert one["hidden"].evaluate({one["in"]: 24}) == 144


def test_order_is_order_of_definition() -> None:
    decisions = [Decision((1, 2), f"d{i}") for i in range(5)]
    assert sorted(reversed(decisions), key=lambda d: d.order) == decisions
