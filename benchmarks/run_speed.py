"""How long every part of `calcium-score run` takes, beside elastix on the same scan.

The peer is the affine registration of the scan to the atlas by itk-elastix with its default
multi-resolution parameters; the floor is SimpleITK's reader on the same files. All run in
one process with the same number of threads; imports, model loading and the first call of the
networks are counted apart, as start-up. Peak memory is that of a fresh process.

    python benchmarks/run_speed.py --out results [--data SERIES] [--threads 1] [--repeats 5]

Without `--data` a cardiac phantom of 57 slices of 512 x 512 and a chest phantom of 250 are
written first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from results_table import write_results

PARTS = ("reading", "alignment", "guards", "scoring", "files", "report")
"""Parts in order; `files` writes feedback map and alignment."""

MEMORY_LIMIT_MB = 2048
"""Peak memory that a run must stay below, MB."""


def main() -> None:
    arguments = parse_arguments()
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(arguments.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as scratch:
        series = arguments.data or write_phantom_series(Path(scratch) / "cardiac", "cardiac", 57)
        rows, elastix_seconds = time_parts(series, arguments, Path(scratch))
        large = write_phantom_series(Path(scratch) / "chest", "chest", 250)
        for label, folder in (("this series", series), ("250 slices of 512 x 512", large)):
            rows.append(memory_row(label, folder, Path(scratch), arguments))
        rows.append(help_row())
    notes = [
        f"{arguments.threads} thread(s), median of {arguments.repeats} runs; ratios are to "
        f"elastix's affine registration in the same process ({elastix_seconds:.2f} s)."
    ]
    print(write_results("run_speed", rows, arguments.out, notes=notes))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of one DICOM series")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder; by default the one that ships")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def write_phantom_series(folder: Path, kind: str, slices: int) -> Path:
    """A phantom resampled to a given number of slices over the same length, as DICOM."""
    import SimpleITK as sitk

    from pipelines.phantoms import make_phantom, write_phantom
    from registration.geometry import ImageGrid

    phantom = make_phantom(kind, seed=57)
    grid = phantom.grid
    depth = grid.spacing[2] * (grid.size[2] - 1) / (slices - 1)
    wanted = ImageGrid((*grid.size[:2], slices), (*grid.spacing[:2], depth), grid.origin)
    image = sitk.Resample(phantom.image, wanted.empty_image(), sitk.Transform(), sitk.sitkLinear)
    return write_phantom(replace(phantom, image=image), folder)


def time_parts(
    series: Path, arguments: argparse.Namespace, scratch: Path
) -> tuple[list[dict[str, Any]], float]:
    start = time.perf_counter()
    limit_threads(arguments.threads)
    from pipelines.discovery import find_series
    from pipelines.model import load_model
    from pipelines.run import RunOptions, ScanRun

    model = load_model(arguments.model)
    (candidate,) = find_series([series])
    run = ScanRun(RunOptions(out=scratch / "out", model=arguments.model), model)
    first = run.score_series(candidate)
    start_up = time.perf_counter() - start - first.seconds
    floor = [timed(lambda: read_with_simpleitk(candidate.files)) for _ in range(arguments.repeats)]
    samples: dict[str, list[float]] = {part: [] for part in PARTS}
    peer = []
    for _ in range(arguments.repeats):
        result = run.score_series(candidate)
        for part in PARTS:
            samples[part].append(result.details["seconds"][part])
        peer.append(register_with_elastix(candidate, model.atlas, arguments.threads))
    elastix = statistics.median(peer)
    medians = {part: statistics.median(values) for part, values in samples.items()}
    medians["answer (reading to files)"] = sum(medians[p] for p in PARTS if p != "report")
    medians["SimpleITK read (floor)"] = statistics.median(floor)
    medians["elastix affine (peer)"] = elastix
    rows = [row(part, seconds, elastix) for part, seconds in medians.items()]
    rows.append(row("start-up: imports, model, first call", start_up, None))
    return rows, elastix


def row(part: str, seconds: float, elastix: float | None, memory: float | None = None) -> dict:
    return {
        "part": part,
        "seconds": round(seconds, 4),
        "ratio to elastix": None if elastix is None else round(seconds / elastix, 4),
        "peak memory MB": memory,
    }


def limit_threads(threads: int) -> None:
    import SimpleITK as sitk
    import tensorflow as tf

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def read_with_simpleitk(files: tuple[Path, ...]) -> object:
    import SimpleITK as sitk

    return sitk.ReadImage([str(path) for path in files])


def register_with_elastix(candidate: Any, atlas: Any, threads: int) -> float:
    """Seconds of elastix's default affine registration of the scan to the atlas."""
    import itk
    import numpy as np
    import SimpleITK as sitk

    from pipelines.reading import read_scan

    def to_itk(image: sitk.Image) -> Any:
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        converted = itk.image_view_from_array(array)
        converted.SetSpacing(image.GetSpacing())
        converted.SetOrigin(image.GetOrigin())
        return converted

    # the scan is the fixed image: a tight field of view would leave most of the samples of a
    # fixed atlas without a partner, which elastix refuses
    fixed, moving = to_itk(read_scan(candidate).image), to_itk(atlas)
    parameters = itk.ParameterObject.New()
    affine = parameters.GetDefaultParameterMap("affine")
    affine["AutomaticTransformInitialization"] = ["true"]
    parameters.AddParameterMap(affine)
    return timed(
        lambda: itk.elastix_registration_method(
            fixed,
            moving,
            parameter_object=parameters,
            number_of_threads=threads,
            log_to_console=False,
        )
    )


def memory_row(label: str, series: Path, scratch: Path, arguments: argparse.Namespace) -> dict:
    """Peak memory and wall time of the whole command in a fresh process."""
    command = [sys.executable, "-m", "pipelines", "run", str(series)]
    command += ["--out", str(scratch / f"memory-{label.split()[0]}")]
    if arguments.model:
        command += ["--model", str(arguments.model)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak_mb = 0
    while process.poll() is None:
        peak_mb = max(peak_mb, resident_peak_mb(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    verdict = "below" if peak_mb < MEMORY_LIMIT_MB else "ABOVE"
    return row(f"whole command, {label} ({verdict} {MEMORY_LIMIT_MB} MB)", seconds, None, peak_mb)


def resident_peak_mb(pid: int) -> int:
    """Peak resident memory of a living process since it began its program, MB.

    The kernel's figure for a child that has ended counts what its parent held at the fork.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    values = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(values[0]) / 1024) if values else 0


def help_row() -> dict:
    """`--help`, which must not import TensorFlow."""
    check = (
        "import sys; from pipelines.cli import main; main(['--help'], standalone_mode=False); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", check]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        seconds.append(time.perf_counter() - start)
    label = "--help" if done.returncode == 0 else "--help (IMPORTS TENSORFLOW)"
    return row(label, statistics.median(seconds), None)


if __name__ == "__main__":
    main()
