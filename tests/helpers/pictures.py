"""Pictures from which a front end can learn something: as natural ones, they have less the finer it is."""

import torch


def clouds(count, height, width):
    """Return (count, 3, height, width) in [0, 1], the same each time, of a spectrum that falls as 1/f."""
    drawn = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    across, down = (torch.fft.fftfreq(side) for side in (width, height))
    amplitude = (down[:, None] ** 2 + across**2).sqrt().clamp(min=1 / max(height, width)).reciprocal()
    picture = torch.fft.ifft2(torch.fft.fft2(drawn) * amplitude).real
    return (0.5 + 0.2 * picture / picture.std()).clamp(0, 1)
