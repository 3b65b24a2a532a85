"""Land-cover maps from image-level labels, with a sparse vision transformer."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sparsevit")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
