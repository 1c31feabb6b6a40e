"""Digital thorax and cardiac CT phantoms with known coronary calcium.

Start at `pipelines.phantoms.phantom.make_phantom` (in memory), `writing.write_phantom`
(one DICOM series and its truth) and `writing.write_cohort` (many). The names are also
found here, loaded only when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Phantom": "phantom",
    "make_phantom": "phantom",
    "write_phantom": "writing",
    "write_cohort": "writing",
    "PhantomSettings": "settings",
    "STANDARD": "settings",
    "SHIFTED": "settings",
    "VARIED": "settings",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
