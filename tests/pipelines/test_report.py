from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.index import index_html
from pipelines.reasons import REASONS
from pipelines.report import Evidence, report_html, scale_position
from pipelines.results import Finding, LesionRow, ScanResult
from pipelines.scan import Acquisition, Scan
from registration.geometry import Ellipsoid, ImageGrid

GRID = ImageGrid((64, 48, 20), (0.8, 0.8, 3.0), (-25.0, -19.0, 100.0))
MEGABYTE = 2**20


class Page(HTMLParser):
    """Text, tags and links of a page; fails on a tag that is not closed."""

    VOID = frozenset({"meta", "input", "br", "image", "use", "line", "path", "ellipse", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str | None] = []
        self.labels: list[str | None] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links.extend(v for k, v in attrs if k in ("href", "src", "srcset", "data", "action"))
        self.labels.extend(v for k, v in attrs if k == "aria-label")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def result(**changes: object) -> ScanResult:
    scored = ScanResult(
        scan_id="abc123",
        status="ok",
        source="in/series",
        model="default 1.0",
        kind="cardiac",
        agatston=123.4,
        agatston_low=98.2,
        agatston_high=150.9,
        risk_category="101-400",
        risk_label="moderately high",
        cac_drs="A2",
        volume_mm3=88.7,
        preset="agatston-1990",
        slice_spacing_mm=3.0,
        kvp=120.0,
        lesions=(LesionRow((1.5, -2.5, 130.0), 123.4, 88.7, 512.0, (10, 11)),),
    )
    return replace(scored, **changes)  # type: ignore[arg-type]


def evidence(grid: ImageGrid = GRID, feedback: np.ndarray | None = None) -> Evidence:
    image = grid.to_image(np.zeros(grid.shape, np.int16))
    if feedback is None:
        feedback = np.zeros(grid.shape, np.float32)
        feedback[10:12, 20, 30] = 61.7
    facts = Acquisition(kvp=120.0, convolution_kernel="B35f", contrast_agent=False)
    scan = Scan("abc123", image, 3.0, facts)
    alignment = SimpleNamespace(
        atlas_to_scan=sitk.AffineTransform(3), similarity=0.87, coverage=0.96
    )
    heart = Ellipsoid((0.0, 0.0, 130.0), (15.0, 12.0, 20.0))
    model = SimpleNamespace(atlas=image, heart=heart, model_hash="f" * 64)
    score = SimpleNamespace(feedback=feedback)
    return Evidence(scan, alignment, score, model)  # type: ignore[arg-type]


def test_report_says_score_category_and_definition() -> None:
    text = Page(report_html(result(), evidence())).text
    for said in ("123", "98 to 151", "101–400", "moderately high", "A2", "agatston-1990"):
        assert said in text
    assert "Research use, not a medical device." in text


def test_report_needs_nothing_from_outside() -> None:
    for html in (report_html(result(), evidence()), index_html([result()], facts())):
        own = (None, "scores.csv", "run.json", "scans/abc123/report.html")
        links = [link for link in Page(html).links if link not in own]
        assert all(link.startswith(("data:image/webp;base64,", "#")) for link in links)
        assert not re.search(r"https?:|@import|url\(", html)


def test_every_contributing_slice_is_pictured_plain_and_marked() -> None:
    labels = Page(report_html(result(), evidence())).labels
    for number in (11, 12):
        assert f"Slice {number} as acquired" in labels
        assert f"Slice {number} with the voxels that add to the score in color" in labels
    assert not [label for label in labels if label.startswith("Slice 10 ")]


def test_lesion_table_counts_slices_from_one() -> None:
    text = Page(report_html(result(), evidence())).text
    assert "123.4 88.7 512 11–12 1.5 \u22122.5 130.0" in text


def test_guards_that_fired_are_told_in_words() -> None:
    finding = Finding("METAL", "review", "30 mm³ are brighter than 2500 HU.")
    text = Page(report_html(result(status="review", findings=(finding,)), evidence())).text
    assert "METAL 30 mm³ are brighter than 2500 HU." in text
    assert "Check in the slices below that no metal is counted." in text


def test_rejected_scan_has_a_report_that_says_why_and_what_to_do() -> None:
    finding = Finding("MISSING_SLICE", "reject", "One gap of 6.0 mm at z = -132.5.")
    refused = ScanResult(
        scan_id="abc123", status="rejected", source="s", model="m", findings=(finding,)
    )
    page = Page(report_html(refused, Evidence()))
    assert "Not scored" in page.text
    assert "One gap of 6.0 mm at z = -132.5." in page.text
    assert "Transfer the series again" in page.text
    assert "Agatston score" not in page.text
    assert "svg" not in page.tags


def test_scan_rejected_after_alignment_shows_the_alignment() -> None:
    found = evidence()
    finding = Finding("HEART_NOT_COVERED", "reject", "About 10 % of the heart is inside.")
    refused = ScanResult(
        scan_id="abc123", status="rejected", source="s", model="m", findings=(finding,)
    )
    page = Page(report_html(refused, replace(found, score=None)))
    assert page.tags.count("svg") == 6
    assert "Slices that contribute" not in page.text


def test_header_values_cannot_break_out_of_the_page() -> None:
    found = evidence()
    assert found.scan is not None
    facts = Acquisition(manufacturer='<script>alert("x")</script>')
    html = report_html(result(), replace(found, scan=replace(found.scan, acquisition=facts)))
    assert "<script" not in html
    assert '<script>alert("x")</script>' in Page(html).text


def test_report_of_a_very_calcified_scan_stays_light() -> None:
    grid = ImageGrid((256, 256, 60), (0.7, 0.7, 3.0), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    noise = rng.normal(40.0, 30.0, grid.shape).astype(np.int16)
    feedback = np.zeros(grid.shape, np.float32)
    feedback[:, 100:130, 100:130] = rng.random((60, 30, 30)) < 0.5
    found = evidence(grid, feedback)
    assert found.scan is not None
    found = replace(found, scan=replace(found.scan, image=grid.to_image(noise)))
    html = report_html(result(agatston=float(feedback.sum())), found)
    labels = [label for label in Page(html).labels if label and "in color" in label]
    assert len(labels) == 60
    assert len(html) < 3 * MEGABYTE  # white noise is the worst there is to compress


@pytest.mark.parametrize(
    ("agatston", "segment"),
    [(0, 0), (0.4, 0), (1, 1), (10, 1), (11, 2), (100, 2), (101, 3), (400, 3), (401, 4), (9e9, 4)],
)
def test_marker_stands_in_the_segment_of_its_category(agatston: float, segment: int) -> None:
    assert segment / 5 <= scale_position(agatston) <= (segment + 1) / 5


def test_every_reason_has_words() -> None:
    for code, sentence in REASONS.items():
        finding = Finding(code, "reject", sentence)
        refused = ScanResult(
            scan_id="abc123", status="rejected", source="s", model="m", findings=(finding,)
        )
        assert sentence in Page(report_html(refused, Evidence())).text


def facts() -> dict[str, object]:
    return {
        "model": {"name": "default", "version": "1.0", "sha256": "f" * 64},
        "preset": "agatston-1990",
        "counts": {"ok": 1, "review": 0, "rejected": 0, "failed": 0},
        "program": "calcium-score 0",
    }


def test_index_lists_every_series_with_a_link_to_its_report() -> None:
    refused = ScanResult(
        scan_id="def456",
        status="rejected",
        source="<b>&.zip",
        model="m",
        findings=(Finding("NOT_CT", "reject", 'the modality is "MR"'),),
    )
    page = Page(index_html([result(), refused], facts()))
    assert "scans/abc123/report.html" in page.links
    assert "scans/def456/report.html" in page.links
    assert "<b>&.zip" in page.text
    assert "NOT_CT" in page.text


def test_arteries_and_chances_are_told_where_the_model_knows_them() -> None:
    lesions = (
        LesionRow((1.5, -2.5, 130.0), 100.0, 70.0, 512.0, (10,), "RCA"),
        LesionRow((1.5, -2.5, 133.0), 23.4, 18.7, 212.0, (11,), "LM/LAD"),
    )
    chances = {"0": 0.0, "1-10": 0.0, "11-100": 0.243, "101-400": 0.752, ">400": 0.005}
    text = Page(
        report_html(
            result(lesions=lesions, details={"category_probabilities": chances}), Evidence()
        )
    ).text
    assert "LM/LAD 23 LCX 0 RCA 100" in text
    assert "1 RCA 100.0 70.0 512" in text
    assert "Chance of each: 101–400 75 %, 11–100 24 %" in text
    plain = Page(report_html(result(), Evidence())).text
    assert "Artery" not in plain
    assert "Chance of each" not in plain
