"""Every front end at a tiny size; what every front end must do is tested on these."""

import pytest

from torchreid_xres.sr import FrontEnd, build_front_end

# Name of a case: the registered front end, and its options.
TINY = {
    "bicubic": ("bicubic", {}),
    "srcnn": ("srcnn", {"widths": (6, 4)}),
    "srcnn-rgb-residual": ("srcnn", {"widths": (6, 4), "channels": 3, "residual": True}),
    "fsrcnn": ("fsrcnn", {"features": 6, "shrunk": 4, "depth": 2}),
    "fsrcnn-rgb-x3": ("fsrcnn", {"features": 6, "shrunk": 4, "depth": 2, "channels": 3, "scale": 3}),
    "fsrcnn-residual": ("fsrcnn", {"features": 6, "shrunk": 4, "depth": 2, "residual": True}),
    "vdsr": ("vdsr", {"depth": 4, "features": 6}),
    "vdsr-rgb": ("vdsr", {"depth": 4, "features": 6, "channels": 3}),
    "vdsr_ca": ("vdsr_ca", {"depth": 4, "features": 6, "squeezed": 2}),
    "edsr": ("edsr", {"blocks": 2, "features": 6}),
    "edsr-x3-residual": ("edsr", {"blocks": 2, "features": 6, "scale": 3, "residual": True}),
    "edsr_baseline": ("edsr_baseline", {"blocks": 2, "features": 6}),
    "rcan": ("rcan", {"groups": 2, "blocks": 1, "features": 8, "reduction": 4}),
    "rcan-x2-residual": (
        "rcan",
        {"groups": 1, "blocks": 2, "features": 8, "reduction": 4, "scale": 2, "residual": True},
    ),
    "spandrel-RCAN": ("spandrel", {"arch": "RCAN", "n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}),
    "spandrel-SwinIR": (
        "spandrel",
        {"arch": "SwinIR", "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "img_size": 16},
    ),
    "spandrel-OmniSR": ("spandrel", {"arch": "OmniSR", "num_feat": 16, "res_num": 1}),
    "spandrel-SAFMN": ("spandrel", {"arch": "SAFMN", "dim": 16, "n_blocks": 2, "scale": 2}),
    "spandrel-SPAN": ("spandrel", {"arch": "SPAN", "feature_channels": 8}),
    "spandrel-Compact": ("spandrel", {"arch": "Compact", "num_feat": 8, "num_conv": 2, "scale": 3}),
    "spandrel-HAT": (
        "spandrel",
        {
            "arch": "HAT",
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
            "squeeze_factor": 3,
        },
    ),
    # Works at the size of its input; refuses sides that are no multiple of 4.
    "spandrel-NAFNet": ("spandrel", {"arch": "NAFNet", "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    # Takes one image at a time in evaluation.
    "spandrel-SeemoRe": ("spandrel", {"arch": "SeemoRe", "num_layers": 1, "num_experts": 2, "embedding_dim": 16}),
}


def build(case: str) -> FrontEnd:
    """Return the front end of a case; the test is skipped where it needs spandrel and that is missing."""
    name, options = TINY[case]
    if name == "spandrel":
        pytest.importorskip("spandrel", reason="spandrel is missing: pip install torchreid_xres[sr]")
    return build_front_end(name, **options)
