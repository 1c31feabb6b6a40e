"""Command line of the registration benchmarks, and the threads of everything they run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
"""Environment variables by which numpy, SimpleITK, elastix and TensorFlow size their pools."""


def options_parser(
    description: str, methods: Sequence[str], *, data_required: bool = False
) -> argparse.ArgumentParser:
    """The options that every registration benchmark has.

    Args:
        description: Docstring of the script.
        methods: Names that `--methods` takes, in the order of the table.
        data_required: Whether nothing can be measured without `--data`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=data_required, help="folder laid out as described above"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of table and figures")
    parser.add_argument("--model", type=Path, help="trained weights, by default those of --train")
    parser.add_argument("--train", action="store_true", help="train what has no weights yet")
    parser.add_argument("--threads", type=int, default=1, help="threads of every method")
    parser.add_argument(
        "--methods",
        type=lambda text: tuple(text.split(",")),
        default=tuple(methods),
        help=f"comma-separated, of {', '.join(methods)}",
    )
    parser.set_defaults(known_methods=tuple(methods))
    return parser


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse, and start the script anew where libraries were loaded with other threads.

    Pools are sized when a library is imported, so the environment must be right before the
    first import of any.
    """
    options = parser.parse_args(arguments)
    unknown = [m for m in options.methods if m not in options.known_methods]
    if unknown:
        known = ", ".join(options.known_methods)
        parser.error(f"--methods must be of {known}. Received: {', '.join(unknown)}")
    if options.threads < 1:
        parser.error(f"--threads must be positive. Received: {options.threads}")
    wanted = thread_environment(options.threads)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    return options


def thread_environment(threads: int) -> dict[str, str]:
    """Environment in which every library uses as many threads, and TensorFlow one operation."""
    environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**environment, "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
