"""What an OME-TIFF says of itself: one flat RGB image, and how it was made."""

import json
import re
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np


def write_ome_xml(
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    description: str,
    *,
    pixel_size_um: float | None = None,
) -> str:
    """Return OME-XML, always the same for the same image.

    Args:
        shape: (height, width, 3).
        dtype: of the pixels.
        description: a JSON object, whose items become annotations.
        pixel_size_um: side of a pixel in micrometres, if somebody says it.
    """
    from tifffile import OmeXml

    annotations = json.loads(description or "{}")
    # Annotations are texts: a name each.
    annotations |= {f"metadata {name}": text for name, text in annotations.pop("metadata", {}).items()}
    annotations = {_to_xml(name): _to_xml(str(text)) for name, text in annotations.items()}
    sizes: dict[str, Any] = {}
    if pixel_size_um is not None:
        for axis in "XY":
            sizes |= {f"PhysicalSize{axis}": pixel_size_um, f"PhysicalSize{axis}Unit": "µm"}

    # Any identifier will do, but tifffile's own is made of the time of day.
    xml = OmeXml(UUID=str(uuid5(NAMESPACE_URL, f"{shape} {dtype} {description} {sizes}")), Creator="taesd-tiler")
    # Pages, planes, depth, height, width, samples.
    xml.addimage(
        dtype,
        shape,
        (1, 1, 1, *shape),
        axes="YXS",
        Name="image",
        MapAnnotation=annotations,
        **sizes,
    )
    return str(xml.tostring())


def _to_xml(text: str) -> str:
    """Return a text without what XML cannot hold. Source: XML 1.0, 2.2."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
