"""Kiln: from a manifest to a tested, versioned image for NVIDIA enroot."""

__version__ = "0.1.0"
