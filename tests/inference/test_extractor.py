"""The extractor gives the features of an evaluation, takes pictures of every kind, and says what it cannot take."""

import shutil
from itertools import product

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_jobs import TINY, configured, untrained_run
from torch.nn import functional as F

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.data.io import read_image
from torchreid_xres.data.native import native_rate
from torchreid_xres.engine.base import LAST
from torchreid_xres.inference import Extractor
from torchreid_xres.jobs.extraction import run_features
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.sr_reid import SRReID

# What they make is no feature of an identity.
RESTORERS = {"prpr_restorer", "dgrl_restorer", "hourglass_vehicle20"}


def test_every_registered_model_is_tried(methods):
    assert set(methods) | RESTORERS == {*MODELS, "osnet_x0_25"}


def test_features_are_those_of_the_evaluation(method, methods, run_of, tiny_root):
    folder = run_of(method)
    expected = run_features(folder, ("query", "gallery"))
    by_size = Extractor(folder, full_size=(64, 32), batch_size=5)
    told = Extractor(folder, batch_size=18)
    for role, found in expected.items():
        pictures = [
            degrade_image(read_image(tiny_root / name), rate)
            for name, rate in zip(found.names, found.rate.tolist(), strict=True)
        ]
        wanted = found.features
        if methods[method].get("test.normalize_feature"):  # an evaluation normalises when it ranks
            wanted = F.normalize(wanted, dim=1)
        if role == "query":
            assert (found.rate > 1).all() and len(set(found.rate.tolist())) > 1
        # The same pixels through the same layers; batches of another size change the order of sums.
        close = {"rtol": 1e-4, "atol": 1e-4 * wanted.abs().max().item()}
        torch.testing.assert_close(told(pictures, rates=found.rate.tolist(), role=role), wanted, **close)
        torch.testing.assert_close(by_size(pictures), wanted, **close)


@pytest.fixture(scope="module")
def extractor(run_of):
    return Extractor(run_of("sr_reid"), full_size=(64, 32))


@pytest.fixture
def picture():
    """Portrait format, 64x32, every pixel another one."""
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def test_every_kind_of_picture_gives_the_same_feature(extractor, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    planes = torch.from_numpy(array.copy()).permute(2, 0, 1)
    same = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, array, planes, planes / 255]
    found = extractor(same)
    assert found.dtype == torch.float32 and not found.requires_grad and found.shape[0] == len(same)
    # Where a row lies in memory decides how its sums are ordered.
    close = {"rtol": 0, "atol": 1e-4 * found.abs().max().item()}
    torch.testing.assert_close(found, found[:1].expand_as(found), **close)
    torch.testing.assert_close(extractor(picture), extractor(planes[None]), **close)
    assert extractor(picture).shape == found[:1].shape
    blue_first = extractor(array[..., ::-1])
    assert not torch.allclose(blue_first, found[:1], rtol=1e-3)


def test_order_and_batches(extractor, picture):
    pictures = [picture.resize((width, 2 * width)) for width in (32, 7, 40, 16, 8)]
    whole = extractor(pictures)
    extractor.batch_size, held = 2, extractor.batch_size
    try:
        torch.testing.assert_close(extractor(iter(pictures)), whole, rtol=1e-4, atol=1e-5)
    finally:
        extractor.batch_size = held
    assert len({tuple(row.tolist()) for row in whole}) == len(pictures)


def test_only_low_resolution_meets_the_front_end(run_of, picture):
    extractor, passed = Extractor(run_of("sr_reid"), full_size=(64, 32)), []
    extractor.model.front_end.register_forward_hook(lambda *_: passed.append(True))
    for side, low in ((32, False), (23, False), (22, True), (16, True), (1, True)):
        passed.clear()
        extractor(picture.resize((side, 2 * side)))
        assert bool(passed) == extractor.is_low((2 * side, side)) == low, side
    # Small in one direction only, and not in area.
    assert not extractor.is_low((128, 16))
    # The network's input, 32x16, is what counts where nobody says more.
    assert not Extractor(run_of("sr_reid")).is_low((32, 16))
    assert native_rate((32, 16), (64, 32)) == 2


