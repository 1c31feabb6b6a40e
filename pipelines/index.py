"""`index.html`: a batch at a glance, in one file that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages import page
from pipelines.results import ScanResult


def index_html(results: Sequence[ScanResult], facts: Mapping[str, Any]) -> str:
    """Page that lists every series, sortable and filterable, with links to the reports.

    Args:
        results: One per row, in the order of the table.
        facts: What `run.json` says.
    """
    return page("index.html", results=results, facts=facts)
