"""Differentiable search beside one-shot search, on a truth of all networks."""