def test_search_and_evaluation_agree_on_a_set_without_a_low_side(tmp_path, monkeypatch):
    for part, people in (("train", range(8)), ("query", range(8, 12)), ("test", range(8, 12))):
        (tmp_path / "MTA_reid" / part).mkdir(parents=True)
        for person, camera in product(people, range(3)):
            width = (8, 11, 12, 40)[(person + camera) % 4]  # at 32x16, 11x22 are low and 12x24 are not
            noise = np.random.default_rng((person, camera)).integers(0, 256, (2 * width, width, 3), dtype=np.uint8)
            name = f"framegta_0_camid_{camera}_pid_{person}.png"
            PIL.Image.fromarray(noise).save(tmp_path / "MTA_reid" / part / name)
    sets = {
        "data.sources": ["mta_reid"],
        "data.targets": ["mta_reid"],
        "data.options.mta_reid": {"check_counts": False},
    }
    folder = untrained_run(configured(TINY | sets, tmp_path, tmp_path / "run", {}), tmp_path / "run")
    passed, restore = [], SRReID.restore
    monkeypatch.setattr(SRReID, "restore", lambda self, img: (passed.append(len(img)), restore(self, img))[1])
    extractor = Extractor(folder, batch_size=1)
    for found in run_features(folder, ("query", "gallery")).values():
        low = [extractor.is_low(size) for size in found.size.tolist()]
        assert found.low.tolist() == low and sum(low) == 6
    assert sum(passed) == 12
    pictures = [tmp_path / "MTA_reid" / name for name in found.names]
    torch.testing.assert_close(extractor(pictures), found.features, rtol=1e-4, atol=1e-4)
    assert sum(passed) == 18


def test_a_low_picture_of_unknown_rate_is_low_by_nature(run_of, picture):
    """As in a data set with a natural gap: rate 1 and low; with a full size it was down-sampled."""
    folder = run_of("dgrl")
    small = [Extractor(folder).prepare(picture.resize((8, 16)))]
    assert Extractor(folder)._batch(small, None, "")["rate"].tolist() == [1.0]
    assert Extractor(folder)._batch(small, None, "")["low"].tolist() == [True]
    assert Extractor(folder, full_size=(64, 32))._batch(small, None, "")["rate"].tolist() == [4.0]


def test_restored_pictures_are_shown_where_there_is_a_front_end(run_of, picture):
    for name, size in (("sr_reid", (16, 32)), ("osnet_x0_25", None)):
        extractor = Extractor(run_of(name))
        shown = extractor.restored(extractor.prepare(picture.resize((5, 9))))
        assert (shown and shown.size) == size


@pytest.mark.slow
def test_extreme_sizes(method, run_of):
    if method in ("hrnet_reid", "psh_rnet", "osnet_x0_25"):
        pytest.skip("like sr_reid, it takes images at the network's size only")
    sizes = [(1, 1), (10_000, 3), (3, 10_000), (900, 1800)]
    found = Extractor(run_of(method))([PIL.Image.new("RGB", size, "olive") for size in sizes])
    assert torch.isfinite(found).all()


def test_every_method_takes_the_statistics_of_ones_own_pictures(method, run_of, tiny_root, tmp_path):
    pictures = sorted(tiny_root.glob("gallery/*/*.png"))
    extractor = Extractor(run_of(method))
    before = extractor(pictures)
    own = extractor.with_own_statistics(pictures, tmp_path / "own.pth.tar")
    found = own(pictures)
    assert found.shape == before.shape and not torch.allclose(found, before, rtol=1e-2)
    assert torch.equal(extractor(pictures), before)  # which stays as it is
    again = Extractor(tmp_path / "own.pth.tar", config=extractor.cfg)
    assert torch.equal(again(pictures), found) and again.about == own.about


def test_grey_of_fewer_bits_is_read_as_in_the_data_set(extractor, tmp_path, monkeypatch):
    PIL.Image.fromarray(np.full((64, 32), 1023, np.uint16)).save(tmp_path / "a.png")
    monkeypatch.setitem(extractor.cfg.data, "grey_bits", 10)
    white = PIL.Image.new("RGB", (32, 64), "white")
    assert torch.equal(extractor.prepare(tmp_path / "a.png").pixels, extractor.prepare(white).pixels)


def test_a_photo_is_turned_as_its_exif_says(extractor, picture, tmp_path):
    turned, exif = picture.transpose(PIL.Image.Transpose.ROTATE_90), PIL.Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert PIL.Image.open(tmp_path / "a.png").size == (64, 32)
    assert torch.equal(extractor(tmp_path / "a.png"), extractor(picture))
    assert torch.equal(extractor(PIL.Image.open(tmp_path / "a.png")), extractor(picture))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((4, 4, 3)), ValueError, "uint8 .H, W, 3., RGB, not float64"),
        (np.zeros((4, 4), dtype=np.uint8), ValueError, r"not uint8 \(4, 4\)"),
        (torch.full((3, 4, 4), 2.0), ValueError, "not normalised; it goes from 2 to 2"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "it goes from nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), ValueError, "not int64"),
        (torch.zeros(1, 4, 4), ValueError, r"not \(1, 4, 4\)"),
        ([3], TypeError, "not int"),
        ([], ValueError, "no pictures"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg: there is no such image file"),
    ],
)
def test_what_is_no_picture_is_refused(extractor, wrong, error, message):
    with pytest.raises(error, match=message):
        extractor(wrong)


