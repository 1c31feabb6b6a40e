import pytest

from benchmarks.scoring_left_out import by_patient, main, read

BOB = ((0, 0, 0), (0, 20, 0), (200, 100, 100))
"""True score, score, and what was found of it."""


def test_patients_that_were_left_out_are_told_apart(tmp_path):
    lines = ["scan_id,group,kind,truth,agatston,found"]
    # one patient exact; the other with half of 200 found, and 20 beside it
    lines += [f"a{k},ann,chest,{t},{t},{t}" for k, t in enumerate((0, 50, 500))]
    lines += [f"b{k},bob,cardiac,{t},{s},{f}" for k, (t, s, f) in enumerate(BOB)]
    path = tmp_path / "held_out.csv"
    path.write_text("\n".join(lines) + "\n")
    table = {str(row["patient or kind"]): row for row in by_patient(read(path))}
    assert list(table) == ["ann", "bob", "cardiac", "chest", "all"]
    assert table["ann"]["linear kappa"] == 1.0
    assert table["ann"]["of the score not coronary"] == 0.0
    assert table["bob"]["points found"] == pytest.approx(100 / 200)
    assert table["bob"]["of the score not coronary"] == pytest.approx(20 / 120)
    assert table["bob"]["zero found zero"] == 0.5
    assert table["all"]["n"] == 6


def test_scans_as_they_are_have_a_table_of_their_own(tmp_path, monkeypatch, capsys):
    lines = ["scan_id,group,kind,truth,agatston,found"]
    lines += [f"a{k},ann,chest,{t},{t},{t}" for k, t in enumerate((0, 50, 500))]
    lines.append("ann-unchanged,ann,chest,0,12.5,0")
    (tmp_path / "fold" / "additive").mkdir(parents=True)
    (tmp_path / "fold" / "additive" / "held_out.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    (tmp_path / "scoring_phantoms_predicted.csv").write_text(
        "scan_id,kind,agatston,agatston_low,agatston_high\np1,cardiac,7.5,1,9\n"
    )
    (tmp_path / "scoring_phantoms_reference.csv").write_text("scan_id,agatston\np1,8.5\n")
    command = ["x", str(tmp_path / "fold"), "--out", str(out), "--phantoms", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "ann-unchanged" not in (out / "scoring_left_out_scans.csv").read_text()
    own = (out / "scoring_left_out_unchanged.csv").read_text().splitlines()
    assert own[1:] == ["ann-unchanged,ann,chest,0.0,12.5,0.0"]
    assert "12.5" in capsys.readouterr().out
    predicted, reference = (
        (out / f"calibration_{name}.csv").read_text().splitlines()
        for name in ("predicted", "reference")
    )
    assert predicted[:2] == ["scan_id,kind,agatston", "p1,cardiac,7.5"]
    assert reference[:2] == ["scan_id,agatston", "p1,8.5"]
    scans = ["p1", "a0", "a1", "a2"]
    assert [row.split(",")[0] for row in predicted[1:]] == scans
    assert [row.split(",")[0] for row in reference[1:]] == scans
