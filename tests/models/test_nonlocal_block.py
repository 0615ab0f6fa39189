"""The non-local block against its sum over pixels."""

import torch

from torchreid_xres.models.nonlocal_block import NonLocal


@torch.no_grad()
def test_the_non_local_block_is_its_formula():
    net, x = NonLocal(4, width=2), torch.randn(1, 4, 3, 2)
    net.out[1].weight.fill_(1.0)
    net.eval()
    theta, phi, g = (layer(x)[0].flatten(1) for layer in (net.theta, net.phi, net.g))
    y = torch.zeros(2, 6)
    for i in range(6):
        for j in range(6):
            y[:, i] += float(theta[:, i] @ phi[:, j]) * g[:, j] / 6
    torch.testing.assert_close(net(x), net.out(y.view(1, 2, 3, 2)) + x)
