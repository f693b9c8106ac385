"""What tests of compiled options need."""

import pytest

from manyshot.nn.structure import compiles_options

needs_graphs = pytest.mark.skipif(
    not compiles_options(), reason="this torch cannot give every option graphs of its own"
)
