"""From an architecture to a network that can be deployed: finish, test once, export."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from manyshot import records
from manyshot.crews import CannotBeSent, Crew
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.alone import (
    Lessons,
    Tasks,
    beginner_of,
    fingerprint_of,
    kept_lessons,
    trained_by,
)
from manyshot.pipeline.stages.work import Work, say_what_is_done_again
from manyshot.progress import Progress
from manyshot.recipe import FinishSettings
from manyshot.run_folder import FINISH_LOG, FinishLine, RunFolder
from manyshot.space import Arch


def finish(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    archs: list[Arch],
    settings: FinishSettings,
    progress: Progress,
    proxies: Mapping[Arch, float] | None = None,
    *,
    log: str = FINISH_LOG,
    test: bool = True,
    examples: bool = True,
    crew: Crew | None = None,
) -> dict[Arch, FinishLine]:
    """Finishes, tests and exports architectures; what is on record is not done again.

    Finished weights are tested again if the test images are others than those on record, and files
    that are not what was written are written again. The test set is touched here only. Processes
    train together, and workers each a network; the main process tests and writes.

    Args:
        ws: the run, with the weights that its search ended with.
        accelerator: of the run.
        folder: the run's.
        archs: the architectures; one that is there twice is finished once.
        settings: how to finish.
        progress: shows how far it is.
        proxies: the proxy scores of architectures that have one.
        log: the name of the file that gets a line per architecture.
        test: whether to score on the test set.
        examples: whether to write what networks that are tested predict.
        crew: workers that train several networks at once; None trains one after the other.

    Returns:
        The line of each architecture.

    Raises:
        RecordError: if the log is damaged.
        NonFiniteLoss: if training diverges.
        RuntimeError: if workers are lost again and again.
    """
    path, proxies, is_main = folder / log, proxies or {}, accelerator.is_main_process
    if is_main:
        records.keep(path, FinishLine)
    accelerator.wait_for_everyone()
    lines = {line.arch: line for line in records.load_lines(path, FinishLine)}
    works = [Work.of(ws, settings, folder, a, lines, test=test) for a in dict.fromkeys(archs)]
    accelerator.wait_for_everyone()  # all have looked before the main process writes again
    if is_main:
        say_what_is_done_again(works)
    finished: dict[Arch, FinishLine] = {}
    with contextlib.closing(_subnets(ws, accelerator, works, settings, progress, crew)) as subnets:
        for work in works:
            line = work.line
            if not work.done:
                with ws.clock.part("finishing"):
                    subnet = next(subnets)
                    if is_main:
                        line = work.recorded(subnet, proxies.get(work.arch), examples)
                        _put(path, line)
            if is_main:
                (RunFolder(folder).subnets / f"{work.text}.trainer.pt").unlink(missing_ok=True)
            [finished[work.arch]] = broadcast_object_list([line])
    return finished


def _subnets(
    ws: Workspace,
    accelerator: Accelerator,
    works: Sequence[Work],
    settings: FinishSettings,
    progress: Progress,
    crew: Crew | None,
) -> Generator[nn.Module]:
    """The finished module of each architecture that is not done, in their order."""
    todo = [work for work in works if not work.done]
    to_train = [work for work in todo if not work.trained and settings.mode != "inherit"]
    states: Iterator[dict[str, Tensor]] | None = None
    if crew is not None and len(to_train) > 1:
        states = _states(ws, crew, to_train, settings, progress)
    for work in todo:
        if states is None or work.trained:
            yield work.subnet(accelerator, progress)
        else:
            yield work.taken(next(states))


def _states(
    ws: Workspace,
    crew: Crew,
    works: Sequence[Work],
    settings: FinishSettings,
    progress: Progress,
) -> Iterator[dict[str, Tensor]] | None:
    """The tensors of architectures that workers train; None, and a warning, if none can be sent."""
    kept = kept_lessons(Lessons.of(ws, settings), fingerprint_of(ws, settings, ""))
    tasks = Tasks(
        [work.text for work in works],
        lambda number: beginner_of(ws, works[number].arch, settings),
        works[0].folder,
    )
    try:
        crew.pack([kept])
        tasks.check()
    except CannotBeSent as error:
        warnings.warn(f"networks are finished one after the other: {error}", stacklevel=2)
        return None
    return trained_by(crew, kept, tasks, progress)


def _put(log: Path, line: FinishLine) -> None:
    """Writes the line of an architecture, in place of an earlier one, which no kill loses."""
    lines = records.load_lines(log, FinishLine)
    others = [other for other in lines if other.arch != line.arch]
    if len(others) == len(lines):
        records.append(log, line)
    else:
        records.write_lines(log, [*others, line])
