"""Benchmarks and studies, to be run from the repository's root; `README.md` lists them."""
