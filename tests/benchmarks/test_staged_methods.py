import argparse

import numpy as np
import SimpleITK as sitk

from registration.registrar import Registration


class Watching:
    """Registers nothing, and remembers what it saw."""

    name = "elastix"

    def register(self, fixed, moving):
        self.seen = [sitk.GetArrayFromImage(image) for image in (fixed, moving)]
        return Registration((sitk.Transform(3, sitk.sitkIdentity),))


def test_elastix_in_a_window_sees_nothing_beyond_it(monkeypatch):
    from staged_methods import STAGES, ElastixSettings, staged_methods

    watching = Watching()
    monkeypatch.setattr(ElastixSettings, "registrar", lambda settings, threads: watching)
    settings = ElastixSettings((80.0, 40.0, 20.0), 2, window=(-400.0, 250.0))
    methods = staged_methods(
        ("elastix", "elastix+window"),
        argparse.Namespace(threads=1),
        elastix=settings,
        networks=None,
    )
    assert [method.rows[0] for method in methods] == ["elastix AIR", "elastix+window AIR"]
    assert all(len(method.rows) == len(STAGES) for method in methods)
    values = np.array([-1000.0, -400.0, 40.0, 500.0], np.float32).reshape(4, 1, 1)
    image = sitk.GetImageFromArray(values)
    plain, windowed = (method.build() for method in methods)
    plain.register(image, image)
    np.testing.assert_array_equal(watching.seen, [values, values])
    assert windowed.name == "elastix+window"
    windowed.register(image, image)
    np.testing.assert_array_equal(watching.seen[1].ravel(), [-400.0, -400.0, 40.0, 250.0])
