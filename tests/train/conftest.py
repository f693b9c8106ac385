import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(equal_networks_are_measured_once):
    """Most trainers with policies begin by comparing masks with slices, of few networks."""
