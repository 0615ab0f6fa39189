"""Cross-resolution re-identification for torchreid: importing this package registers all it adds."""

from torchreid_xres import data, engine, host, host_mends, jobs, metrics, models, sr
from torchreid_xres.data import datasets
from torchreid_xres.version import __version__


def _register() -> None:
    """Mend the host and enter our models and data sets into it; doing so again changes nothing."""
    host_mends.apply()
    for name in models.MODELS:
        host.register_model(name, models.host_builder(name))
    for name in data.DATASETS:
        host.register_image_dataset(name, data.DATASETS[name].build)


_register()

__all__ = ["__version__", "data", "datasets", "engine", "host", "host_mends", "jobs", "metrics", "models", "sr"]
