"""blobfs: an end-to-end encrypted folder whose files are fetched when used."""

__version__ = "0.1.0"
