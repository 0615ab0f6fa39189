"""A query encoder beside a gallery, changed as a test needs it."""

from torchreid_xres.features.record import weights_hash
from torchreid_xres.inference.query_encoder import QueryEncoder


def with_threshold(folder, value):
    """Let the query encoder in a folder answer from another magnification on."""
    found = QueryEncoder.read(folder)
    found.state["threshold"].fill_(value)
    found.about.update(threshold=value, weights_sha256=weights_hash(found.state))
    found.save()
