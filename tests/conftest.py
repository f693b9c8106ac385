"""Settings of all tests: one thread, and reproducible examples."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("manyshot", deadline=None, derandomize=True)
hypothesis.settings.load_profile("manyshot")
