"""Settings of all tests, one thread and reproducible examples; and runs that several read."""

import gc

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("manyshot", deadline=None, derandomize=True)
hypothesis.settings.load_profile("manyshot")

gc.disable()


def pytest_collection_finish():
    """What was imported and collected stays to the end: no collection of garbage walks it again."""
    gc.collect()
    gc.freeze()
    gc.enable()


DEVICES = ["cpu"] + [pytest.param("cuda", marks=pytest.mark.gpu)] * torch.cuda.is_available()


@pytest.fixture(params=DEVICES)
def device(request):
    """Where a test runs: the CPU, and a GPU if there is one (`-m gpu` is of that alone)."""
    return torch.device(request.param)


# Fixtures import what they need, so that other tests do not wait for it.


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory):
    """What manyshot remembers of image files is remembered here, not in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def equal_networks_are_measured_once():
    """For modules whose subject is neither costs nor the checks of networks."""
    from measured_once import measured_once

    with measured_once():
        yield


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """The folder of a run with every record there is: K-shot, ShiftNAS, shifting, watched sets."""
    from measured_once import measured_once
    from pipeline_runs import EVERYTHING, run, small

    folder = tmp_path_factory.mktemp("everything")
    with measured_once():
        run(small(*EVERYTHING), folder)
    return folder


@pytest.fixture(scope="session")
def compared_runs(tmp_path_factory):
    """The folders of two methods with two seeds each, ranked against one truth."""
    from few_draws import few_draws
    from measured_once import measured_once
    from pipeline_runs import SHIFT, rank_run, run, small, truth_of_24

    folder, folders = tmp_path_factory.mktemp("compared"), []
    with few_draws(), measured_once():
        for method, sets in (("one", ()), ("two", SHIFT)):
            for seed in (1, 2):
                own = folder / f"{method}-{seed}"
                same = ("search.budgets=['macs<=60%']", "finish.mode=inherit", "export.formats=[]")
                recipe = small(*sets, *same, f"name={method}", f"seed={seed}")
                run(recipe, own)
                rank_run(recipe, own, truth_of_24(), uncalibrated=24 if seed == 1 else 0)
                folders.append(own)
    return folders
