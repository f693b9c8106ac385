"""Which architectures are best: ask / tell searchers on encodings and numbers. No torch here."""

from manyshot.search.evolution import Evolution, EvolutionConfig
from manyshot.search.history import History
from manyshot.search.limit import Cost, CostRange, Infeasible, Limit, best, limits_of
from manyshot.search.loop import generations
from manyshot.search.nsga2 import NSGA2, NSGA2Config
from manyshot.search.pareto import non_dominated
from manyshot.search.predictor import PredictorConfig, WeakPredictor
from manyshot.search.random_search import RandomConfig, RandomSearch
from manyshot.search.searcher import Searcher
from manyshot.search.table import SEARCHERS, SearcherFactory, make_searcher

__all__ = [
    "NSGA2",
    "SEARCHERS",
    "Cost",
    "CostRange",
    "Evolution",
    "EvolutionConfig",
    "History",
    "Infeasible",
    "Limit",
    "NSGA2Config",
    "PredictorConfig",
    "RandomConfig",
    "RandomSearch",
    "Searcher",
    "SearcherFactory",
    "WeakPredictor",
    "best",
    "generations",
    "limits_of",
    "make_searcher",
    "non_dominated",
]
