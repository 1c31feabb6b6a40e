"""The main job: every CT in what the user gave, scored into one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.batch import Batch, BatchSettings, BatchSummary
from pipelines.discovery import find_series
from pipelines.model import DEFAULT_MODEL, read_description, read_identity, verify_files
from pipelines.results import ScanResult
from pipelines.run import RunOptions, give_up_task, score_task


class OutputIsInputError(ValueError):
    """The folder of the run is one of its inputs, of which nothing would be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the work is done; none of it changes a score.

    Args:
        workers: Processes to score in; 1 means this one.
        scheduler: Address of a running Dask scheduler, in place of `workers`.
        fresh: Forget what an earlier run in the same folder has finished.
        command: The command line, for `run.json`.
    """

    workers: int = 1
    scheduler: str | None = None
    fresh: bool = False
    command: tuple[str, ...] = ()


def score_inputs(
    inputs: Sequence[Path],
    options: RunOptions,
    execution: Execution,
    *,
    on_found: Callable[[int], None] = lambda number: None,
    on_finish: Callable[[ScanResult], None] = lambda result: None,
) -> BatchSummary:
    """Find every series in the inputs, score each once and write the tables.

    Args:
        inputs: Folders, archives and files; the output folder inside them is passed over.
        options: What changes the results.
        execution: What does not.
        on_found: Called with the number of series.
        on_finish: Called with each result as it is known.

    Raises:
        OutputIsInputError: If the output folder is an input itself, under whatever name.
        ModelError: If the model cannot be used.
        OutputInUseError: If another run writes to the same folder.
        WorkersLostError: If all workers are gone; what is finished stays finished.
    """
    if options.out.exists() and any(path.samefile(options.out) for path in inputs):
        raise OutputIsInputError("this folder is an INPUT. Choose another folder for --out")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # worker processes inherit it
    verify_files(options.model or DEFAULT_MODEL, read_description(options.model))
    settings = BatchSettings(
        out=options.out,
        options=options.to_json(),
        model=read_identity(options.model),
        workers=execution.workers,
        scheduler=execution.scheduler,
        fresh=execution.fresh,
        command=execution.command,
    )
    candidates = find_series(inputs, exclude=[options.out])
    on_found(len(candidates))
    batch = Batch(
        settings,
        partial(score_task, options=options),
        partial(give_up_task, options=options),
        on_finish,
    )
    return batch.run(candidates)
