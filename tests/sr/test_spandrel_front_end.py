"""spandrel's networks: by name at the published sizes, from checkpoints, and what is refused."""

import copy
import logging
import sys

import pytest
import torch

from torchreid_xres.sr import build_front_end
from torchreid_xres.sr.base import resize
from torchreid_xres.sr.rcan import RCAN
from torchreid_xres.sr.spandrel import architectures

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

SMALL = {
    "RCAN": {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16},
    "SwinIR": {"embed_dim": 12, "depths": [2], "num_heads": [2], "img_size": 16},
    "OmniSR": {"num_feat": 16, "res_num": 1},
    "SAFMN": {"dim": 16, "n_blocks": 2},
    "SPAN": {"feature_channels": 8},
    "Compact": {"num_feat": 8, "num_conv": 2},
    "HAT": {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "squeeze_factor": 3},
    "ESRGAN": {"num_filters": 16, "num_blocks": 1},
    "PLKSR": {"dim": 16, "n_blocks": 1},
}


@pytest.fixture
def spandrel():
    return pytest.importorskip("spandrel", reason="spandrel is missing: pip install torchreid_xres[sr]")


def build_small(arch, **more):
    return build_front_end("spandrel", arch=arch, **SMALL[arch], **more)


@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("RCAN", "15.59"),
        ("SwinIR", "11.90"),
        ("OmniSR", "0.81"),
        ("SAFMN", "0.24"),
        ("SPAN", "2.24"),
        ("Compact", "0.62"),
        ("HAT", "20.77"),
    ],
)
def test_by_name_the_sizes_are_the_published_ones(spandrel, arch, millions):
    front_end = build_front_end("spandrel", arch=arch)
    assert f"{sum(p.numel() for p in front_end.parameters()) / 1e6:.2f}" == millions
    assert front_end.scale == 4 and not front_end.pre_upsampled


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("scale", [2, 4])
def test_a_checkpoint_of_spandrels_own_class_becomes_a_front_end(spandrel, arch, scale, tmp_path):
    net = build_small(arch, scale=scale).model.eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    front_end = build_front_end("spandrel", scale=scale, weights=tmp_path / "net.pth").eval()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = net(x.clone()).clamp(0, 1)
        torch.testing.assert_close(front_end(x), expected)
    # What spandrel itself makes of the file, through its own inference path.
    descriptor = spandrel.ModelLoader().load_from_file(tmp_path / "net.pth")
    torch.testing.assert_close(front_end(x), descriptor(x.clone()).clone())


def test_a_front_end_is_found_again_in_its_own_checkpoint(spandrel, tmp_path):
    for arch in ("RCAN", "ESRGAN"):
        saved = build_small(arch).eval()
        torch.save(saved.state_dict(), tmp_path / "saved.pth")
        found = build_front_end("spandrel", weights=tmp_path / "saved.pth").eval()
        x = torch.rand(1, 3, 8, 8)
        assert torch.equal(found(x), saved(x))


def test_our_rcan_equals_spandrels(spandrel, tmp_path):
    theirs = build_small("RCAN").eval()
    torch.save(theirs.model.state_dict(), tmp_path / "rcan.pth")
    ours = build_front_end("rcan", groups=1, blocks=2, features=16, weights=tmp_path / "rcan.pth").eval()
    x = torch.rand(2, 3, 9, 14, dtype=torch.float64)
    torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=0, atol=1e-6)  # mean colours are single
    assert isinstance(ours, RCAN)


def test_networks_that_do_not_magnify_work_on_the_enlarged_image(spandrel):
    restorer = build_front_end("spandrel", scale=3, arch="NAFNet", enc_blk_nums=[1], dec_blk_nums=[1])
    assert restorer.pre_upsampled
    assert restorer(torch.rand(1, 3, 5, 7)).shape == (1, 3, 15, 21)


def test_residual_adds_the_bicubic_image(spandrel):
    x = torch.rand(2, 3, 9, 6)
    bare = build_small("SPAN", scale=3)
    added = build_small("SPAN", scale=3, residual=True)
    added.load_state_dict(bare.state_dict())
    torch.testing.assert_close(added(x, (30, 20)), bare(x, (30, 20)) + resize(x, (30, 20)))


def test_grey_networks_see_luminance(spandrel):
    denoiser = build_front_end("spandrel", arch="DnCNN", nc=8)
    assert denoiser.channels == 1
    assert denoiser(torch.rand(1, 3, 5, 7), (16, 8)).shape == (1, 3, 16, 8)


