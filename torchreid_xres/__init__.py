"""Cross-resolution re-identification for torchreid: importing this package registers all it adds."""

__version__ = "0.1.0"
