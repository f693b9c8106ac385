"""Our own samplers pass the suite that we ship for those of others."""

from manyshot.space import SearchSpace
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import (
    Fair,
    Greedy,
    MCTSampler,
    PathImportance,
    Sampler,
    Sandwich,
    Taught,
    Uniform,
)


class TestUniform(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Uniform(space, paths=2)


class TestFair(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Fair(space)


class TestTaught(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Taught(Uniform(space, paths=2), "labels")


class TestSandwich(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Sandwich(space, random=3)


class TestGreedy(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Greedy(space, proposed=4, trained=2, size=3, stop=0.4)


class TestMCT(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return MCTSampler(space, warmup=0.2, build=0.1)


class TestPathImportance(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return PathImportance(space, every=0.1)


class TestPathImportanceWeighted(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sampler:
        return Taught(PathImportance(space, weighted=True), "labels")
