from pathlib import Path

from benchmarks.model_card import card, worst
from pipelines.model import update_description


def test_the_card_tells_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    model, results = tmp_path / "mine", tmp_path / "results"
    model.mkdir()
    results.mkdir()
    sections = {
        "intended_use": "Research.",
        "data": [{"name": "scan-a", "source": "an archive", "license": "CC BY 4.0"}],
        "training": {"scoring": {"command": "calcium-score train scoring SCANS"}},
    }
    update_description(model, sections)
    (results / "scoring_left_out.csv").write_text(
        "patient or kind,n,linear kappa\nall,40,0.91234\n"
    )
    (results / "scoring_left_out.txt").write_text("Measured with version 0.\n")
    rows = [f"s{k},a,chest,100,{score},0" for k, score in enumerate((100, 0, 99, 400, 101, 98, 97))]
    text = "\n".join(["scan,patient,kind,truth,score,found", *rows])
    (results / "scoring_left_out_scans.csv").write_text(text + "\n")
    (results / "scoring_pictures.csv").write_text(
        "scan,truth,score,picture\nann-5,0.0,515.5,ann-5.png\n"
    )
    (results / "ann-5.png").write_bytes(b"picture")
    written = card(model, [tmp_path, results], tmp_path / "docs")
    assert "![ann-5: true score 0.0, scored 515.5](model_card/ann-5.png)" in written
    assert (tmp_path / "docs" / "model_card" / "ann-5.png").read_bytes() == b"picture"
    assert "have seen them, too. Measured with version 0.\n\n| patient or kind |" in written
    assert "# Model card: mine 1" in written
    assert "| scan-a | an archive | CC BY 4.0 |" in written
    assert "`calcium-score train scoring SCANS`" in written
    assert "| all | 40 | 0.912 |" in written
    assert "| s1 | 100 | 0 |\n| s3 | 100 | 400 |" in written
    unseen = card(model, [tmp_path], tmp_path / "docs")
    assert "Not drawn: there is no `scoring_pictures.csv`." in unseen
    assert "Not measured: there is no `scoring_phantoms_agreement.csv`." in written


def test_the_worst_are_those_of_the_largest_logarithmic_error() -> None:
    cases = [{"case": str(k), "truth": "10", "score": str(s)} for k, s in enumerate((10, 0, 30, 9))]
    assert [row["scan"] for row in worst(cases)] == ["1", "2", "3", "0"]