@pytest.mark.parametrize(("arch", "fixed"), [("SPAN", "eval_conv"), ("RCAN", "_mean")])
def test_parameters_that_no_loss_reaches_are_not_offered_to_the_optimiser(spandrel, arch, fixed):
    front_end = build_small(arch)
    off = {name for name, p in front_end.named_parameters() if not p.requires_grad}
    assert off and off == {name for name, _ in front_end.named_parameters() if fixed in name}


def test_kernels_kept_merged_say_the_same_and_are_written_no_more(spandrel):
    front_end, x = build_small("SPAN").eval(), torch.rand(2, 3, 9, 6)
    merged = copy.deepcopy(front_end)
    merged.keep_merged()
    kernel = merged.model.block_1.c1_r.eval_conv.weight
    place = kernel.data_ptr()
    with torch.no_grad():
        assert torch.equal(merged(x), front_end(x))
    assert kernel.data_ptr() == place


def test_building_twice_inside_shifts_no_seed(spandrel):
    build_small("SAFMN")
    after_front_end = torch.rand(1)
    torch.manual_seed(0)
    architectures()["SAFMN"](**SMALL["SAFMN"])
    assert torch.equal(after_front_end, torch.rand(1))


def test_options_that_no_checkpoint_tells_are_warned_of(spandrel, caplog):
    with caplog.at_level(logging.WARNING, logger="torchreid_xres"):
        build_small("RCAN")
        assert not caplog.records
        build_small("RCAN", rgb_range=1)
    assert "RCAN: a checkpoint does not tell rgb_range" in caplog.text


def test_every_architecture_is_listed(spandrel):
    assert {"RCAN", "SwinIR", "OmniSR", "SAFMN", "SPAN", "Compact", "HAT", "RealPLKSR"} <= set(architectures())


def test_errors_name_what_is_allowed(spandrel, tmp_path):
    with pytest.raises(ValueError, match="weights=<a checkpoint> or arch=<a name>"):
        build_front_end("spandrel")
    with pytest.raises(ValueError, match=r"no architecture 'swinir'; did you mean 'SwinIR'\? There are: ATD"):
        build_front_end("spandrel", arch="swinir")
    with pytest.raises(TypeError, match="SAFMN takes no option width; its options: dim, n_blocks"):
        build_front_end("spandrel", arch="SAFMN", width=3)
    with pytest.raises(TypeError, match="SAFMNBCIE needs dim"):
        build_front_end("spandrel", arch="SAFMNBCIE")
    with pytest.raises(ValueError, match="UpCunet2x magnifies by 2, not by 4"):
        build_front_end("spandrel", arch="UpCunet2x")
    with pytest.raises(ValueError, match="fills masks"):
        build_front_end("spandrel", arch="LaMa")

    torch.save(build_small("SAFMN", scale=2).model.state_dict(), tmp_path / "x2.pth")
    with pytest.raises(ValueError, match=r"x2\.pth magnifies by 2, not by 4"):
        build_front_end("spandrel", weights=tmp_path / "x2.pth")
    with pytest.raises(TypeError, match=r"\['dim'\] go with arch"):
        build_front_end("spandrel", weights=tmp_path / "x2.pth", dim=16)
    with pytest.raises(ValueError, match=r"x2\.pth does not fit SpandrelFrontEnd\(SAFMN"):
        build_front_end("spandrel", scale=2, arch="SAFMN", dim=20, weights=tmp_path / "x2.pth")


def test_a_checkpoint_that_looks_like_a_known_one_but_is_broken_is_refused(spandrel, tmp_path):
    state = build_small("SAFMN").model.state_dict()
    del state["feats.1.norm1.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"cut\.pth looks like one .*feats\.1\.norm1\.weight"):
        build_front_end("spandrel", weights=tmp_path / "cut.pth")


def test_an_unknown_architecture_gets_a_clear_error(spandrel, shared_data):
    with pytest.raises(ValueError, match=r"does not know the architecture of .*rfdn_x4\.pth .* It knows: ATD"):
        build_front_end("spandrel", weights=shared_data / "weights" / "sr" / "rfdn_x4.pth")


def test_without_spandrel_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ImportError, match=r"pip install 'torchreid_xres\[sr\]'"):
        build_front_end("spandrel", arch="RCAN")
