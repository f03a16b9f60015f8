"""The fields of EXIF, of which nothing is trusted: damaged ones are absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from model.images import without_warnings

CAMERA, GPS = 0x8769, 0x8825  # groups


def exif_group(exif: Image.Exif, group: int) -> dict[int, Any]:
    """The fields of one of EXIF's groups; empty where it is damaged."""
    try:
        with without_warnings():
            return exif.get_ifd(group)
    except Exception:  # damaged EXIF raises whatever its parser meets
        return {}


def exif_number(fields: Mapping[int, Any], tag: int) -> float:
    """A field as a number; NaN where it is absent or no number."""
    try:
        return float(fields[tag])
    except (KeyError, TypeError, ValueError):
        return math.nan
