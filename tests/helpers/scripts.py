"""Scripts that are no part of the package, as modules."""

import importlib.util
import sys


def script(path):
    """Return the script at a path as a module; as when it is run, it can import its neighbours."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
