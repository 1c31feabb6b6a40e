"""The journal of a run: which scans are finished, whatever happens to the process.

One JSON line per finished scan is appended and forced to disk before anything else
counts on it. A process killed in the middle of a line leaves a torn last line, which the
next run cuts off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.results import ScanResult
from registration.atomic_files import sync_folder

JOURNAL_NAME = "journal.jsonl"

FORMAT = 1
"""Version of the line format; lines of another format are passed over."""


def journal_key(content_hash: str, model_hash: str, options: Mapping[str, Any]) -> str:
    """Key under which a scan's result stands: same key, same result.

    Args:
        content_hash: SHA-256 over the bytes of the scan's files.
        model_hash: SHA-256 of the model.
        options: Everything else that changes what is written; JSON values.

    Returns:
        A SHA-256 in hexadecimal.
    """
    text = json.dumps([FORMAT, content_hash, model_hash, dict(options)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Results of finished scans by key, in memory and on disk.

    Args:
        path: File of the journal; created by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[str, ScanResult] = {}
        self.passed_over = 0
        if path.exists():
            self._load()

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> ScanResult:
        return self._results[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def results(self) -> tuple[ScanResult, ...]:
        """All results, oldest first."""
        return tuple(self._results.values())

    def append(self, key: str, result: ScanResult) -> None:
        """Record a finished scan; on disk when this returns.

        A later line with the same key replaces the earlier one.
        """
        line = json.dumps(
            {"format": FORMAT, "key": key, "result": result.to_json()},
            ensure_ascii=False,
            allow_nan=False,
        )
        is_new = not self.path.exists()
        with self.path.open("ab") as stream:
            stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            sync_folder(self.path.parent)
        self._results[key] = result

    def _load(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("rb+") as stream:
                stream.truncate(len(whole))
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                if entry["format"] != FORMAT:
                    raise ValueError("another format")
                key, result = str(entry["key"]), ScanResult.from_json(entry["result"])
            except (ValueError, KeyError, TypeError):
                self.passed_over += 1
                continue
            self._results.pop(key, None)
            self._results[key] = result
