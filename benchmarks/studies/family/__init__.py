"""Samplers and shrinkers beside uniform paths, on a truth of all networks."""
