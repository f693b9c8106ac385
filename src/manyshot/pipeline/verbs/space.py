"""What a space holds, before anything is trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import on_its_threads
from manyshot.pipeline.stages.latency import measured, needs_latency
from manyshot.progress import Silent
from manyshot.recipe import Recipe
from manyshot.seeding import numpy_rng

BINS = 12


@on_its_threads
def survey(recipe: Recipe, samples: int) -> dict[str, Any]:
    """Decisions, size, the reachable range of each cost, and a histogram of uniform sampling.

    It has the parameters of the network too, by the names that `train.rates` fits, and of a network
    that was converted what varies, and what does not and why.
    Latency is measured only if a budget of the recipe is in milliseconds.
    """
    ws = Workspace.build(recipe)
    if needs_latency(ws):
        ws = ws.with_costs(latency_ms=measured(ws, Silent()).table)
    space, conversion = ws.net.space, ws.net.conversion
    rng = numpy_rng(recipe.seed, "survey")
    drawn = space.draw(rng, samples)
    costs = {}
    for metric, table in ws.costs.items():
        least, greatest = table.range()
        histogram, edges = np.histogram(table(drawn), BINS, (least, greatest))
        smallest, largest = table([space.smallest, space.largest]).tolist()
        costs[metric] = {
            "least": least,
            "smallest": smallest,
            "largest": largest,
            "greatest": greatest,
            "edges": edges.tolist(),
            "histogram": histogram.tolist(),
        }
    for metric, cost in ws.functions.items():  # one call per architecture: the two ends alone
        smallest, largest = cost([space.smallest, space.largest]).tolist()
        costs[metric] = {
            "least": None,
            "smallest": smallest,
            "largest": largest,
            "greatest": None,
            "edges": [],
            "histogram": [],
        }
    return {
        "name": recipe.name,
        "size": space.size,
        "decisions": [{"name": d.name, "options": list(d.options)} for d in space.decisions],
        "costs": costs,
        "parameters": [
            {"name": name, "shape": list(parameter.shape)}
            for name, parameter in ws.net.model.named_parameters()
        ],
        "conversion": None if conversion is None else conversion.plain(),
    }
