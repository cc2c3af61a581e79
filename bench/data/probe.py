"""What the first and the last bytes of an image file say: its size, and whether it is whole."""

import os
import struct
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from bench.data import DataError

HEAD, TAIL = 2048, 512  # bytes that are read
_ENDS = {".jpg": b"\xff\xd9", ".png": b"IEND"}


def probe(file: Path) -> tuple[tuple[int, int], str, bytes]:
    """Return (height, width), Pillow's mode, and length and last bytes of a whole .jpg or .png.

    A file that is unreadable, no image or cut short raises `DataError`.
    """
    try:
        handle = os.open(file, os.O_RDONLY)
        try:
            length = os.fstat(handle).st_size
            head = os.pread(handle, HEAD, 0)
            tail = os.pread(handle, TAIL, max(0, length - TAIL))
        finally:
            os.close(handle)
        size_hw, mode = (_png if file.suffix == ".png" else _jpeg)(head) or _by_pillow(file)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}). Copy it again.") from None
    if _ENDS[file.suffix] not in tail:
        raise DataError(f"{file} is truncated: its end is missing. Copy it again.")
    return size_hw, mode, str(length).encode() + tail


def _png(head: bytes) -> tuple[tuple[int, int], str] | None:
    """Return size and mode of an 8-bit PNG of one channel; of another None."""
    if head[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or head[24:26] != b"\x08\0":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return (height, width), "L"


def _jpeg(head: bytes) -> tuple[tuple[int, int], str] | None:
    """Return size and mode of a JPEG of three channels whose frame header is in `head`."""
    at = 2
    while head[:2] == b"\xff\xd8" and head[at : at + 1] == b"\xff" and at + 10 <= len(head):
        marker, length, bits, height, width, channels = struct.unpack(
            ">BHBHHB", head[at + 1 : at + 10]
        )
        if marker in (0xC0, 0xC2):  # baseline, progressive
            return ((height, width), "RGB") if (bits, channels) == (8, 3) and height else None
        if not 0xC4 <= marker < 0xFF or marker in (0xD8, 0xD9, 0xDA):
            return None
        at += 2 + length
    return None


def _by_pillow(file: Path) -> tuple[tuple[int, int], str]:
    with Image.open(file) as image:
        return (image.height, image.width), image.mode
