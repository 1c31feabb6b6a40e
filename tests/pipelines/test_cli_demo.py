from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines import demo, guards, model, run, run_inputs
from pipelines.cli import main
from pipelines.demo import DemoPhantom, agreement_lines, prepare_cohort
from pipelines.phantoms.writing import CohortRow
from pipelines.results import ScanResult
from tests.pipelines.dicom_factory import hu_pattern, make_slices, write_files
from tests.pipelines.fake_model import IDENTITY, FakeModel, bright_score

COUNTS = (12, 14)


@pytest.fixture
def cohorts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Folders of the small cohorts that stand in for phantoms, in the order written."""
    written: list[Path] = []

    def write(out: Path, *, subjects: int, seed: int) -> list[CohortRow]:
        written.append(out)
        rows = []
        for number, count in enumerate(COUNTS[:subjects]):
            name = f"small-{number + 1:04d}"
            write_files(make_slices(count), out / name / "series")
            truth = bright_score(hu_pattern(count))
            rows.append(CohortRow(name, "cardiac", seed, truth, "101-400", 3, count))
        return rows

    made = FakeModel()
    run._loaded_model.cache_clear()
    monkeypatch.setattr(demo, "write_cohort", write)
    monkeypatch.setattr(run, "load_model", lambda folder, preset: made)
    monkeypatch.setattr(guards, "evaluate_guards", lambda scan, alignment, model, allowed: ())
    monkeypatch.setattr(run_inputs, "read_description", lambda folder: {})
    monkeypatch.setattr(run_inputs, "verify_files", lambda folder, description: None)
    for module in (model, run_inputs):
        monkeypatch.setattr(module, "read_identity", lambda folder: IDENTITY)
    yield written
    run._loaded_model.cache_clear()


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_demo_prints_truth_beside_prediction(tmp_path: Path, cohorts: list[Path]) -> None:
    done = invoke("demo", "--out", tmp_path / "out", "--subjects", 2)
    assert done.exit_code == 0
    for name, count in zip(("small-0001", "small-0002"), COUNTS, strict=True):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(name)]
        numbers = [float(v) for v in re.findall(r"(?<= )\d+\.\d(?= )", line)]
        assert numbers == pytest.approx([bright_score(hu_pattern(count))] * 2, abs=0.06)
    assert re.search(r"Same category in \d of 2\.", done.stdout)
    assert (tmp_path / "out" / "results" / "scores.csv").is_file()


def test_demo_goes_on_where_it_stopped(tmp_path: Path, cohorts: list[Path]) -> None:
    words = ("demo", "--out", tmp_path / "out", "--subjects", 2)
    invoke(*words)
    invoke(*words)
    assert len(cohorts) == 1
    invoke(*words, "--seed", 5)
    assert len(cohorts) == 2


def test_half_written_cohort_is_written_again(tmp_path: Path, cohorts: list[Path]) -> None:
    prepare_cohort(tmp_path, subjects=2, seed=1)
    (tmp_path / demo.COHORT_NAME).write_text('{"subjects": 2, "se')
    prepare_cohort(tmp_path, subjects=2, seed=1)
    assert len(cohorts) == 2


def test_agreement_counts_categories_and_names_refusals() -> None:
    cohort = [
        DemoPhantom(CohortRow(f"p{i}", "chest", i, truth, category, 1, 50), Path(f"p{i}"))
        for i, (truth, category) in enumerate([(5.0, "1-10"), (50.0, "11-100")])
    ]
    base = {"scan_id": "a", "source": "s", "model": "m"}
    results = [
        ScanResult(status="ok", agatston=7.25, risk_category="1-10", **base),
        ScanResult(status="rejected", **base),
    ]
    head, first, second, last = agreement_lines(cohort, results)
    assert head.split() == [
        "phantom",
        "true",
        "Agatston",
        "category",
        "predicted",
        "category",
        "status",
    ]
    assert first.split() == ["p0", "5.0", "1-10", "7.2", "1-10", "ok"]
    assert second.split() == ["p1", "50.0", "11-100", "-", "-", "rejected"]
    assert last == "Same category in 1 of 2."


def test_every_phantom_needs_a_result() -> None:
    with pytest.raises(ValueError, match="one result"):
        list(agreement_lines([], [ScanResult(scan_id="a", status="ok", source="", model="")]))
