"""The training loop, one for supernets and for finished subnets, and what a run consists of."""

from __future__ import annotations

import functools
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from manyshot.cost.masked import MaskedMacs
from manyshot.data import Batch, Batches
from manyshot.nn.inputs import Inputs, batch_of, in_chunks, with_samples, without_values
from manyshot.progress import Progress, Silent
from manyshot.recipe import SupernetSettings, TrainingSettings, check_parts
from manyshot.run_folder import TRAIN_LOG, TRAINER
from manyshot.seeding import numpy_rng
from manyshot.sharing import Phase, SplitsByGradients, learns_codes
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import DEFAULT, Task
from manyshot.train.average import Average
from manyshot.train.checkpoint import (
    CheckpointError,
    check_processes,
    load_checkpoint,
    restore_sampler,
    save_checkpoint,
)
from manyshot.train.compute import Compute, MacsOf, passes_of
from manyshot.train.distilling import Distiller, number_of_teachers
from manyshot.train.evidence import EvidenceOfCodes
from manyshot.train.gradients import MEAN
from manyshot.train.journal import Journal, TrainingWarning
from manyshot.train.mixing import Mixer
from manyshot.train.optim import (
    OptimizerFactory,
    ScheduleFactory,
    learning_rate,
    make_code_optimizer,
    make_optimizer,
    optimizer_from,
    schedule_from,
)
from manyshot.train.optimisation import (
    Network,
    NonFiniteLoss,
    Optimisation,
    Trained,
    Turn,
    held_by,
    said_of_data,
)
from manyshot.train.plan import (
    Plan,
    PlannedPath,
    Probe,
    Sampler,
    ending_early,
    learning_from_norms,
    name_of,
    narrowing,
)
from manyshot.train.probing import HeldOut, Prober
from manyshot.train.sharding import gathered
from manyshot.train.shrinking import Shrinking
from manyshot.train.snapshots import Snapshots
from manyshot.train.splitting import gradient_distances
from manyshot.train.unrolled import check_unrolled
from manyshot.watching import watched


class Trainer:
    """A training run: how far it is, what each step trains on, and the parts that do the work.

    Attributes:
        net: the network.
        sampler: says which paths train.
        batches: this process's share of the images.
        settings: optimiser, schedule, length.
        seed: the seed of the run.
        step: how many optimiser steps are done.
        weight_step: how many of them moved weights.
        optimisation: the network with all optimisers; takes the steps.
        average: the moving average of the weights; None without `settings.ema`.
        snapshots: earlier weights that vote; None without `settings.snapshots`.
        mixer: mixes images and targets, if the settings ask for that.
        prober: answers what the sampler asks of held-out images.
        journal: writes records and warns.
        compute: counts what is spent.
        shrinking: changes the view of the space that trains; None if that is all of it.
    """

    def __init__(
        self,
        net: Network,
        sampler: Sampler,
        batches: Batches,
        settings: TrainingSettings,
        seed: int,
        largest: Arch,
        accelerator: Accelerator,
        task: Task = DEFAULT,
        folder: Path | None = None,
        checkpoint: str = TRAINER,
        log: str = TRAIN_LOG,
        fingerprint: str = "",
        held_out: HeldOut | None = None,
        validation: HeldOut | None = None,
        original: nn.Module | None = None,
        distiller: Distiller = MEAN,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        macs_of: MacsOf | None = None,
        macs_at: Callable[[int], MacsOf] | None = None,
        original_macs: int | None = None,
        shrinking: Shrinking | None = None,
    ) -> None:
        """Makes the optimisers; `train` does the rest.

        Args:
            net: a supernet; `Standalone` makes a network for the loop of a plain module.
            sampler: says which paths train.
            batches: this process's share of the images.
            settings: optimiser, schedule, length.
            seed: the seed of the run.
            largest: the architecture that teaches in in-place distillation.
            accelerator: see `engine`.
            task: what is learnt.
            folder: where `checkpoint` and `log` go, made if there is none; nothing is written
                without it.
            checkpoint: the name of the checkpoint file.
            log: the name of the records' file.
            fingerprint: that of everything the run depends on; a checkpoint of another is refused.
            held_out: makes batches of held-out images for probes, from their number and a seed.
            validation: likewise of images that nothing learns from, on which it is measured
                whether the codes of a sharing scheme matter; without it, it is not.
            original: the network that teaches paths of this target, on the same device; it stays as
                it is, and is no part of checkpoints.
            distiller: says how paths learn from it.
            optimizer: makes the optimiser of weights, whose rates are then the peaks; by default
                `settings` say which.
            schedule: makes the schedule of its rates, for as many steps as move weights; by default
                `settings` say how.
            macs_of: the multiply-adds of architectures, which are then on record as they are spent.
            macs_at: likewise of images of another side in pixels, where batches have such.
            original_macs: those of `original`; by default the largest architecture's.
            shrinking: changes the view of a supernet's space that trains, at steps it knows.

        Raises:
            ValueError: if the sampler probes, and there are no held-out images, if images have
                several sizes, and `macs_of` comes without `macs_at`, if gradients are to be
                accumulated, and parts are not equal or the sampler learns by gradients, if
                targets are to be smoothed or mixed, and the task does not say how, if branches are
                to be left out, or rates set, of what the network does not have, or if `optimizer`
                or `schedule` makes what cannot be used, if the space is to shrink and the sampler
                cannot go on in a view of it, or if it asks for gradients through a step that is
                unlike the one taken.
        """
        if sampler.probes and held_out is None:
            raise ValueError(
                f"{name_of(sampler)} learns from losses on held-out images, and there are "
                "none: give Trainer(held_out=...), or sampler.held_out in a recipe"
            )
        check_parts(settings.accumulate, batches.batch_size, accelerator.num_processes)
        if original is not None:
            distiller.check(task, number_of_teachers(original))
        if macs_of is not None and macs_at is None and batches.growth is not None:
            raise ValueError(
                f"macs_of counts images of one size, and batches have several, of "
                f"{list(batches.growth.sides)} pixels: give macs_at too, or leave macs_of out"
            )
        check_unrolled(sampler, settings, accelerator.num_processes, taught=original is not None)
        if shrinking is not None:
            check_narrows(sampler, name_of(sampler))
        self.shrinking = shrinking
        self.net, self.sampler, self.batches, self.seed = net, sampler, batches, seed
        self._view = net.space if isinstance(net, Supernet) else None
        self.step, self.weight_step = 0, 0
        if not learns_codes(net.sharing, steps := settings.epochs * len(batches)):
            warnings.warn(
                f"none of the {steps} steps moves the codes that sharing learns: train for more "
                "epochs, or make KShot with a lower code_every or warm_frac",
                TrainingWarning,
                stacklevel=2,
            )
        codes = make_code_optimizer(net.sharing, settings.lr, settings.momentum)
        if optimizer is None:
            weights = make_optimizer(net, settings, held_by(codes))
        else:
            if settings.rates:
                raise ValueError(
                    f"rates = {settings.rates} are of the optimizer that settings make, and "
                    "another is given: give its groups their rates, or leave rates out"
                )
            weights = optimizer_from(optimizer, net, settings, held_by(codes))
            peak = float(weights.param_groups[0]["lr"])
            if settings.min_lr > peak:
                raise ValueError(
                    f"min_lr = {settings.min_lr:g} is above the rate of the optimizer, {peak:g}: "
                    "lower it"
                )
            settings = settings.model_copy(update={"lr": peak})
            codes = make_code_optimizer(net.sharing, settings.lr, settings.momentum)
        self.settings = settings
        self._fingerprint = fingerprint
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = None if folder is None else folder / checkpoint
        self.snapshots = self._snapshots(task)
        self.optimisation = Optimisation(
            net,
            settings,
            accelerator,
            task=task,
            weights=weights,
            codes=codes,
            schedule=schedule and schedule_from(schedule, weights, self.weight_steps),
            sampler=sampler,
            largest=largest,
            original=original,
            distiller=distiller,
            beside=self.snapshots,
            drop_path=settings.drop_path,
            drops=self._drops(largest),
            stream=(seed, "step"),
            diverged=self._diverged,
        )
        if settings.accumulate > 1 and self.optimisation.sampler is not None:
            raise ValueError(
                f"accumulate = {settings.accumulate} trains in parts, and {name_of(sampler)} "
                "learns by the gradients of whole batches: set accumulate = 1, or take another "
                "sampler, such as ms.train.Uniform"
            )
        scheme = net.sharing
        self._splits = scheme if isinstance(scheme, SplitsByGradients) else None
        self._scheduled = schedule is not None
        self._measured = learning_from_norms(sampler)
        self._ends = ending_early(sampler)
        self._saved = time.monotonic()
        self.average = None if settings.ema is None else Average(net, settings.ema)
        self._sample: Inputs = None
        self.mixer = Mixer(settings, task, seed, accelerator)
        self._sample_side: int | None = None
        self.compute = Compute(
            macs_of,
            largest,
            accelerator.num_processes,
            self._masked_macs,
            macs_at,
            original_macs,
            passes_of(net.sharing),
        )
        self.prober = Prober(self.optimisation, held_out, (seed, "probe_images"), self.compute)
        tracked = settings.tracker is not None
        evidence = None
        if validation is not None:
            size = settings.batch_size
            evidence = EvidenceOfCodes(
                self.optimisation, validation, seed, self.steps, size, self.compute
            )
        self._evidence = evidence
        self.journal = Journal(
            self.optimisation, batches, self.steps, folder, log, tracked, evidence
        )

    # -- what a step trains on -----------------------------------------------------------------

    @functools.cached_property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.settings.epochs * len(self.batches)

    @functools.cached_property
    def weight_steps(self) -> int:
        """How many of all steps move weights."""
        phases = (self.net.sharing.phase(step, self.steps) for step in range(self.steps))
        return sum(phase != "code" for phase in phases)

    def phase(self) -> Phase:
        """What the current step moves."""
        return self.net.sharing.phase(self.step, self.steps)

    def side(self) -> int | None:
        """The side of the images of the current step, if that changes from epoch to epoch."""
        return self.batches.side(self.step)

    def rate(self) -> float:
        """The learning rate of the current step."""
        if self._scheduled:
            return float(self.optimisation.weights.param_groups[0]["lr"])
        return learning_rate(self.settings, self.step, self.steps, len(self.batches))

    def turns(self, phase: Phase, images: Inputs, targets: Any) -> Iterator[Turn]:
        """The plans of the current step with their images.

        In a code step each chunk has one of its own, in others all parts that gradients are
        accumulated over have the same.

        Args:
            phase: what the step moves.
            images: (B, C, H, W) or other inputs, all of the step.
            targets: likewise.
        """
        if self._sample is None or self._sample_side != self.side():
            self._sample = without_values(with_samples(images, 1))
            self._sample_side = self.side()
        images, targets = self.mixer(self.step, images, targets)
        whole = None if phase == "code" else self.plan()
        chunks = self.settings.accumulate if whole else self.net.sharing.chunks
        parts = zip(in_chunks(images, chunks), in_chunks(targets, chunks), strict=True)
        for i, (some_images, some_targets) in enumerate(parts):
            plan = whole or self.plan(i).by_indices()
            yield Turn(plan, some_images, some_targets, batch_of(some_targets) / batch_of(targets))

    def _drops(self, largest: Arch) -> list[Arch] | None:
        """The architectures that branches are left out of; None for all.

        Raises:
            ValueError: if that is the largest alone, and the first step does not train it.
        """
        settings = self.settings
        if not isinstance(settings, SupernetSettings) or settings.drop_path_for == "all":
            return None
        check_drops_largest(self.plan(), largest, name_of(self.sampler))
        return [largest]

    def _snapshots(self, task: Task) -> Snapshots | None:
        """What votes beside what paths learn from, if the settings ask for that."""
        settings, net = self.settings, self.net
        if not isinstance(settings, SupernetSettings) or not settings.snapshots.number:
            return None
        if not isinstance(net, Supernet):
            raise ValueError("snapshots vote on paths of a ms.Supernet, and this module has none")
        told = settings.snapshots
        every = max(1, round(told.epochs * len(self.batches)))
        return Snapshots(net, task, number=told.number, every=every, weight=told.weight)

    def _masked_macs(self) -> MaskedMacs:
        """What full masks cost on a sample of the size that is counted now.

        Held-out images have the full size, whatever those have that it trains on.
        """
        assert isinstance(self.net, Supernet)  # no other network has policies
        sample, growth = self._sample, self.batches.growth
        if growth is not None and self.compute.side is None:
            assert isinstance(sample, Tensor)  # only images grow
            sample = sample.new_empty(*sample.shape[:2], *2 * (growth.sides[-1],))
        return MaskedMacs(self.net, sample)

    def plan(self, *chunk: int) -> Plan:
        """The paths of the current step, or of a chunk of it; the same in all processes."""
        rng = numpy_rng(self.seed, "plan", self.step, *chunk)
        plan = self.sampler.plan(rng, self.step)
        self._check_proposed(plan.paths)
        return plan

    def _check_proposed(self, paths: Sequence[PlannedPath]) -> None:
        """Refuses what a sampler proposes outside the view of the space that trains.

        Raises:
            ValueError: for such a path; the message names the sampler.
        """
        if self._view is not None:
            archs = (path.arch for path in paths)
            self._view.check_proposed(archs, f"sampler {name_of(self.sampler)}")

    def split(self) -> None:
        """Lets the sharing scheme split what was one copy, if it is time for that."""
        scheme = self._splits
        if scheme is not None and scheme.splits_at(self.step, self.steps):
            batches = self._next(scheme.split_batches)
            rng = numpy_rng(self.seed, "split")
            candidates = scheme.candidates()
            space = None if self.shrinking is None else self.shrinking.space
            apart = gradient_distances(
                self.optimisation, batches, candidates, rng, self.compute, space
            )
            scheme.split_by(apart)

    def _next(self, count: int) -> Iterator[Batch]:
        """So many batches from the current step on; while one is used, its size is counted in."""
        following = itertools.islice(self.batches.from_step(self.step), count)
        for step, batch in enumerate(following, self.step):
            with self.compute.at(self.batches.side(step)):
                yield batch

    def shrink(self) -> None:
        """Lets training go on in another view of the space, if it is time for that."""
        shrinking = self.shrinking
        while shrinking is not None and shrinking.due(self.step, self.steps):
            assert isinstance(self.net, Supernet)  # `fit` has looked
            accelerator = self.optimisation.accelerator
            self.journal.shrunk(shrinking.shrink(self.net, self.step, accelerator))
            self._narrow(shrinking)

    def _narrow(self, shrinking: Shrinking) -> None:
        """Tells all who draw or teach which view trains."""
        if self._evidence is not None:
            self._evidence.space = shrinking.space
        self._view = shrinking.space
        narrows = narrowing(self.sampler)
        assert narrows is not None  # `check_narrows` has looked
        narrows.narrow(shrinking.space, shrinking.since)
        self.optimisation.teach_by(shrinking.space.largest)

    # -- what the sampler learns from it -------------------------------------------------------

    def teach(self, trained: Sequence[Trained], batch: Batch) -> None:
        """Answers the sampler's probe after a step that moved weights, and tells it the losses.

        One that learns from norms of gradients is told that of this step before the losses.

        Args:
            trained: the turns of the step.
            batch: the images of the step and their targets, before they were mixed.

        Raises:
            NonFiniteLoss: if a loss on held-out images is not finite.
        """
        self.weight_step += 1
        probe = self.probe()
        if probe is not None and probe.unrolled:  # through the step as it was taken
            batch = self.mixer(self.step, *batch)
        probed = None if probe is None else self.prober.answer(probe, self.step, batch)
        losses = list(trained[0].losses)
        if len(trained) > 1:
            of_paths = zip(*(done.losses for done in trained), strict=True)
            losses = [torch.stack(of_parts).mean() for of_parts in of_paths]
        accelerator = self.optimisation.accelerator
        if accelerator.num_processes > 1:  # a sampler is told the same in all of them
            losses = list(accelerator.reduce(torch.stack(losses), "mean"))
        norm = self.optimisation.norm
        if self._measured is not None and norm is not None:
            if accelerator.num_processes > 1:  # equal but for rounding, which this takes away
                norm = accelerator.reduce(norm, "mean")
            self._measured.measured(trained[0].plan, norm)
        self.sampler.feedback(trained[0].plan, losses, probed)

    def probe(self) -> Probe | None:
        """What the sampler wants to know after the step that moved the weights just now."""
        rng = numpy_rng(self.seed, "probe", self.step)
        probe = self.sampler.probe(rng, self.weight_step, self.weight_steps)
        if probe is not None:
            self._check_proposed(probe.paths)
        return probe

    def beside(self) -> int:
        """How many earlier weights vote on each path of the current step."""
        if self.snapshots is None or self.phase() == "code":
            return 0
        return len(self.snapshots.kept)

    @property
    def probed_images(self) -> int:
        """How many images were forwarded for probes."""
        return self.prober.images

    # -- where it stands -----------------------------------------------------------------------

    @property
    def ended_early(self) -> bool:
        """Whether the sampler ended training before its last step."""
        return self._ends is not None and self._ends.ended and self.step < self.steps

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.step == self.steps or self.ended_early

    def due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is to be done now."""
        return self.step % every == 0 or self.is_over

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint; all processes go by the clock of the first."""
        if self.due(self.settings.checkpoint_steps or self.steps):
            return True
        late = time.monotonic() - self._saved >= self.settings.checkpoint_seconds
        accelerator = self.optimisation.accelerator
        if accelerator.num_processes == 1:
            return late
        return bool(broadcast(torch.tensor([late], device=accelerator.device)))

    def save(self) -> None:
        """Writes the checkpoint, unless a loss or a weight is not finite.

        Raises:
            NonFiniteLoss: then; the previous checkpoint stays.
        """
        losses = self.journal.waiting()
        self.optimisation.check_weights(self.step - 1)
        if self._checkpoint is not None:
            accelerator = self.optimisation.accelerator
            state = gathered(self._state(losses), accelerator)
            if accelerator.is_main_process:
                save_checkpoint(self._checkpoint, state)
        self._saved = time.monotonic()

    def end(self) -> None:
        """Puts the moving average, if there is one, in place of the weights."""
        if self.average is not None:
            self.average.put_into(self.net, self.optimisation.accelerator)

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Raises:
            CheckpointError: if it is damaged, or of another run.
        """
        losses: Any = ()
        shrinking, views = self.shrinking, None if self.shrinking is None else 0
        if self._checkpoint is not None and self._checkpoint.exists():
            state = load_checkpoint(self._checkpoint, self._fingerprint)
            for name in self._state([]):
                if name not in state:
                    raise self._outdated(name)
            missing = [name for name in self.compute.state_dict() if name not in state["compute"]]
            if missing:
                raise self._outdated(f"compute.{missing[0]}")
            self.optimisation.load_state_dict(state)
            if shrinking is not None:
                assert isinstance(self.net, Supernet)
                shrinking.load_state_dict(state["shrinking"], self.net)
                views = 1 + shrinking.done
                self._narrow(shrinking)
            restore_sampler(
                self.sampler, state, self._checkpoint, "move it away, and train from the beginning"
            )
            self.prober.load_state_dict(state)
            self.compute.load_state_dict(state["compute"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.snapshots is not None:
                self.snapshots.load_state_dict(state["snapshots"])
            self.step, self.weight_step = state["step"], state["weight_step"]
            if not self.is_over:
                accelerator = self.optimisation.accelerator
                check_processes(self._checkpoint, len(state["losses"]), accelerator.num_processes)
            losses = state["losses"]
        self.journal.resume(self.step, losses, views)
        if shrinking is not None and not views:
            assert isinstance(self.net, Supernet)
            self.journal.shrunk(shrinking.begin(self.net))
            self._narrow(shrinking)

    def _outdated(self, name: str) -> CheckpointError:
        """The error for a checkpoint of an earlier version, which lacks an entry."""
        return CheckpointError(
            f"{self._checkpoint} has no {name!r}, since it is of an earlier version of manyshot: "
            "move it away, and train from the beginning"
        )

    def _state(self, losses: list[list[list[float]]]) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            "step": self.step,
            "weight_step": self.weight_step,
            "losses": losses,
            "sampler": self.sampler.state_dict(),
            "average": self.average and self.average.state_dict(),
            "compute": self.compute.state_dict(),
            **({} if self.snapshots is None else {"snapshots": self.snapshots.state_dict()}),
            **({} if self.shrinking is None else {"shrinking": self.shrinking.state_dict()}),
            **self.optimisation.state_dict(),
            **self.prober.state_dict(),
        }

    def _diverged(self, step: int, what: str, data: Sequence[str] | None = None) -> NonFiniteLoss:
        """The error that says what step `step` (from 0) did, and what to do."""
        kept = "no checkpoint was saved before"
        if self._checkpoint is not None and self._checkpoint.exists():
            kept = f"the checkpoint {self._checkpoint} from before is kept"
        odd = self.batches.not_finite(step) if data is None else data
        if odd:
            return said_of_data(f"step {step}: {what}", odd, kept)
        rate = (
            self.rate()
            if self._scheduled
            else learning_rate(self.settings, step, self.steps, len(self.batches))
        )
        codes = "" if self.optimisation.codes is None else "; or lower sharing.options.lr"
        return NonFiniteLoss(
            f"step {step}: {what} (learning rate {rate:.3g}); {kept}. Lower train.lr, set "
            f"train.clip_norm, or add train.warmup_epochs{codes}"
        )


def check_narrows(sampler: Sampler, name: str) -> None:
    """Refuses a sampler that cannot go on in a view of its space.

    Raises:
        ValueError: then.
    """
    if narrowing(sampler) is None:
        raise ValueError(
            f"the space shrinks while it trains, and sampler {name} cannot go on in a view of it: "
            "take one that has `narrow` (manyshot.train.Narrows), such as uniform, fair or sandwich"
        )


def check_drops_largest(plan: Plan, largest: Arch, sampler: str) -> None:
    """Refuses to leave branches out of the largest architecture alone if a step is without it.

    Args:
        plan: of the step.
        largest: the largest architecture.
        sampler: whose plan it is, for messages.

    Raises:
        ValueError: then.
    """
    if all(path.arch != largest for path in plan.paths):
        raise ValueError(
            f"drop_path_for = 'largest' is for samplers that train the largest architecture in "
            f"every step, as sandwich does, and {sampler} does not: take drop_path_for = 'all'"
        )


def train(run: Trainer, progress: Progress | None = None, stage: str = "train") -> None:
    """Trains `run.net` to the end of its settings, from where its checkpoint left off.

    A sampler may end it before (`EndsEarly`). The same seed gives the same weights. A run that is
    killed at any moment and started again ends with the same weights as one that never was.

    Args:
        run: what trains.
        progress: shows how far it is.
        stage: what it is called there.

    Raises:
        NonFiniteLoss: if training diverges; the last good checkpoint is kept.
        CheckpointError: if a checkpoint is damaged or of another run.
    """
    settings, journal, bars = run.settings, run.journal, progress or Silent()
    run.restore()
    run.net.train()
    journal.begin(run.step)
    with (
        torch.random.fork_rng(),
        bars.stage(stage, run.steps, run.step) as show,
        watched(lambda what, done, total: show(run.step, f"{what}: {done} of {total}")),
    ):
        batches = run.batches.from_step(run.step)
        left = 0 if run.is_over else run.steps - run.step
        for images, targets in itertools.islice(batches, left):
            run.split()
            run.shrink()
            phase, rate = run.phase(), run.rate()
            turns = run.turns(phase, images, targets)
            trained = run.optimisation.step(run.step, turns, phase, rate)
            journal.take(trained)
            with run.compute.at(run.side()):
                run.compute.take(trained, beside=run.beside())
            if phase != "code":
                run.teach(trained, (images, targets))
                if run.average is not None:
                    run.average.update(run.net)
                if run.snapshots is not None:
                    run.snapshots.note(run.weight_step)
            run.step += 1
            journal.note(run.step, run.sampler.report())
            if run.due(settings.log_steps):
                last = (run.step - 1) // settings.log_steps * settings.log_steps
                note = journal.record(
                    run.step, rate, run.prober.images, last, run.compute, ended=run.ended_early
                )
                show(run.step, f"{note}, the sampler ended it" if run.ended_early else note)
            if run.checkpoint_due():
                run.save()
            if run.is_over:
                break
    run.end()
    run.shrink()
