"""Tracebacks fit for a log that anybody may read."""

from __future__ import annotations

import re
import traceback

from pipelines.discovery import SeriesCandidate

SHORTEST_SECRET = 4
"""Names of fewer characters are not looked for: they occur in any text."""


def redacted_traceback(error: BaseException, candidate: SeriesCandidate) -> str:
    """Traceback for the log, without paths of the scan and without quoted values.

    File names and header values can name a patient; stack frames and numbers cannot.
    """
    text = "".join(traceback.format_exception(error))
    folders = {str(path.parent) for path in candidate.files} | {candidate.source}
    names = {str(path) for path in candidate.files} | {path.name for path in candidate.files}
    for secret in sorted(names | folders, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "<scan>")
    lines = [
        line if line.startswith((" ", "Traceback")) else re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
        for line in text.splitlines()
    ]
    return "\n".join(lines)
