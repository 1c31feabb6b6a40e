"""Random damage: every series ends as a scan or as a refusal, never as another exception."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import SimpleITK as sitk
from pydicom import uid

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from tests.pipelines.dicom_factory import (
    PATIENT,
    hu_pattern,
    make_enhanced,
    make_slices,
    write_files,
)

SHAPE = (40, 36)
COUNT = 5
DAMAGES = 40
KINDS = ["plain", "jpeg-ls", "jpeg-2000", "rle", "enhanced", ".nii", ".nii.gz", ".nrrd", ".mha"]
SYNTAXES = {
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-2000": uid.JPEG2000Lossless,
    "rle": uid.RLELossless,
}


def write_sound(kind: str, folder: Path) -> list[Path]:
    folder.mkdir()
    if kind.startswith("."):
        image = sitk.GetImageFromArray(hu_pattern(COUNT, SHAPE))
        sitk.WriteImage(image, str(folder / f"scan{kind}"), useCompression=True)
        return [folder / f"scan{kind}"]
    if kind == "enhanced":
        return write_files([make_enhanced(COUNT)], folder)
    slices = make_slices(COUNT, shape=SHAPE)
    for ds in slices:
        if kind in SYNTAXES:
            ds.compress(SYNTAXES[kind], generate_instance_uid=False)
    return write_files(slices, folder)


def damaged(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    length = chance.randrange(1, 200)
    kind = chance.choice(["cut", "zero", "insert", "repeat", "header", "anywhere"])
    if kind == "cut":
        return content[:start]
    if kind == "zero":
        return content[:start] + bytes(length) + content[start + length :]
    if kind == "insert":
        return content[:start] + chance.randbytes(chance.randrange(1, 9)) + content[start:]
    if kind == "repeat":
        return content[:start] + content[start : start + length] + content[start:]
    changed = bytearray(content)
    for _ in range(chance.choice([1, 3, 20])):
        end = min(len(changed), 1600) if kind == "header" else len(changed)
        changed[chance.randrange(end)] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_a_scan_or_a_refusal(tmp_path: Path, kind: str) -> None:
    chance = random.Random(KINDS.index(kind))
    paths = write_sound(kind, tmp_path / "series")
    sound = [path.read_bytes() for path in paths]
    refusals = []
    for _ in range(DAMAGES):
        which = chance.randrange(len(paths))
        paths[which].write_bytes(damaged(sound[which], chance))
        for candidate in find_series([tmp_path / "series"]):
            try:
                assert read_scan(candidate).grid.size[2] >= COUNT - 1
            except UnusableSeries as refusal:
                refusals.append(refusal.message)
        paths[which].write_bytes(sound[which])
    assert len(refusals) >= DAMAGES // 4
    assert not [message for message in refusals if PATIENT in message]