def test_rates_must_fit(extractor, picture):
    with pytest.raises(ValueError, match="3 rates for 2 pictures"):
        extractor([picture, picture], rates=[1, 2, 3])
    with pytest.raises(ValueError, match="a rate is a number of at least 1"):
        extractor(picture, rates=0.5)


def test_checkpoints_of_the_host_and_of_a_run(run_of, picture, tmp_path):
    folder = run_of("osnet_x0_25")
    expected = Extractor(folder)(picture)
    loose = shutil.copy(folder / LAST, tmp_path / "loose.pth")
    with pytest.raises(FileNotFoundError, match="lies in no folder of a run"):
        Extractor(loose)
    by_config = Extractor(loose, config=folder / "config.yaml")
    by_name = Extractor.of_host("osnet_x0_25", loose, size=(32, 16), precision="fp32")
    in_run = Extractor(folder / LAST)
    assert torch.equal(by_config(picture), expected) and torch.equal(in_run(picture), expected)
    torch.testing.assert_close(F.normalize(by_name(picture), dim=1), expected)
    assert by_name.about["weights_sha256"] == in_run.about["weights_sha256"]
    assert by_config.about == in_run.about


def test_untrained_classifiers_do_not_tell_two_copies_apart(run_of):
    torch.manual_seed(1)
    one = Extractor(run_of("sr_reid"))
    torch.manual_seed(2)
    assert Extractor(run_of("sr_reid")).about == one.about


def test_files_of_weights_may_be_gone_and_weights_that_are_numbers_count(run_of, picture):
    plain = Extractor(run_of("msifla", model__reid_weights="gone.pth"))
    weighted = Extractor(run_of("msifla", model__options={"widths": [4, 8], "scale_weights": [1.0, 1.0, 4.0]}))
    assert "scale_weights" in weighted.about["options"] and "reid_weights" not in plain.about["options"]
    lengths = weighted(picture).view(3, -1).norm(dim=1)
    assert lengths[2] > 1.5 * plain(picture).view(3, -1).norm(dim=1)[2]


def test_it_says_what_it_cannot_use(run_of, tmp_path):
    folder = run_of("sr_reid")
    for arguments, kwargs, error, message in (
        ((tmp_path / "nowhere",), {}, FileNotFoundError, "there is no run or checkpoint at"),
        ((folder.parent,), {}, FileNotFoundError, f"there are runs in .*{folder.name}"),
        ((tmp_path,), {}, FileNotFoundError, "no folder of a run"),
        ((folder / LAST,), {"config": run_of("dgrl") / "config.yaml"}, ValueError, "does not fit DGRL"),
        ((folder / LAST,), {"config": tmp_path / "no.yaml"}, ConfigError, "no configuration file"),
        ((folder,), {"device": "tpu"}, ValueError, "the device 'tpu' cannot be used"),
        ((folder,), {"precision": "fp8"}, ValueError, "not one of auto, fp32, bf16, bf16_unchecked, fp16"),
        ((folder,), {"precision": "fp16", "device": "cpu"}, ValueError, "fp16 needs a GPU"),
        ((folder,), {"batch_size": 0}, ValueError, "batch_size is 0"),
        ((folder,), {"full_size": (0, 3)}, ValueError, "full_size is a height and a width"),
    ):
        with pytest.raises(error, match=message):
            Extractor(*arguments, **kwargs)
    with pytest.raises(ValueError, match="torchreid has no network 'sr_reid'"):
        Extractor.of_host("sr_reid", folder / LAST)


def test_a_restorer_describes_nobody(run_of, tmp_path, picture):
    """A stage's folder may hold a network that is no re-ID network."""
    small = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
    cfg = load_config(None, ["model.name", "dgrl_restorer", "sr.name", "rcan", "sr.options", str(small)])
    model = build_model("dgrl_restorer", **small)
    checkpoint.save_atomic({"models": {"model": model.state_dict()}}, tmp_path / LAST)
    with pytest.raises(ValueError, match="dgrl_restorer describes no identities"):
        Extractor(tmp_path / LAST, config=cfg)(picture)


def test_bf16_is_near_fp32(run_of, picture):
    folder = run_of("sr_reid")
    exact, rounded = (Extractor(folder, precision=p)(picture) for p in ("fp32", "bf16"))
    assert not torch.equal(exact, rounded)
    assert F.cosine_similarity(exact, rounded).item() > 0.99
