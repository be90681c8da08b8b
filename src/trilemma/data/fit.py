"""One image: from a file of any kind to ``uint8 [C, H, W]``.

The policy for files that are not plain 8-bit pictures:

- EXIF rotation is applied. Of an animation the first frame is used. Colour profiles are ignored.
- 16-bit grey becomes 8-bit by dividing by 257 and rounding; palette and CMYK files become RGB; grey is ITU-R 601 luma.
- Transparency is laid on the background colour *before* resizing, so that hidden pixels do not bleed into the edges.
- Another size is cropped at the centre, or padded, then resized with an antialiased Lanczos filter.
- Empty, truncated and unknown files, PNGs with a wrong checksum, files of floating-point pixels, and pictures of more
  than 2**26 pixels (decompression bombs) are unreadable: they are named, counted and left out. JPEG has no checksum, so
  a few damaged bytes in one can pass.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from trilemma.data.config import DataConfig

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 2**26

# Pillow's other plugins read rare formats, some of them by starting outside programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")
PNG_AND_JPEG = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2")
SUFFIXES = frozenset((*PNG_AND_JPEG, ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"))

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


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header. Raises ``ValueError`` or whatever Pillow raises where there is no image."""
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as shown, from the header alone."""
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def read_image(file: BinaryIO, size: tuple[int, int], config: DataConfig) -> tuple[Pixels, list[str]]:
    """Decode one file.

    Args:
        size: (height, width) to deliver.

    Returns:
        ``uint8 [C, H, W]``, C being 1 where ``config.color`` is grey and 3 otherwise, and in words what was done.

    Raises:
        Exception: decoders raise all sorts; `reason` puts it in a few words.
    """
    image = open_image(file)
    if image.format == "PNG":  # checksums are looked at only when asked, and that uses the image up
        image.verify()
        file.seek(0)
        image = open_image(file)
    mode, done = image.mode, []
    upright = UPRIGHT.get(_orientation(image))
    image.draft("", (2 * max(size), 2 * max(size)))  # lets JPEG skip detail that the resizing would throw away
    image.load()
    if upright is not None:
        image = image.transpose(upright)
        done.append("turned upright by their EXIF tag")
    if mode.startswith("I"):
        image = _eight_bits(image)
        done.append("16-bit, scaled to 8 bits")
    elif mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    elif mode == "CMYK":
        done.append("CMYK, converted to RGB")
    if image.has_transparency_data:
        image, seen_through = on_background(image, config.background)
        if seen_through:
            done.append(f"transparent, laid on {config.background}")
    image = image.convert("L" if config.color == "grey" else "RGB")
    if (image.height, image.width) != size:
        enlarged = image.height < size[0] or image.width < size[1]
        done.append("enlarged" if enlarged else "reduced")
        image = resize(image, size, config)
    return channels_first(np.asarray(image)), done


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
    return lines[0][:80] if lines else type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken tag must not cost the picture
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside 0 to 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
