"""One image: from a file of any kind to ``uint8 [C, H, W]``.

The policy for files that are not plain 8-bit pictures:

- EXIF rotation is applied. Of an animation the first frame is used, which is noted. Colour profiles are ignored.
- Whole numbers wider than 8 bits (16-bit PNG and TIFF, grey or colour) become 8-bit by the depth that holds the highest
  value among all of the source, of 8, 10, 12, 14 and 16 bits, so that a 12-bit microscope's images do not come out
  black. Their transparency always has 16 bits.
- Palette and CMYK files become RGB; grey is ITU-R 601 luma.
- Transparency is laid on the background colour *before* resizing, so that hidden pixels do not bleed into the edges.
- Another size is cropped at the centre, or padded, then resized with an antialiased Lanczos filter.
- Empty, truncated and unknown files, PNGs with a wrong checksum, files of floating-point pixels, and pictures of more
  than 2**26 pixels (decompression bombs) are unreadable: they are named, counted and left out. JPEG has no checksum, so
  a few damaged bytes in one can pass.
"""

from __future__ import annotations

import re
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError, features

from trilemma.data.config import DataConfig
from trilemma.text import printable

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 2**26

# Pillow's other plugins read rare formats, some of them by starting outside programs.
AVIF = bool(features.check("avif"))  # from Pillow 11.3 on
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "ICO", *(("AVIF",) if AVIF else ()))
TGA = ".tga"
"""The suffix of the one format that is known by its name alone: any file may begin like one."""
PNG_AND_JPEG = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2")
SUFFIXES = frozenset(
    (*PNG_AND_JPEG, ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", TGA)
    + ((".avif",) if AVIF else ())
)

BEGINNINGS = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|\0\0\0\x0cjP  "
    + (rb"|....ftypavif" if AVIF else b""),
    re.DOTALL,
)
"""How files of the commonest formats begin."""

WIDE_COLOURS = {  # how Pillow unpacks 16-bit colours → the same from the lower bytes of each, and the channels it gives
    "RGB;16B": ("RGB;16L", "hhh"),
    "RGB;16L": ("RGB;16B", "hhh"),
    "RGB;16N": ("RGB;16B" if sys.byteorder == "little" else "RGB;16L", "hhh"),
    "RGBA;16B": ("RGBA;16L", "hhhh"),
    "RGBA;16L": ("RGBA;16B", "hhhh"),
    "RGBA;16N": ("RGBA;16B" if sys.byteorder == "little" else "RGBA;16L", "hhhh"),
    "LA;16B": ("RGBA", "hlhl"),
}
"""Pillow delivers the upper 8 bits of 16-bit colours. Read in the other byte order they are the lower 8 bits."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras, scanners and microscopes deliver."""

ENLARGED, REDUCED = "enlarged", "reduced"
DECOLOURED = "in colour, made grey"
TURNED = "turned upright by their EXIF tag"
FIRST_FRAME = "of several frames, of which only the first is used"
LOSSES = frozenset((ENLARGED, REDUCED, DECOLOURED, FIRST_FRAME))
"""What of the things done to an image loses something that a user may want to know of."""

