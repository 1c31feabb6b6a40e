"""ITK transforms as HDF5 files that are the same bytes for the same transform.

ITK's own writer stamps every data set with the time, and the file with the system it runs on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

GROUP = "TransformGroup"
"""Group that holds one numbered group per transform, as ITK names it."""

COMPRESSED_FROM = 1000
"""Number of parameters from which a data set is compressed; ITK reads either."""


def write_hdf5_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform in the layout of ITK's HDF5 files, without time and system.

    Many parameters are compressed, and kept in single precision where that changes none.

    Args:
        transform: Any that ITK writes.
        path: File to write.

    Source:
        Layout of `itk::HDF5TransformIO`, which writes the file first.
    """
    import h5py

    sitk.WriteTransform(transform, str(path))
    with h5py.File(path, "r") as file:
        groups = {
            name: {key: data[()] for key, data in group.items()}
            for name, group in file[GROUP].items()
        }
    with h5py.File(path, "w") as file:
        parent = file.create_group(GROUP)
        for name, content in groups.items():
            group = parent.create_group(name)
            for key, value in content.items():
                _write_data_set(group, key, value)


def _write_data_set(group: Any, key: str, value: NDArray[Any]) -> None:
    import h5py

    if value.dtype == object:  # the name of the transform
        group.create_dataset(key, data=value, dtype=h5py.string_dtype("ascii"))
    elif value.size < COMPRESSED_FROM:
        group.create_dataset(key, data=value)
    else:
        single = value.astype(np.float32)
        kept = single if np.array_equal(single, value) else value
        group.create_dataset(key, data=kept, compression="gzip", shuffle=True)
