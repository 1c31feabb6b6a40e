"""From prepared subjects to an unbiased mean: rounds of registering, averaging, correcting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from atlas import tasks
from atlas.atlas_mean import AtlasMean, read_mean, write_mean, write_planes
from atlas.averaging import average
from atlas.mean_update import AtlasError, MeanUpdate
from atlas.progress import Progress
from atlas.quality import Doubt, change, mean_pairwise_correlation, sharpness
from atlas.registration_methods import Regions
from atlas.round_subjects import LEAST_AVERAGED, round_subjects
from atlas.settings import AtlasSettings, Stage
from atlas.sharpening import sharpened
from atlas.start_reference import START_VARIANT, StartReference
from atlas.stopping import Verdict, stage_verdict
from atlas.subject_transform import Matrix, read_subject_transform, write_subject_transform
from atlas.work_folder import WorkFolder
from registration.atomic_files import remove_parts
from registration.geometry import ImageGrid

TaskT = TypeVar("TaskT")

Spread = Callable[
    [Callable[[Any], None], Sequence[Any]], Iterator[tuple[Any, BaseException | None]]
]
"""Does a function for every task, here or elsewhere; yields each task with the error, if any."""


def in_this_process(
    function: Callable[[Any], None], items: Sequence[Any]
) -> Iterator[tuple[Any, BaseException | None]]:
    """Do the tasks one after the other."""
    for item in items:
        function(item)
        yield item, None


@dataclass(frozen=True, slots=True)
class BuiltAtlas:
    """Where a build ended.

    Args:
        rounds: Number of the last round.
        mean: Its mean.
        records: What every round came to, the start included.
        doubts: Subjects left out of the last mean.
    """

    rounds: int
    mean: AtlasMean
    records: tuple[Mapping[str, Any], ...]
    doubts: tuple[Doubt, ...]


class AtlasBuilder:
    """Builds a mean in rounds; a build that was killed goes on, to the same bytes.

    Every round registers all subjects to the mean so far, leaves out by name whoever does not
    fit, takes the mean shape out, and averages the others. Sums run over subjects in the order
    of their ids, each subject is registered by one thread, and files appear whole: neither the
    number of workers nor an interruption changes the result.

    Args:
        work: Working files; its members must be prepared.
        subjects: Ids of all subjects that could be prepared, in order.
        held_out: Those that are registered and judged by, but not averaged.
        settings: What decides the atlas.
        spread: What does the tasks.
        reference: Start mean in place of `settings.start`, to go on with an atlas.
        known: Affine maps of subjects that `reference` was built from.
        keep_rounds: Keep the working files of every round.
        report: Called with a line of plain text after every round.
        on_progress: Called with what is being done, how much is done, and of how much.

    Raises:
        AtlasError: If fewer than two subjects are left to average.
    """

    def __init__(
        self,
        work: WorkFolder,
        subjects: Sequence[str],
        held_out: frozenset[str],
        settings: AtlasSettings,
        *,
        spread: Spread = in_this_process,
        reference: AtlasMean | None = None,
        known: Mapping[str, Matrix] | None = None,
        keep_rounds: bool = False,
        report: Callable[[str], None] = print,
        on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self.work = work
        self.subjects = tuple(sorted(subjects))
        self.settings = settings
        self.training = tuple(name for name in self.subjects if name not in held_out)
        self.held_out = tuple(name for name in self.subjects if name in held_out)
        self._spread = spread
        self._update = MeanUpdate(work, self.subjects, settings)
        self._start = StartReference(work, self.training, self.subjects, settings, reference, known)
        self._keep_rounds = keep_rounds
        self._report = report
        self._on_progress = on_progress
        if len(self.training) < LEAST_AVERAGED:
            raise AtlasError(
                "an atlas needs at least two usable subjects that are not held out; "
                f"there are {len(self.training)}"
            )

    def build(self) -> BuiltAtlas:
        """Do the rounds that are left.

        Raises:
            AtlasError: If fewer than two subjects fit each other.
        """
        records = [self._started()]
        grid = _grid(records[0]["grid"])
        regions = self._start.regions(records[0])
        progress = Progress(self.settings, regions.tight is not None)
        number, stage_number = 0, 0
        stages = self.settings.stages
        while stage_number < len(stages):
            stage = stages[stage_number]
            if stage.focused and regions.tight is None:
                stage_number += 1
                continue
            number += 1
            done = self.work.read_record(number)
            record = done or self._round(number, stage_number, grid, regions, records)
            records.append(record)
            self._report(progress.line(record, records))
            self._tidy(number)
            stage_number += bool(record["stage_over"])
        doubts = tuple(Doubt(**doubt) for doubt in records[-1]["left_out"])
        return BuiltAtlas(number, read_mean(self.work.mean(number)), tuple(records), doubts)

    def run_tasks(
        self, what: str, function: Callable[[Any], None], items: Sequence[Any]
    ) -> dict[Any, BaseException]:
        """Do tasks, telling how far they are; errors by task for those that were given up."""
        errors = {}
        self._on_progress(what, 0, len(items))
        for done, (item, error) in enumerate(self._spread(function, items), start=1):
            if error is not None:
                errors[item] = error
            self._on_progress(what, done, len(items))
        return errors

    def _started(self) -> Mapping[str, Any]:
        """Round 0: where every subject starts, and the first reference."""
        record = self.work.read_record(0)
        if record is not None:
            return record
        started = time.monotonic()
        plan = self._start.plan()
        grid = _grid(plan["grid"])
        chosen = plan["averaged"]
        mean = self._start.reference
        if mean is None:
            mean = self._averaged(0, START_VARIANT, grid, chosen)
        write_mean(mean, self.work.mean(0))
        write_planes(mean, self.work.planes(0))
        record = {
            **plan,
            "round": 0,
            "stage": "start",
            "stage_number": -1,
            "stage_over": True,
            "left_out": [],
            "averaged": list(chosen),
            "sharpness": sharpness(mean),
            "pairwise_ncc": mean_pairwise_correlation(
                self._moved(0, START_VARIANT, chosen), mean, self.settings.modality
            )
            if self._start.reference is None and len(chosen) > 1
            else None,
            "seconds": round(time.monotonic() - started, 2),
        }
        self.work.write_record(0, record)
        return record

    def _round(
        self,
        number: int,
        stage_number: int,
        grid: ImageGrid,
        regions: Regions,
        records: Sequence[Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        started = time.monotonic()
        stage = self.settings.stages[stage_number]
        self._register(number, stage_number, stage, regions)
        subjects = round_subjects(
            self._found(number), self.training, self.held_out, stage, self.settings, records
        )
        averaged = subjects.averaged
        before = read_mean(self.work.mean(number - 1))
        last = [r for r in records if r["stage_number"] == stage_number]
        told = subjects.told()

        def judged(mean: AtlasMean, drift: float) -> Verdict:
            this = {**told, "change": change(before, mean), "mean_displacement_mm": drift}
            return stage_verdict(stage, self.settings, [*last, this])

        if stage.kind != "deformable":
            variant = "affine"
            drift = self._update.affine(
                number, averaged, before, records[0], regions.tight if stage.focused else None
            )
            mean = self._averaged(number, variant, grid, averaged)
            verdict = judged(mean, drift)
        else:
            at_most = len(last) + 1 >= stage.rounds
            # every round of a trained registration starts anew: it has no displacement to keep
            step = 1.0 if at_most or stage.trained else self.settings.shape_step
            variant, drift = self._update.shape(number, averaged, step, grid, stage)
            mean = self._averaged(number, variant, grid, averaged)
            verdict = judged(mean, drift)
            if verdict.is_over and step < 1.0:  # a stage ends in the mean shape, all of it
                variant, drift = self._update.shape(number, averaged, 1.0, grid, stage)
                mean = self._averaged(number, variant, grid, averaged)
        write_mean(mean, self.work.mean(number))
        write_planes(mean, self.work.planes(number))
        record = {
            "round": number,
            "stage": stage.name,
            "stage_number": stage_number,
            "stage_over": verdict.is_over,
            "verdict": verdict.reason,
            "variant": variant,
            **told,
            "change": change(before, mean),
            "mean_displacement_mm": drift,
            "sharpness": sharpness(mean),
            "pairwise_ncc": mean_pairwise_correlation(
                self._moved(number, variant, averaged), mean, self.settings.modality
            ),
            "seconds": round(time.monotonic() - started, 2),
        }
        self.work.write_record(number, record)
        return record

    def _register(self, number: int, stage_number: int, stage: Stage, regions: Regions) -> None:
        """Register whoever is not registered yet; who cannot be keeps the last transform."""
        network = self._trained(number, stage_number, stage)
        items = [
            tasks.RegisterTask(
                name,
                self.work.member(name),
                self.work.mean(number - 1),
                self._kept_before(number, name),
                self.work.found(number, name),
                stage,
                stage_number,
                regions,
                self.settings,
                is_first=number == 1,
                network=network,
            )
            for name in self.subjects
            if not self.work.found(number, name).exists()
        ]
        for item, error in self.run_tasks("registering", tasks.register, items).items():
            reason = f"no process could register it ({type(error).__name__})"
            before = read_subject_transform(item.before)
            failed = tasks.failed_transform(before, reason, stage_number)
            write_subject_transform(failed, item.out)

    def _trained(self, number: int, stage_number: int, stage: Stage) -> Path | None:
        """The network of a round, trained on whoever was averaged in the last one, or before."""
        if stage.trained:
            return self.work.registration
        if stage.kind != "deformable" or self.settings.method != "network":
            return None
        folder = self.work.round(number) / "network"
        before = self.work.round(number - 1) / "network" / "trained"
        previous = self.work.read_record(number - 1) or {}
        same = previous.get("stage_number") == stage_number and before.exists()
        task = tasks.NetworkTask(
            folder,
            self.work.mean(number - 1),
            tuple(
                (name, self.work.member(name), self._kept_before(number, name))
                for name in previous["averaged"]
            ),
            stage,
            stage_number,
            self.settings,
            before if same else None,
        )
        for error in self.run_tasks("training the network", tasks.train, [task]).values():
            raise AtlasError(f"the network could not be trained: {error}") from error
        return folder / "trained"

    def _kept_before(self, number: int, name: str) -> Path:
        """Transform of a subject after the round before."""
        record = self.work.read_record(number - 1) or {}
        return self.work.kept(number - 1, str(record["variant"]), name)

    def _found(self, number: int) -> dict[str, tuple[Matrix, Mapping[str, Any]]]:
        """Matrix and facts of every subject; the warps stay on disk."""
        found = {}
        for name in self.subjects:
            transform = read_subject_transform(self.work.found(number, name))
            found[name] = transform.matrix, transform.facts
        return found

    def _averaged(
        self, number: int, variant: str, grid: ImageGrid, averaged: Sequence[str]
    ) -> AtlasMean:
        moved = self._moved(number, variant, averaged)
        items = [
            tasks.MoveTask(
                name, self.work.member(name), self.work.kept(number, variant, name), grid, path
            )
            for name, path in zip(averaged, moved, strict=True)
        ]
        for item, error in self.run_tasks("averaging", tasks.move, items).items():
            raise AtlasError(f"{item.subject_id} could not be moved to the atlas") from error
        mean = average(moved, grid, kind=self.settings.average, modality=self.settings.modality)
        return sharpened(mean, self.settings.sharpen) if self.settings.sharpen > 0 else mean

    def _moved(self, number: int, variant: str, averaged: Sequence[str]) -> list[Path]:
        return [self.work.moved(number, variant, name) for name in averaged]

    def _tidy(self, number: int) -> None:
        """Delete what no later round and no rerun needs."""
        remove_parts(self.work.round(number))
        if not self._keep_rounds:
            self.work.drop_moved(number)
            if number > 0:
                self.work.drop_moved(number - 1)
                self.work.drop_transforms(number - 1)
                self.work.mean(number - 1).unlink(missing_ok=True)


def _grid(described: Mapping[str, Any]) -> ImageGrid:
    return ImageGrid(
        tuple(described["size"]), tuple(described["spacing"]), tuple(described["origin"])
    )
