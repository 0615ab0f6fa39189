"""The configurations that come with the package, found by name."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the configurations: in the package where it is installed, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Return the names of the configurations.

    Example:
        >>> "quickstart" in config_names()
        True
    """
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def named_config(name: str) -> Path | None:
    """Return the file of the configuration with a name, if there is one."""
    return config_folder() / f"{name}.yaml" if name in config_names() else None


def config_path(path: str | Path) -> Path:
    """Return the file that a user means: that at a path, or, where there is none, the configuration of that name.

    Example:
        >>> config_path("quickstart").name, config_path("my/quickstart.yaml").parts
        ('quickstart.yaml', ('my', 'quickstart.yaml'))
    """
    path = Path(path)
    if os.path.isdir(path) or not os.path.exists(path):  # which also take what no file can be called
        return named_config(str(path)) or path
    return path
