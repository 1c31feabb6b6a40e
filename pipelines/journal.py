"""The journal of a run: which scans are finished, whatever happens to the process.

One JSON line per finished scan is appended and forced to disk before anything else
counts on it. A process killed in the middle of a line leaves a torn last line, which the
next run cuts off.

A result stands for the files in its scan's folder. Before others replace them, another
line withdraws it: a process killed in between leaves no result with the files of another.
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
        self._contents: dict[str, str] = {}
        self._scan_ids: dict[str, None] = {}
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

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Names of all folders that were ever finished, also those of withdrawn results."""
        return tuple(self._scan_ids)

    def content_hash(self, key: str) -> str:
        """SHA-256 of the scan's files; empty for refused scans of earlier versions."""
        return self._contents[key]

    def append(self, key: str, result: ScanResult, content_hash: str = "") -> None:
        """Record a finished scan; on disk when this returns.

        A later line with the same key replaces the earlier one.
        """
        self._write({"key": key, "content": content_hash, "result": result.to_json()})
        self._record(key, result, content_hash)

    def withdraw(self, key: str) -> None:
        """Forget a result whose folder is about to be replaced; on disk when this returns."""
        self._write({"key": key, "withdrawn": True})
        del self._results[key]

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps({"format": FORMAT, **entry}, ensure_ascii=False, allow_nan=False)
        is_new = not self.path.exists()
        with self.path.open("ab") as stream:
            stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            sync_folder(self.path.parent)

    def _record(self, key: str, result: ScanResult, content_hash: str) -> None:
        self._results.pop(key, None)  # the latest comes last
        self._results[key] = result
        self._contents[key] = content_hash or str(result.details.get("content_sha256", ""))
        self._scan_ids[result.scan_id] = None

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
                key = str(entry["key"])
                if entry.get("withdrawn"):
                    self._results.pop(key, None)
                    continue
                result, content = ScanResult.from_json(entry["result"]), entry.get("content", "")
            except (ValueError, KeyError, TypeError):
                self.passed_over += 1
                continue
            self._record(key, result, content)
