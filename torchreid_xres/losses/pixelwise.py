"""The pixel-wise losses of images and heat maps, by the names that configurations give them."""

from __future__ import annotations

from torch.nn import functional as F

# Mean absolute and mean squared difference.
PIXELWISE = {"l1": F.l1_loss, "mse": F.mse_loss}
