"""One image file: what it really is, how large, whether it decodes, and small pictures of it. Pillow only."""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

# What Pillow found in the bytes -> (mime, extension). The name a file came with is never believed.
KINDS = {
    "PNG": ("image/png", ".png"),
    "JPEG": ("image/jpeg", ".jpg"),
    "MPO": ("image/jpeg", ".jpg"),  # a JPEG with more pictures behind it, as phones write them
    "WEBP": ("image/webp", ".webp"),
    "GIF": ("image/gif", ".gif"),
    "BMP": ("image/bmp", ".bmp"),
    "TIFF": ("image/tiff", ".tif"),
}
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Browsers show the others as they are. TIFF they cannot show; a GIF would move, while the model sees one frame.
NEEDS_RENDITION = ("image/tiff", "image/gif")
THUMBNAIL_PX = 256
# No screen shows more of an image at once; a larger one is decoded too slowly to come up with a key press.
RENDITION_PX = 2048

# Pillow's decoders raise many kinds of error on hostile bytes; each means the same here.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnusableImage(ValueError):
    """These bytes cannot go in; the message is the reason people read."""


@dataclass(frozen=True)
class Inspected:
    """What an image is. width, height: pixels after the EXIF orientation. thumbnail, rendition: bytes and their
    extension, or None where the original does: it is small already, or any browser shows it at once."""

    mime: str
    extension: str
    width: int
    height: int
    thumbnail: tuple[bytes, str] | None
    rendition: tuple[bytes, str] | None


def inspect(file: IO[bytes], max_pixels: int) -> Inspected:
    """Decode the whole image once, because a header says nothing about what follows it. Raises UnusableImage.

    file: seekable. Memory: the decoded image, at most max_pixels x 4 bytes, and a small copy.
    """
    try:
        _verify(file)
        with _open(file) as image:
            return _inspect_open(image, max_pixels)
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        raise UnusableImage(_what_else(file)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage(f"more than {max_pixels:,} pixels") from None
    except _DECODER_ERRORS as error:
        raise UnusableImage(f"damaged: {str(error) or type(error).__name__}"[:200]) from None


def _what_else(file: IO[bytes]) -> str:
    """What these bytes are, when they are no image."""
    file.seek(0)
    start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"PK\x03\x04"):
        return "a zip inside; unpack it first"
    if start.startswith(b"<svg") or b"<svg" in start:
        return "SVG, which is a program as much as a picture; convert it to PNG"
    return "not an image of a known kind (PNG, JPEG, WebP, GIF, BMP, TIFF)"


def _open(file: IO[bytes]) -> Image.Image:
    file.seek(0)
    return Image.open(file, formats=READABLE)


def _verify(file: IO[bytes]) -> None:
    """Checksums, where the format has any; Pillow wants the file opened anew afterwards."""
    with _open(file) as image:
        image.verify()


def _inspect_open(image: Image.Image, max_pixels: int) -> Inspected:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise UnusableImage(f"{image.width} x {image.height} pixels; at most {max_pixels:,} pixels are taken")
    mime, extension = KINDS[image.format or ""]
    image.load()
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the orientations that swap the sides
    width, height = (image.height, image.width) if turned else image.size
    is_small = max(width, height) <= THUMBNAIL_PX
    thumbnail = rendition = None
    if mime in NEEDS_RENDITION or max(width, height) > RENDITION_PX:
        rendition = _picture(image, RENDITION_PX)
    if not is_small or mime in NEEDS_RENDITION:
        thumbnail = _picture(image, THUMBNAIL_PX)
    return Inspected(mime, extension, width, height, thumbnail, rendition)


def _picture(image: Image.Image, px: int) -> tuple[bytes, str]:
    """The image upright, at most px on each side. Leaves ``image`` as it is.

    WebP, small ones without loss; a large one without transparency as JPEG, which browsers decode in half the time.
    """
    small = image.copy() if max(image.size) <= px else image
    if small is image:
        small = _eight_bit(image) if image.mode[0] in "IF" else image
        scale = px / max(small.size)
        size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
        if small.mode in ("1", "P"):
            small = small.convert("RGBA" if "transparency" in small.info else "RGB")
        small = small.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        small.info, small._exif = dict(image.info), image.getexif()
    small = _eight_bit(ImageOps.exif_transpose(small))
    has_alpha = small.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in small.info
    out = io.BytesIO()
    clean = small.convert("RGBA" if has_alpha else "RGB")
    if px > THUMBNAIL_PX and max(clean.size) > THUMBNAIL_PX and not has_alpha:
        profile = image.info.get("icc_profile") if image.mode == "RGB" else None  # one of CMYK would colour it anew
        clean.save(out, "JPEG", quality=88, optimize=True, icc_profile=profile)
        return out.getvalue(), ".jpg"
    clean.save(out, "WEBP", quality=85, method=2, lossless=max(clean.size) <= 64)
    return out.getvalue(), ".webp"


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits brought to 0..255 by their own range; Pillow would clip them to white."""
    if image.mode[0] not in "IF":
        return image
    values = image.convert("F")
    low, high = values.getextrema()
    if not isinstance(low, float) or not isinstance(high, float) or not high > low:
        return Image.new("L", image.size)
    scale = 255.0 / (high - low)
    return values.point(lambda value: value * scale + -low * scale).convert("L")


def quietly_allow_large_images() -> None:
    """Leave the judgement of size to ``inspect``: Pillow's own warning starts below our limit."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
