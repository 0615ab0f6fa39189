"""Whatever a configuration file holds: a configuration, or a ConfigError."""

import json

import pytest
import yaml
from yacs.config import CfgNode

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st

from torchreid_xres.config import ConfigError, as_dict, config_hash, config_text, load_config
from torchreid_xres.config_keys import get_config


def keys_of(node, prefix=()):
    for name, value in node.items():
        yield (*prefix, name)
        if isinstance(value, CfgNode):
            yield from keys_of(value, (*prefix, name))


KEYS = sorted(keys_of(get_config()))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.dates() | st.binary(max_size=4) | st.sampled_from(["{first}", "{root}", "1e-3", "bf16", "fp16", "restore"])
)  # fmt: skip
names = scalars | st.sampled_from([name for key in KEYS for name in key]) | st.sampled_from(["_BASE_", "stages"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def nested(key, value):
    for name in reversed(key):
        value = {name: value}
    return value


def accepts(path, overrides=()):
    try:
        cfg = load_config(path, overrides)
    except ConfigError as error:
        assert str(error)
        return False
    config_hash(cfg)
    (path.parent / "again.yaml").write_text(config_text(cfg), encoding="utf-8")
    assert json.dumps(as_dict(load_config(path.parent / "again.yaml")), sort_keys=True) == json.dumps(
        as_dict(cfg), sort_keys=True
    )
    return True


@given(key=st.sampled_from(KEYS), value=values)
@example(key=("stages",), value={1: {"train": {"lr": 1}}})
@example(key=("stages",), value={"first": [1]})
@example(key=("stages",), value={"first": {"stages": {"second": {}}}})
@example(key=("test", "expected"), value={"folder": {"rank1": float("nan")}})
@example(key=("data", "rates"), value=[float("nan")])
@example(key=("data", "options"), value={"folder": {"since": yaml.safe_load("2020-01-01")}})
@example(key=("sr", "options"), value={1: 2})
@example(key=("train",), value={2: 3})
@example(key=("train", "max_epoch"), value=True)
def test_any_value_under_any_key(tmp_path, key, value):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(nested(key, value), allow_unicode=True), encoding="utf-8")
    accepts(path)


@given(content=values)
@example(content={"_BASE_": None})
@example(content={"_BASE_": ["a.yaml"]})
@example(content={"_BASE_": "."})
@example(content={"_BASE_": "\0"})
@example(content={"_BASE_": "x" * 5000})
def test_any_yaml(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    accepts(path)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
@example(content=b"a: [1")
@example(content=b"\xff\xfe")
@example(content=b"train: {lr: !!python/object/apply:os.system [false]}")
@example(content=b"train: {lr: 2020-99-99}")
@example(content=b"train: {lr: !!int x}")
@example(content=b"? [a]\n: 1")
@example(content=b"? {a: 1}\n: 1")
@example(content=b"a: &a [*a]")
@example(content=b"stages: &a {first: {stages: *a}}")
@example(content=b"model: {options: &a {x: *a}}")
@example(content=b"train: !!binary '?'")
@example(content=b"[" * 1000)
def test_any_bytes(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    accepts(path)


@given(key=st.sampled_from([".".join(key) for key in KEYS]) | st.text(max_size=10), value=st.text(max_size=10) | values)
@example(key="", value="1")
@example(key="train.lr.x", value="1")
@example(key="stages.first", value="[")
@example(key="train.max_epoch", value="2020-13-45")
def test_any_override(tmp_path, key, value):
    path = tmp_path / "a.yaml"
    path.write_text("", encoding="utf-8")
    accepts(path, [key, value])