ORIENTATION = 0x0112
UPRIGHT = {  # EXIF orientation → what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def begins_like_an_image(head: bytes) -> bool:
    """Whether a file that begins so is an image, whatever its name."""
    return BEGINNINGS.match(head) is not None


def open_image(file: BinaryIO, name: str = "") -> Image.Image:
    """Read the header. Raises ``ValueError`` or whatever Pillow raises where there is no image."""
    image = Image.open(file, formats=(*FORMATS, "TGA") if name.lower().endswith(TGA) else FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as shown, from the header alone."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size some versions of Pillow turn, and others do not
        width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return (width, height) if _orientation(image) >= 5 else (height, width)


def highest_value(image: Image.Image, file: BinaryIO) -> int:
    """The highest pixel of an image of whole numbers wider than 8 bits; 0 where 8 bits hold it by its kind."""
    if (wide := wide_colours(image, file)) is not None:
        return int(wide[..., : wide.shape[2] - 1 + wide.shape[2] % 2].max())
    return int(np.asarray(image).max()) if image.mode.startswith("I") else 0


def wide_colours(image: Image.Image, file: BinaryIO) -> npt.NDArray[np.uint16] | None:
    """The 16-bit colours of an image opened from ``file``, [H, W, C], transparency last; None where it has none.

    C is 2 (grey and transparency), 3 or 4.
    """
    raw = _unpacking(image)
    if raw not in WIDE_COLOURS:
        return None
    lower, channels = WIDE_COLOURS[raw]
    image.load()  # before another reads the same file
    file.seek(0)
    twin = Image.open(file, formats=FORMATS)
    assert isinstance(twin, ImageFile.ImageFile)
    twin.tile = [
        (*tile[:3], lower if isinstance(tile[3], str) else (lower, *tile[3][1:]))  # type: ignore[misc]
        for tile in twin.tile
    ]
    below = np.asarray(twin).astype(np.uint16)
    if channels == "hlhl":
        return below[..., ::2] << 8 | below[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | below


def _unpacking(image: Image.Image) -> str:
    """How Pillow will unpack the pixels of an image that is not loaded yet."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""


def depth_of(highest: int) -> int:
    """The bits that whole numbers up to ``highest`` have, one of `DEPTHS`.

    >>> depth_of(4000)
    12
    """
    return next((depth for depth in DEPTHS if highest < 2**depth), DEPTHS[-1])


def to_eight_bits(values: npt.NDArray[Any], depth: int) -> Pixels:
    """Whole numbers of ``depth`` bits → uint8, rounded; 0 stays 0 and the highest becomes 255."""
    if depth == 8:
        return values.astype(np.uint8)
    highest = 2**depth - 1
    return np.asarray((values.astype(np.int64) * 255 + highest // 2) // highest, np.uint8)


def read_image(
    file: BinaryIO, size: tuple[int, int], config: DataConfig, depth: int, name: str = ""
) -> tuple[Pixels, list[str]]:
    """Decode one file.

    Args:
        name: of the file, where it is known.
        size: (height, width) to deliver.
        depth: bits of whole numbers that are stored in more than 8.

    Returns:
        ``uint8 [C, H, W]``, C being 1 where ``config.color`` is grey and 3 otherwise, and in words what was done.

    Raises:
        Exception: decoders raise all sorts; `reason` puts it in a few words.
    """
    image = open_image(file, name)
    if image.format == "PNG":  # checksums are looked at only when asked, and that uses the image up
        image.verify()
        file.seek(0)
        image = open_image(file, name)
    mode, done = image.mode, []
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a photograph's preview is no frame
        done.append(FIRST_FRAME)
    image.draft("", (2 * max(size), 2 * max(size)))  # lets JPEG skip detail that the resizing would throw away
    wide = wide_colours(image, file)
    if _orientation(image) in UPRIGHT:
        done.append(TURNED)
    image.load()
    # Asked after loading, because Pillow turns a TIFF itself when it is loaded, and then takes the tag away.
    upright = UPRIGHT.get(_orientation(image))
    if wide is not None:
        image = _eight_bit_colours(wide, image.info.get("transparency"), depth)
    elif mode.startswith("I"):
        image = _eight_bits(image, depth)
    if upright is not None:
        image = image.transpose(upright)
    if wide is not None or mode.startswith("I"):
        done.append(f"in 16 or 32 bits, read as {depth}-bit, which holds the highest of them all")
    elif mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    elif mode == "CMYK":
        done.append("CMYK, converted to RGB")
    if image.has_transparency_data:
        image, seen_through = on_background(image, config.background)
        if seen_through:
            done.append(f"transparent, laid on {config.background}")
    if config.color == "grey" and has_colour(image):
        done.append(DECOLOURED)
    image = image.convert("L" if config.color == "grey" else "RGB")
    if (image.height, image.width) != size:
        enlarged = image.height < size[0] or image.width < size[1]
        done.append(ENLARGED if enlarged else REDUCED)
        image = resize(image, size, config)
    return channels_first(np.asarray(image)), done


def has_colour(image: Image.Image) -> bool:
    """Whether any pixel is not grey."""
    if image.mode in ("1", "L", "LA"):
        return False
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def on_background(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """Lay a transparent image on a colour; also says whether anything was transparent."""
    layer = image.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, ImageColor.getrgb(background))
    lowest, _ = layer.getchannel("A").getextrema()
    return Image.alpha_composite(canvas, layer).convert("RGB"), float(lowest) < 255  # type: ignore[arg-type]


def resize(image: Image.Image, size: tuple[int, int], config: DataConfig) -> Image.Image:
    """Crop or pad an ``L`` or ``RGB`` image to (height, width)."""
    target = (size[1], size[0])
    if config.fit == "crop":
        return ImageOps.fit(image, target, Image.Resampling.LANCZOS)
    colour = ImageColor.getcolor(config.background, image.mode)
    return ImageOps.pad(image, target, Image.Resampling.LANCZOS, color=colour)


def convert_array(image: Pixels, size: tuple[int, int], channels: int, config: DataConfig) -> Pixels:
    """The same for one image of an array: uint8 [1 | 3 | 4, h, w] → uint8 [channels, *size]."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    if len(image) == 4:
        picture, _ = on_background(picture, config.background)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if (picture.height, picture.width) != size:
        picture = resize(picture, size, config)
    return channels_first(np.asarray(picture))


def channels_first(array: Pixels) -> Pixels:
    """[H, W] or [H, W, C] → [C, H, W]."""
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).splitlines()
    return printable(lines[0][:80]) if lines else type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken tag must not cost the picture
        return 1


def _eight_bit_colours(values: npt.NDArray[np.uint16], hidden: object, depth: int) -> Image.Image:
    """16-bit colours [H, W, 2 | 3 | 4] as 8-bit ones; ``hidden`` is the one colour of a PNG that is seen through."""
    count = values.shape[2] - 1 + values.shape[2] % 2  # of channels that are colours
    parts = [to_eight_bits(values[..., :count], depth), to_eight_bits(values[..., count:], 16)]
    if count == 3 and isinstance(hidden, tuple):
        parts[1] = np.where((values == np.array(hidden)).all(-1, keepdims=True), 0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate(parts, -1))


def _eight_bits(image: Image.Image, depth: int) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside 0 to 65535")
    grey = Image.fromarray(to_eight_bits(values, depth))
    if isinstance(hidden := image.info.get("transparency"), int):  # a PNG's one value that is seen through
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey
