"""Training the supernet between the proposals of a search, with its controls and records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from manyshot import records, transfer
from manyshot.evaluate import RunningStatistics
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.identity import fingerprint, weights_fingerprint
from manyshot.run_folder import (
    SHIFTING_STATE,
    DoseRecord,
    Operations,
    RunFolder,
    ShiftingLine,
)
from manyshot.search import Searcher, make_searcher
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.train import CheckpointError, save_weights
from manyshot.train.checkpoint import (
    check_processes,
    digest,
    load_checkpoint,
    save_checkpoint,
)
from manyshot.train.compute import Compute, passes_of
from manyshot.train.optim import learning_rate
from manyshot.train.shifting import Shifter, Span, Visit, schedule


class ShiftingStage:
    """The training of one search: on what, in which order, and how far it is.

    Attributes:
        generation: how many generations are complete.
        versions: of the weights that each of them left.
        shifter: what moves.
        running: batch-norm statistics of the training batches, if scores use them.
    """

    def __init__(self, ws: Workspace, accelerator: Accelerator, folder: Path) -> None:
        """Goes on from the state in `folder`, if there is one.

        Args:
            ws: the run, with the weights that the search begins with.
            accelerator: of the run.
            folder: the run's.

        Raises:
            CheckpointError: if the state is damaged, or of another search.
        """
        self.ws, self.accelerator, self.folder = ws, accelerator, RunFolder(folder)
        recipe = ws.recipe
        self.settings, self.generation = recipe.shifting, 0
        name = recipe.transfer.classifier
        self.shifter = Shifter(
            net=ws.net,
            batches=ws.batches(self.settings, accelerator.process_index, accelerator.num_processes),
            settings=self.settings,
            seed=recipe.seed,
            accelerator=accelerator,
            first_epoch=recipe.trained_epochs,
            trained=(recipe.train.lr, recipe.train.momentum),
            task=ws.task,
            head=transfer.head_parameters(ws.net, name) if self.settings.needs_classifier else (),
            compute=Compute(
                ws.macs_of,
                ws.net.space.largest,
                accelerator.num_processes,
                passes=passes_of(ws.net.sharing),
            ),
        )
        running = self.settings.statistics == "running"
        self.running = RunningStatistics(ws.net) if running else None
        about = (recipe.shifting, recipe.search, recipe.evaluate, digest(ws.net.state_dict()))
        self._fingerprint = fingerprint(ws, recipe.train, *about)
        self._restore()

    def _restore(self) -> None:
        path, log = self.folder.shifting_state, self.folder.shifting_log
        if path.exists():
            state = load_checkpoint(path, self._fingerprint)
            for name, held in (("compute", state["shifter"]), ("processes", state)):
                if name not in held:
                    raise CheckpointError(
                        f"{path} has no {name!r}, since it is of an earlier version of manyshot: "
                        f"move it and {log} away and resume, to search anew"
                    )
            if not self.folder.shifted.exists():  # there is more to train
                check_processes(path, state["processes"], self.accelerator.num_processes)
            self.generation = state["generation"]
            self.shifter.load_state_dict(state["shifter"])
            if self.running is not None:
                self.running.load_state_dict(state["running"])
        elif self.accelerator.is_main_process:
            self.folder.shifted.unlink(missing_ok=True)
        if self.accelerator.is_main_process:
            records.keep(log, ShiftingLine, lambda line: line.generation < self.generation)
        self.accelerator.wait_for_everyone()
        self.versions = [line.weights_version for line in self.folder.shifting_lines()]
        if len(self.versions) != self.generation:
            raise records.RecordError(
                f"{log} has {len(self.versions)} of the {self.generation} generations in "
                f"{SHIFTING_STATE}: restore it from a copy, or delete {SHIFTING_STATE} too and "
                "resume, to search anew"
            )

    @property
    def images(self) -> int:
        """Images that were forwarded, and backward, to train."""
        return self.shifter.drawn * self.settings.batch_size

    def visits(
        self, generation: int, candidates: Sequence[Arch], best: Sequence[Arch]
    ) -> tuple[list[Arch], list[Visit]]:
        """The candidates in a fresh order, and for each what is trained.

        Args:
            generation: of the search.
            candidates: what the search proposes, and its elites if they train.
            best: the best of the frozen supernet, for `topk_finetune`.
        """
        rng = numpy_rng(self.ws.recipe.seed, "visits", generation)
        order = [candidates[i] for i in rng.permutation(len(candidates))]
        name, steps, space = self.settings.name, self.settings.steps, self.ws.space
        if name == "uniform_finetune":  # as in training: encodings, a new one for every mini-batch
            return order, [tuple(space.sample(rng) for _ in range(steps)) for _ in order]
        trained = order
        if name == "random_population":
            seed = int(rng.integers(2**32))
            drawn = make_searcher("random", space, seed=seed, limits=self.ws.limits())
            trained = _repeated(drawn.ask(len(order)), len(order), rng)
        elif name == "topk_finetune":
            trained = _repeated(best, len(order), rng)
        return order, [(arch,) * steps for arch in trained]

    def train(self, visits: Sequence[Visit], span: Span) -> float:
        """Trains on visits; returns the mean loss.

        Args:
            visits: of a generation, or of one candidate.
            span: from which share of all candidates to which they are.

        Raises:
            NonFiniteLoss: if it is not a number.
        """
        steps = schedule(self.settings.update, visits)
        if self.running is None:
            return self.shifter.shift(steps, span)
        with self.running.watching():
            return self.shifter.shift(steps, span)

    @property
    def stats(self) -> Callable[[Arch], BatchNormStats] | None:
        """Gives the batch-norm statistics that scores use; None if they are calibrated."""
        return None if self.running is None else self.running.of

    def complete(
        self,
        searcher: Searcher,
        proposed: Sequence[Arch],
        elites: Sequence[Arch],
        visits: Sequence[Visit],
        losses: Sequence[float],
    ) -> None:
        """Records a generation whose candidates are scored and told, and saves all that moved."""
        trained = [arch for visit in visits for arch in visit]
        line = ShiftingLine(
            generation=self.generation,
            weights_version=self.shifter.step,
            images=self.images,
            macs=self.shifter.compute.macs,
            loss=float(np.mean(losses)),
            rates=self.shifter.rates,
            candidates=len(proposed),
            elites=len(elites),
            top_ups=getattr(searcher, "top_ups", 0),
            proposed=operations(self.ws, proposed),
            trained=operations(self.ws, trained),
        )
        self.generation += 1
        self.versions.append(self.shifter.step)
        if self.accelerator.is_main_process:
            records.append(self.folder.shifting_log, line)
            state = {
                "fingerprint": self._fingerprint,
                "generation": self.generation,
                "processes": self.accelerator.num_processes,
                "shifter": self.shifter.state_dict(),
                "running": None if self.running is None else self.running.state_dict(),
            }
            save_checkpoint(self.folder.shifting_state, state)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Takes the average of the weights, if there is one, and writes them."""
        self.shifter.end()
        path = self.folder.shifted
        if self.accelerator.is_main_process and not path.exists():
            save_weights(path, self.ws.net, weights_fingerprint(self.ws, shifted=True))
        self.accelerator.wait_for_everyone()

    def dose(self) -> DoseRecord:
        """How much the weights moved, beside the training before."""
        rates, trained = self.shifter.rates, trained_rates(self.ws)
        comparable = self.settings.optimizer == self.ws.recipe.train.optimizer
        known = trained > 0 and comparable and not self.settings.freeze_body
        return DoseRecord(
            shifting=rates, training=trained, relative=rates / trained if known else None
        )


