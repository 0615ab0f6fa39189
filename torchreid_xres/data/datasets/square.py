"""Sets whose images are first brought to a fixed square: the x8 vehicle protocols of KGNet."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch

from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.degrade import degrade_image, low_size, round_trip
from torchreid_xres.data.io import read_image

SIDE = 128


class SquareDataset(CrossResolutionDataset):
    """A set in which "as captured" means resized to 128 x 128, whatever the file's size and shape.

    So an image at rate 8 is 16 x 16 (KGNet, Section 4). Items are as in ``CrossResolutionDataset``.
    """

    rates = (8.0,)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, pid, camid, dsetid = self.data[index]
        rate = self.rate_of[path]
        low = rate != 1.0
        kernel = self.options["kernel"]
        img = read_image(path).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
        item = {"pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}
        item |= {"rate": rate, "role": self.mode, "low": low, "size": torch.tensor(low_size(SIDE, SIDE, rate))}
        if self.options["pairs"] and self.mode == "train":
            choices = (rate,) if low else self.options["pair_rates"]
            item["rate_lr"] = choices[int(torch.randint(len(choices), ()))]
            item["img_hr"] = self.transform(img)
            item["img_lr"] = round_trip(item["img_hr"], low_size(SIDE, SIDE, item["rate_lr"]), kernel)
            item["img"] = item["img_lr" if low else "img_hr"]
        else:
            img = degrade_image(img, rate, kernel)
            item["img"] = img if self.transform is None else self._transform_image(self.transform, self.k_tfm, img)
        return item
