"""RCAN with a tail for each rate: what is shared, and which image takes which tail."""

import pytest
import torch

from torchreid_xres.models.dgrl_restorer import RateRestorer, seen_rate

TINY_SR = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}


def test_rates_share_all_but_the_tail():
    net = RateRestorer(**TINY_SR)
    whole = [sum(p.numel() for p in part.parameters()) for part in (net.nets["x2"].head, net.nets["x2"].body)]
    tails = [sum(p.numel() for p in n.tail.parameters()) for n in net.nets.values()]
    assert sum(p.numel() for p in net.parameters()) == sum(whole) + sum(tails)
    again = RateRestorer(**TINY_SR)
    again.load_state_dict(net.state_dict())
    assert again.nets["x4"].body is again.nets["x2"].body


@torch.no_grad()
def test_each_rate_goes_to_the_nearest_tail():
    net = RateRestorer(**TINY_SR).eval()
    assert [net.tail_of(rate) for rate in (1.0, 1.2, 1.5, 2.0, 2.4, 3.0, 4.0, 9.0)] == [1, 1, 2, 2, 2, 3, 4, 4]
    x = torch.rand(1, 3, 24, 12)
    assert net(x, 3.0).shape == (1, 3, 72, 36) and net(x, 3.0, size=(64, 32)).shape == (1, 3, 64, 32)
    torch.testing.assert_close(net(x, 4.0), net.nets["x4"](x))
    torch.testing.assert_close(net(x, 1.0), x)


def test_an_image_that_is_as_large_as_wanted_has_nothing_to_restore():
    net = RateRestorer(**TINY_SR)
    assert net.tail_of(2.0, (64, 32), (64, 32)) == 1
    assert net.tail_of(2.0, (64, 31), (64, 32)) == 2


def test_what_is_low_by_nature_is_as_much_lower_as_it_is_narrower():
    assert seen_rate(1.0, True, (96, 53), 128) == pytest.approx(128 / 53)
    assert seen_rate(4.0, True, (60, 40), 128) == 4.0
    assert seen_rate(1.0, False, (100, 60), 128) == 1.0
