"""Which architectures are best: ask / tell searchers on encodings and numbers. No torch here."""

from manyshot.search.bananas import Bananas, BananasOptions
from manyshot.search.base import BaseSearcher, Portion
from manyshot.search.dc_nas import DCNAS, DCNASOptions
from manyshot.search.evolution import Evolution, EvolutionOptions, RegularisedOptions
from manyshot.search.history import History
from manyshot.search.limit import Cost, CostRange, Infeasible, Limit, best, limits_of
from manyshot.search.local import LocalOptions, LocalSearch
from manyshot.search.loop import generations
from manyshot.search.mct import MCTOptions, MCTSearch
from manyshot.search.nevonas import NEvoNAS, NEvoNASOptions
from manyshot.search.nsga2 import NSGA2, NSGA2Options
from manyshot.search.optioned import OptionedSearcher, SearcherOptions, VersionedOptions
from manyshot.search.optuna_samplers import OptunaOptions, OptunaSearch
from manyshot.search.pareto import non_dominated
from manyshot.search.perturbation import Perturbation, PerturbationOptions
from manyshot.search.predictor import PredictorOptions, WeakPredictor
from manyshot.search.random_search import RandomOptions, RandomSearch
from manyshot.search.reinforce import Reinforce, ReinforceOptions
from manyshot.search.reward import Reward
from manyshot.search.searcher import LearnsFromScores, Pools, Searcher
from manyshot.search.table import SEARCHERS, make_searcher

__all__ = [
    "DCNAS",
    "NSGA2",
    "SEARCHERS",
    "Bananas",
    "BananasOptions",
    "BaseSearcher",
    "Cost",
    "CostRange",
    "DCNASOptions",
    "Evolution",
    "EvolutionOptions",
    "History",
    "Infeasible",
    "LearnsFromScores",
    "Limit",
    "LocalOptions",
    "LocalSearch",
    "MCTOptions",
    "MCTSearch",
    "NEvoNAS",
    "NEvoNASOptions",
    "NSGA2Options",
    "OptionedSearcher",
    "OptunaOptions",
    "OptunaSearch",
    "Perturbation",
    "PerturbationOptions",
    "Pools",
    "Portion",
    "PredictorOptions",
    "RandomOptions",
    "RandomSearch",
    "RegularisedOptions",
    "Reinforce",
    "ReinforceOptions",
    "Reward",
    "Searcher",
    "SearcherOptions",
    "VersionedOptions",
    "WeakPredictor",
    "best",
    "generations",
    "limits_of",
    "make_searcher",
    "non_dominated",
]
