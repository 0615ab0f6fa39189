"""YAML as configurations have it: no key twice, no flood of values out of a few lines, ``1e9`` a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 100_000  # what a name (&) stands for counts wherever the name (*) is used

# YAML 1.1 takes a number with an exponent for text if it has no point, or the exponent no sign.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Return what a text in YAML says; nothing in it is run.

    Raises:
        ValueError: if it is no YAML, or has a key twice, a group within itself, or more than ``MOST_VALUES`` values.

    Example:
        >>> read_yaml("lr: [1e-3, 0.1]")
        {'lr': [0.001, 0.1]}
        >>> read_yaml("lr: 1\\nlr: 2")
        Traceback (most recent call last):
        ValueError: the key 'lr' is in line 1 and again in line 2
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_sound(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def write_yaml(content: Any) -> str:
    """Return what :func:`read_yaml` reads as ``content``; keys keep their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def _require_sound(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node stands for; ``sizes`` holds those of the nodes before, 0 of the ones around."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError(f"the group of line {node.start_mark.line + 1} is within itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    inner = list(node.value)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"the key {name!r} is in line {lines[name]} and again in line {line}")
            lines[name] = line
        inner = [part for pair in node.value for part in pair]
    size = 1 + sum(_require_sound(part, sizes) for part in inner)
    if size > MOST_VALUES:
        raise ValueError(f"line {node.start_mark.line + 1} stands for more than {MOST_VALUES} values")
    sizes[id(node)] = size
    return size
