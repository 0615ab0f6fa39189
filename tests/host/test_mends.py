"""The table of mends itself: put in once, taken out whole, every mend with a test of its own."""

import inspect
import re
from pathlib import Path
from types import FunctionType

import pytest

from torchreid_xres import host, host_mends
from torchreid_xres.host_mends import MENDS, bare_host, table


def state():
    """Everything a mend could replace: what the host's modules and their classes bind."""
    found = {}
    for module in host.modules():
        for name, held in vars(module).items():
            found[module.__name__, name] = id(held)
            if inspect.isclass(held) and held.__module__ == module.__name__:
                found.update({(module.__name__, name, k): id(v) for k, v in vars(held).items() if k != "__doc__"})
    return found


def test_apply_is_idempotent():
    before = state()
    host_mends.apply()
    assert state() == before


def test_bare_host_takes_out_all_and_puts_all_back():
    keys = set(state())
    with bare_host():
        bare = state()
        for mend in MENDS.values():
            for target in mend.targets:
                original, _ = table._find(target, mend.within)
                assert not getattr(original, "__module__", "").startswith("torchreid_xres"), target
        with bare_host():
            assert state() == bare
        assert state() == bare
    assert set(state()) == keys
    for mend in MENDS.values():
        for target in mend.targets:
            path, _, dotted = target.partition(":")
            if not mend.within:
                key = (host.module(path).__name__, *dotted.split("."))
                assert state()[key] != bare.get(key), target


def test_functions_are_replaced_wherever_the_host_bound_them():
    with bare_host():
        bare = host.torchreid.utils.read_image
    bound = [host.torchreid.utils, host.module("utils.tools"), host.module("data.datasets.dataset")]
    assert len({id(module.read_image) for module in bound}) == 1
    assert not any(held is bare for module in host.modules() for held in vars(module).values())


def test_what_cannot_be_put_in_leaves_the_host_bare(monkeypatch):
    with bare_host():
        bare = state()
        odd = table.Mend("odd", "a host that moved", ("engine.engine:Engine.gone",), lambda original: original)
        monkeypatch.setitem(MENDS, "odd", odd)
        with pytest.raises(RuntimeError, match=r"no engine\.engine:Engine\.gone.*'odd'"):
            host_mends.apply()
        assert state() == bare
        monkeypatch.delitem(MENDS, "odd")


@pytest.mark.parametrize("mend", MENDS.values(), ids=MENDS)
def test_replacements_take_the_arguments_of_the_original(mend):
    for target in mend.targets:
        with bare_host():
            original, _ = table._find(target, mend.within)
        if not isinstance(original, FunctionType):
            continue
        theirs = list(inspect.signature(original).parameters.values())
        ours = list(inspect.signature(mend.make(original), follow_wrapped=False).parameters.values())
        if ours[-1].kind is inspect.Parameter.VAR_KEYWORD:
            continue  # takes all
        assert [p.name for p in ours] == [p.name for p in theirs]
        for our, their in zip(ours, theirs, strict=True):
            assert their.default is their.empty or our.default == their.default, our


def test_every_mend_names_its_fault_and_has_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert set(re.findall(r'mark\.mend\("([\w-]+)"\)', tests)) == set(MENDS)
    for mend in MENDS.values():
        assert re.search(r"\w+/\w+\.py:\d+", mend.fault) and "\n" not in mend.fault
