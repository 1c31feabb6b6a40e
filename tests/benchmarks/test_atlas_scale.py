from benchmarks.atlas_scale import different_files, round_seconds


def results(folder, *, name="a", content=b"1"):
    (folder / "transforms").mkdir(parents=True)
    (folder / "transforms" / f"{name}.tfm").write_bytes(content)
    (folder / "atlas.nii.gz").write_bytes(b"mean")
    (folder / "qc.html").write_text(str(folder))
    return folder


def test_results_that_differ_or_are_missing_are_named(tmp_path):
    first = results(tmp_path / "first")
    assert different_files(first, results(tmp_path / "same")) == []
    assert different_files(first, results(tmp_path / "other", content=b"2")) == ["transforms/a.tfm"]
    found = different_files(first, results(tmp_path / "missing", name="b"))
    assert found == ["transforms/a.tfm", "transforms/b.tfm"]


def test_seconds_of_all_rounds_are_added(tmp_path):
    (tmp_path / "history.csv").write_text("round,seconds\n0,1.5\n1,2.25\n", encoding="utf-8")
    assert round_seconds(tmp_path) == 3.75
