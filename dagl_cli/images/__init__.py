"""Files to float arrays and back. Owns bit depth, alpha, ICC, EXIF, XMP, resolution and rounding. Loads no torch.

`formats` is the table; each family of formats has a module that is an entry there. Every failure is one `ImageError`.
"""

from .colour import srgb_profile
from .exif import iso_setting
from .exif import of_raw as raw_exif
from .formats import FORMATS, NAMES, SUFFIXES, is_image_path, result_suffix
from .image import Image, Metadata, Resolution
from .reading import assembled, load, pixels_of, read, read_errors, record
from .writing import check_target, encoded, file_of, levels, opened, put, write, write_errors

__all__ = [
    "FORMATS",
    "NAMES",
    "SUFFIXES",
    "Image",
    "Metadata",
    "Resolution",
    "assembled",
    "check_target",
    "encoded",
    "file_of",
    "is_image_path",
    "iso_setting",
    "levels",
    "load",
    "opened",
    "pixels_of",
    "put",
    "raw_exif",
    "read",
    "read_errors",
    "record",
    "result_suffix",
    "srgb_profile",
    "write",
    "write_errors",
]
