"""What a training scan is made of, as a digest: the cache keeps it under that name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calcium.simulation.annotations import read_annotations
from pipelines.model import ALIGNMENT_WEIGHTS_NAME, ATLAS_NAME, DESCRIPTION_NAME, read_description
from registration.file_digest import file_sha256

if TYPE_CHECKING:
    from pipelines.scoring_scans import BackgroundSource

CACHE_FORMAT = 2
"""Number of what is kept of a scan; raised whenever older files lack something."""

KEY_LENGTH = 12
"""Hexadecimal digits in the name of a cached scan."""


def background_digest(source: BackgroundSource) -> str:
    """Digest of an annotated scan: its content, annotation and place in the atlas, not its path.

    Raises:
        KeyError: If the folder of annotations has none of that name any more.
    """
    annotation = read_annotations(source.annotations)[source.name]
    return digest_of(CACHE_FORMAT, source.candidate.content_hash, annotation, source.atlas_to_scan)


def alignment_digest(model: Path) -> str:
    """Digest of whatever in a model folder decides how scans are aligned.

    Scoring weights and metrics, which every training replaces, are no part of it. A file that
    is not there is passed over: whoever loads the model says so.
    """
    names = (ATLAS_NAME, ALIGNMENT_WEIGHTS_NAME)
    files = [file_sha256(model / n) for n in names if (model / n).is_file()]
    described = read_description(model) if (model / DESCRIPTION_NAME).is_file() else {}
    settings = [described.get(section) for section in ("heart", "alignment")]
    return digest_of(CACHE_FORMAT, files, settings)


def digest_of(*values: Any) -> str:
    """Short digest of values that JSON can hold."""
    content = json.dumps(values, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_LENGTH]
