"""`calcium-score train`: one command per kind of network, imported on first use."""

from __future__ import annotations

from pipelines.cli import LazyGroup

command = LazyGroup(
    {
        "registration": (
            "pipelines.cli_train_registration:command",
            "Deformable registration from a cohort of images.",
        ),
        "alignment": (
            "pipelines.cli_train_alignment:command",
            "Affine alignment of scans to the atlas.",
        ),
        "scoring": (
            "pipelines.cli_train_scoring:command",
            "Calcium scoring from a table of scores.",
        ),
        "calibration": (
            "pipelines.cli_train_calibration:command",
            "Intervals and chances of categories from known scores.",
        ),
    },
    name="train",
    help="Train the networks of a model; resumable, writes a model folder.",
)
