"""The methods of the study, their controls, and which differences say why."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """A method: what it is in words, and what it changes in the study's recipe."""

    says: str
    changes: tuple[str, ...] = ()


def _k_shot(**options: object) -> tuple[str, ...]:
    said = ", ".join(f"{key}={value!r}" for key, value in {"copies": 4, **options}.items())
    return ("sharing.name=k_shot", f"sharing.options={{{said.replace('False', 'false')}}}")


_SHIFT = ("sampler.held_out=1000",)
_PAPER_SHIFT = (
    "rule='paper', kept='weights', images=256, policy_share=1.0, policy_every=1, mix_uniform=0.0, "
    "dead_zone=0.0, entropy_weight=0.0"
)
REFERENCE = "one_shot"
ARMS: dict[str, Arm] = {
    REFERENCE: Arm("one copy, uniform paths"),
    "one_shot_longer": Arm("the same with half as many steps more", ("train.epochs=120",)),
    "kshot": Arm("K = 4 by its defaults", _k_shot()),
    "kshot_inherit": Arm(
        "K = 4 equal slices, one copy for 30 % of the steps", _k_shot(start="equal", warm_frac=0.3)
    ),
    "kshot_uniform": Arm("K = 4, codes fixed uniform", _k_shot(codes="uniform")),
    "kshot_random": Arm(
        "K = 4 equal slices, codes random and frozen", _k_shot(codes="random", start="equal")
    ),
    "kshot_old": Arm(
        "K = 4 by its defaults of before",
        _k_shot(code_every=2, compensate=False, optimizer="adam", lr=0.01),
    ),
    "few_shot": Arm(
        "one-hot codes, split in four by gradients after 30 % of the steps",
        _k_shot(codes="one_hot", split="gradients", start="equal", warm_frac=0.3),
    ),
    "uniform_cost": Arm(
        "ShiftNAS's generator, costs drawn uniformly", ("sampler.name=uniform_cost",)
    ),
    "shiftnas": Arm("ShiftNAS by its defaults", ("sampler.name=shiftnas", *_SHIFT)),
    "shiftnas_paper": Arm(
        "ShiftNAS by the paper's rule and policies",
        ("sampler.name=shiftnas", *_SHIFT, f"sampler.options={{{_PAPER_SHIFT}}}"),
    ),
    "shifting": Arm("Supernet Shifting by its defaults", ("shifting.name=population",)),
    "shifting_old": Arm(
        "Supernet Shifting by its defaults of before",
        (
            "shifting.name=population",
            "shifting.elites=score",
            "shifting.schedule=constant",
            "search.options.dedupe=global",
        ),
    ),
    "uniform_finetune": Arm(
        "the search trains uniform paths as long", ("shifting.name=uniform_finetune",)
    ),
    "random_population": Arm(
        "the search trains random networks as long", ("shifting.name=random_population",)
    ),
    "all_three": Arm(
        "K = 4, ShiftNAS and Supernet Shifting by their defaults",
        (*_k_shot(), "sampler.name=shiftnas", *_SHIFT, "shifting.name=population"),
    ),
}
CONTRASTS = (
    ("kshot", "kshot_uniform"),
    ("kshot", "kshot_random"),
    ("kshot", "kshot_old"),
    ("kshot_inherit", "few_shot"),
    ("kshot", "one_shot_longer"),
    ("shiftnas", "uniform_cost"),
    ("shiftnas", "shiftnas_paper"),
    ("shifting", "shifting (before)"),
    ("shifting", "uniform_finetune"),
    ("shifting", "random_population"),
    ("shifting", "shifting_old"),
    ("all_three", "one_shot_longer"),
)
"""First minus second: why a method is better or worse, one family of comparisons."""
