"""Whether plain values can be a recipe, in words, before any network is built of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LISTS = frozenset(
    {
        "downsamplings",
        "dense_units",
        "patch_shape",
        "spacing_mm",
        "image_shape",
        "flip_axes",
        "window",
        "percentiles",
    }
)
"""Settings that are lists of numbers, or null."""

_NUMBERS_OR_LISTS = frozenset({"steps", "kernels"})
"""Settings that are one number, or one for each stage or halving."""


def check_recipe(values: object) -> Mapping[str, Any]:
    """The values of a recipe, if sections, stages and lists are what they should be.

    Names and ranges are checked by those whose settings they are.

    Args:
        values: What the JSON file holds.

    Raises:
        ValueError: If a section, the stages or a list is something else.
    """
    recipe = _section("the recipe", values)
    registration = _section("registration", recipe.get("registration"))
    training = _section("training", recipe.get("training", {}))
    stages = registration.get("stages")
    if not isinstance(stages, list | tuple):
        raise ValueError(f"stages must be a list of networks. Received: {stages!r}")
    sections = [registration, training, *(_section("a stage", stage) for stage in stages)]
    sections += [_section(name, training.get(name, {})) for name in ("objective", "augmentation")]
    sections.append(_section("scaling", registration.get("scaling") or {}))
    for section in sections:
        for name, value in section.items():
            _check_numbers(name, value)
    return recipe


def _section(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must hold settings by name. Received: {value!r}")
    return value


def _check_numbers(name: str, value: object) -> None:
    is_list = isinstance(value, list | tuple) and all(map(_is_number, value))
    if name in _LISTS and value is not None and not is_list:
        raise ValueError(f"{name} must be a list of numbers. Received: {value!r}")
    if name in _NUMBERS_OR_LISTS and not is_list and not _is_number(value):
        raise ValueError(f"{name} must be a number, or a list of numbers. Received: {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
