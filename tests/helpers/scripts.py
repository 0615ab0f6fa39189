"""Scripts that are no part of the package, as modules."""

import importlib.util


def script(path):
    """Return the script at a path as a module, which cannot be imported by its name."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
