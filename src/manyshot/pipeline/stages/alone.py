"""Networks that train alone: what they begin with and learn from, here or by workers."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from accelerate import Accelerator
from torch import Tensor, nn

from manyshot import evaluate, records
from manyshot.crews import Crew, Kept, pickled
from manyshot.data import Batches
from manyshot.fitting import fit
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import stop
from manyshot.pipeline.identity import fingerprint
from manyshot.pipeline.plain import new_supernet, plain_module
from manyshot.progress import Progress
from manyshot.recipe import DistillationSettings, FinishSettings, TrainingSettings
from manyshot.run_folder import RunFolder
from manyshot.space import Arch
from manyshot.tasks import Task
from manyshot.train import engine
from manyshot.train.checkpoint import digest
from manyshot.train.distilling import Distiller
from manyshot.train.optim import as_far_as_it_has


@final
@dataclass(frozen=True)
class Lessons:
    """What winners and controls learn from and how, the same for all of a run.

    Attributes:
        settings: of the training.
        batches: the images.
        task: what is learnt.
        teacher: what is learnt from in place of labels, if anything.
        distiller: how that is learnt from.
        seed: of the training.
    """

    settings: TrainingSettings
    batches: Batches
    task: Task
    teacher: nn.Module | None
    distiller: Distiller | None
    seed: int

    @classmethod
    def of(cls, ws: Workspace, settings: FinishSettings, rank: int = 0, world: int = 1) -> Lessons:
        """The lessons of a run.

        Args:
            ws: the run, with the weights that its search ended with.
            settings: how networks are finished.
            rank: the number of this process.
            world: how many processes train each network together.

        Raises:
            RecipeError: if a teacher is not there any more, or is another than before.
        """
        return cls(
            settings.training,
            ws.batches(settings.training, rank, world, ws.finishing_data(settings)),
            ws.task,
            ws.finishing_teacher(settings),
            ws.distiller(settings),
            ws.recipe.seed + 1,
        )


@final
@dataclass(frozen=True)
class Beginner:
    """A network that is to train alone.

    Attributes:
        text: its architecture as text, by which its files are named.
        module: the network, with the weights that it begins with.
        fingerprint: identifies what its trained weights depend on.
    """

    text: str
    module: nn.Module
    fingerprint: str


def log_of(text: str) -> str:
    """The name of the file of records of an architecture that trains alone."""
    return f"{text}.train.jsonl"


def train_alone(
    beginner: Beginner,
    lessons: Lessons,
    subnets: Path,
    accelerator: Accelerator,
    progress: Progress | None = None,
) -> None:
    """Trains a network in place, from its checkpoint if there is one.

    Args:
        beginner: the network.
        lessons: what it learns from.
        subnets: the folder of its checkpoint and its records.
        accelerator: of the run, or of a worker.
        progress: shows how far it is; by default nothing.

    Raises:
        NonFiniteLoss: if training diverges.
    """
    fit(
        beginner.module,
        lessons.batches,
        task=lessons.task,
        teacher=lessons.teacher,
        distiller=lessons.distiller,
        settings=as_far_as_it_has(lessons.settings, beginner.module),
        seed=lessons.seed,
        progress=progress,
        folder=subnets,
        accelerator=accelerator,
        fingerprint=beginner.fingerprint,
        stage="finish",
        checkpoint=f"{beginner.text}.trainer.pt",
        log=log_of(beginner.text),
    )


# -- as a run finishes them ------------------------------------------------------------------------


def finished(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    arch: Arch,
    settings: FinishSettings,
    progress: Progress,
) -> nn.Module:
    """The plain module of `arch`, with inherited, fine-tuned or newly trained weights."""
    beginner = beginner_of(ws, arch, settings)
    if settings.mode != "inherit":
        lessons = Lessons.of(ws, settings, accelerator.process_index, accelerator.num_processes)
        train_alone(beginner, lessons, folder, accelerator, progress)
    return beginner.module.eval()


def beginner_of(ws: Workspace, arch: Arch, settings: FinishSettings) -> Beginner:
    """The plain module of `arch` before it trains, with inherited or new weights.

    New weights (`scratch`) are those of a fresh supernet from the seed after the recipe's, so that
    a network's own initialisation holds; elastic layers keep the fan of their largest size.
    """
    if settings.mode == "scratch":
        fresh = ws.recipe.model_copy(update={"seed": ws.recipe.seed + 1})
        subnet = plain_module(new_supernet(fresh, ws.splits, ws.device), arch, ws.device)
    else:
        stats = None  # where something stands in, they are those of training on alone
        if not ws.net.stands_in(arch):
            stats = evaluate.calibrate(ws.net, arch, ws.calibration())
        subnet = plain_module(ws.net, arch, ws.device, stats)
    text = ws.net.space.to_text(arch)
    return Beginner(text, subnet, fingerprint_of(ws, settings, text))


def fingerprint_of(ws: Workspace, settings: FinishSettings, text: str) -> str:
    """Identifies what the finished weights of an architecture depend on."""
    inherited = "" if settings.mode == "scratch" else digest(ws.net.state_dict())
    more: tuple[object, ...] = (
        settings.mode,
        settings.data,
        settings.teacher,
        text,
        ws.recipe.train,
        inherited,
    )
    if settings.teacher == "network":
        more = (*more, ws.recipe.teacher.digest)
    if settings.teacher == "supernet":
        more = (*more, *settings.taught_by, digest(ws.net.state_dict()))
    if settings.distillation != DistillationSettings():
        more = (*more, settings.distillation)
    return fingerprint(ws, settings.training, *more)


# -- by workers ------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Asked:
    """What a worker is asked for.

    Attributes:
        beginner: the `Beginner`, as `crews.pickled` gives it.
        folder: the run's, from the root of the disk.
        inode: the number that the disk knows the folder by, so that one of the same name on another
            machine is not taken for it.
    """

    beginner: bytes
    folder: Path
    inode: int


@final
@dataclass(frozen=True)
class Answer:
    """What a worker has made of a network.

    Attributes:
        state: its trained tensors, on the CPU.
        log: its records; None if they are in the run's folder.
        said: what it warned of.
    """

    state: dict[str, Tensor]
    log: str | None
    said: tuple[str, ...]


@final
class Tasks(Sequence[Asked]):
    """What workers are asked for. Each network is made and pickled when it is looked up."""

    def __init__(self, texts: Sequence[str], make: Callable[[int], Beginner], folder: Path) -> None:
        """Makes nothing yet.

        Args:
            texts: the architectures as text.
            make: gives the network of that number.
            folder: the run's.
        """
        self.texts, self._make, self.folder = texts, make, folder

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: Any) -> Any:
        """What is asked for of the network of a number.

        Raises:
            CannotBeSent: if the network cannot be pickled.
        """
        folder, network = self.folder.resolve(), Kept("network", "", lambda: self._make(number))
        return Asked(pickled(network), folder, folder.stat().st_ino)

    def check(self) -> None:
        """Tries the first network; the others are of the same classes.

        Raises:
            CannotBeSent: if it cannot be pickled.
        """
        self[0]


def kept_lessons(lessons: Lessons, fingerprint: str) -> Kept:
    """Lessons in the form in which workers get and keep them.

    Args:
        lessons: what networks learn from.
        fingerprint: identifies that, as far as weights depend on it.
    """
    return Kept("lessons", f"{fingerprint} {lessons.settings!r}", lambda: lessons)


def trained_by(
    crew: Crew, kept: Kept, tasks: Tasks, progress: Progress
) -> Iterator[dict[str, Tensor]]:
    """The trained tensors of networks, in their order, each as soon as all before it are done.

    Workers keep records and checkpoints in the run's folder, from which another goes on if one is
    lost. A worker on a machine that does not see the folder trains in a temporary one, and gives
    the records back with the tensors.

    Args:
        crew: the workers.
        kept: what networks learn from, by `kept_lessons`.
        tasks: the networks.
        progress: shows how many steps are done of all.

    Raises:
        NonFiniteLoss: if one of them diverges.
        RuntimeError: if workers are lost again and again.
    """
    lessons: Lessons = kept.thing()
    texts, subnets = tasks.texts, RunFolder(tasks.folder).subnets
    steps = len(lessons.batches) * lessons.settings.epochs
    finished, waiting, turn = set[int](), dict[int, Answer](), 0
    try:
        with progress.stage("finish", steps * len(texts)) as advance:

            def show() -> None:
                going = (text for number, text in enumerate(texts) if number not in finished)
                done = steps * len(finished) + sum(
                    _steps_in(subnets / log_of(text)) for text in going
                )
                advance(done, f"{len(finished)} of {len(texts)} networks, {crew.count} at once")

            with contextlib.closing(crew.run(train_for, tasks, [kept], show)) as answers:
                for number, answer in answers:
                    finished.add(number)
                    show()
                    for words in answer.said:
                        warnings.warn(f"{texts[number]}: {words}", stacklevel=2)
                    if answer.log is not None:
                        records.write_text(subnets / log_of(texts[number]), answer.log)
                    waiting[number] = answer
                    while turn in waiting:
                        yield waiting.pop(turn).state
                        turn += 1
    finally:
        with contextlib.suppress(OSError):  # of the disk: why a worker ended says more
            records.remove_torn(subnets)  # what a lost worker left; the next command looks too


def _steps_in(log: Path) -> int:
    """How many steps of a training are on record."""
    lines = records.read_lines(log) if log.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def train_for(kept: Mapping[str, Any], asked: Asked) -> Answer:
    """Trains a network by the lessons that a worker keeps; this is what it runs."""
    import cloudpickle  # which workers have

    lessons: Lessons = kept["lessons"]
    beginner: Beginner = cloudpickle.loads(asked.beginner)
    folder = asked.folder
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        sees = folder.is_dir() and folder.stat().st_ino == asked.inode
        if not sees:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="manyshot-")))
            RunFolder(folder).subnets.mkdir()
        accelerator = engine(lessons.batches.device, lessons.settings, folder)
        subnets = RunFolder(folder).subnets
        train_alone(beginner, lessons, subnets, accelerator)
        stop(accelerator)
        log = None if sees else (subnets / log_of(beginner.text)).read_text(encoding="utf-8")
    state = {name: tensor.detach().cpu() for name, tensor in beginner.module.state_dict().items()}
    return Answer(state, log, tuple(str(each.message) for each in said))
