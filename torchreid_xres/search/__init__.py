"""The search in an archive: galleries, what they learn from themselves, and what their hits mean."""

from torchreid_xres.search.gallery import Gallery, Hit, Update

__all__ = ["Gallery", "Hit", "Update"]