def trained_rates(ws: Workspace) -> float:
    """The sum of the rates of all optimiser steps that moved the weights before the search.

    Of a supernet that was moved here, of those on these images in which more than its classifier
    moved.
    """
    recipe, sharing = ws.recipe, ws.net.sharing
    settings, per_epoch = recipe.train, len(ws.batches(recipe.train))
    epochs = recipe.transfer.body_epochs if recipe.moves else settings.epochs
    steps = epochs * per_epoch
    return math.fsum(
        learning_rate(settings, step, steps, per_epoch)
        for step in range(steps)
        if recipe.moves or sharing.phase(step, steps) != "code"
    )


def operations(ws: Workspace, archs: Sequence[Arch]) -> Operations:
    """How often each option of each decision occurs, and the entropy of each decision.

    Decisions that do not show in an architecture count as their first option if it is canonical.
    """
    counts = [
        np.bincount([arch[i] for arch in archs], minlength=len(decision.options))
        for i, decision in enumerate(ws.net.space.decisions)
    ]
    return Operations(
        counts=tuple(tuple(count.tolist()) for count in counts),
        entropy_nats=tuple(entropy(count / len(archs)) for count in counts),
    )


def entropy(shares: np.ndarray) -> float:
    """Of a distribution, in nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0


def _repeated(archs: Sequence[Arch], count: int, rng: np.random.Generator) -> list[Arch]:
    """So many of `archs`, all equally often but for one, in random order."""
    rounds = -(-count // len(archs))
    return [archs[i] for _ in range(rounds) for i in rng.permutation(len(archs))][:count]
