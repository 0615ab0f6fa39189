"""The asymmetric model: who describes which image, what learns, and what is taken from files."""

import pytest
import tiny_net
import torch
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.image import resize
from torchreid_xres.inference.branches import sent_to
from torchreid_xres.models import build_model
from torchreid_xres.models.asymmetric import NEVER, Asymmetric, described

SMALL = {"pretrained": False, "reid": tiny_net.STAGED, "size": (32, 16)}
RCAN = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
DGRL = {"dim": 16, "groups": 3, "hidden": 8, "sr": "rcan", "sr_options": RCAN, "reid": tiny_net.STAGED}
# Methods of ours as gallery encoders.
OURS = {
    "sr_reid": {"reid": tiny_net.STAGED, "sr": "vdsr", "sr_options": {"depth": 3, "features": 4}},
    "msifla": {"widths": (4, 8), "reid": tiny_net.STAGED},
    "dgrl": DGRL,
    "kgnet": {"reid": tiny_net.STAGED, "kgr": False, "kga": False, "sr": "bicubic"},
}


def batch(*heights, role="query"):
    return {
        "img": torch.randn(len(heights), 3, 32, 16),
        "size": torch.tensor([[height, height // 2] for height in heights]),
        "low": torch.tensor([height < 32 for height in heights]),
        "rate": torch.tensor([max(1.0, 32 / height) for height in heights], dtype=torch.float64),
        "role": [role] * len(heights),
    }


def apart(model):
    """Let the query encoder differ from the gallery's."""
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return apart(Asymmetric(**SMALL))


@torch.no_grad()
def test_queries_go_by_their_magnification_and_the_gallery_never_does(model):
    model.threshold.fill_(2.5)
    data = batch(8, 13, 12, 64, 32)
    assert model.for_query(data).tolist() == [True, False, True, False, False]
    assert not model.for_query({**data, "role": ["gallery"] * 5}).any()
    assert model.for_query({**data, "role": [""] * 5}).tolist() == [True, False, True, False, False]
    assert not model.for_query({"img": data["img"]}).any()  # of a set of the host
    assert sent_to(model, data) == ["query", "gallery", "query", "gallery", "gallery"]
    said = model.extract(data)
    own, others = model(data["img"]), model.gallery(data["img"])
    wanted = torch.where(model.for_query(data)[:, None], own, others)
    torch.testing.assert_close(said, wanted)
    assert not torch.allclose(own, others, atol=0.1)


@torch.no_grad()
def test_a_sharp_query_has_the_very_feature_of_the_gallery_encoder(model):
    model.threshold.fill_(1.5)
    data = batch(64, 32, 22)
    assert torch.equal(model.extract(data), model.gallery(data["img"]))
    gallery = batch(4, 8, 64, role="gallery")
    assert torch.equal(model.extract(gallery), model.gallery(gallery["img"]))


@torch.no_grad()
def test_a_threshold_beyond_all_leaves_every_query_to_the_gallery_encoder(model):
    model.threshold.fill_(NEVER)
    assert not model.for_query(batch(1, 2)).any()


@torch.no_grad()
def test_features_of_the_query_encoder_have_the_length_that_is_set(model):
    model.length.fill_(7.0)
    img = torch.randn(3, 3, 32, 16)
    said = model(img)
    torch.testing.assert_close(said.norm(dim=1), torch.full((3,), 7.0))
    torch.testing.assert_close(F.cosine_similarity(said, model.query(img)), torch.ones(3))


@torch.no_grad()
def test_the_query_encoder_may_have_a_smaller_input():
    torch.manual_seed(0)
    model = Asymmetric(**SMALL, query_size=(24, 16)).eval()
    seen = []
    model.query.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    img = torch.randn(2, 3, 32, 16)
    said = model(img)
    assert torch.equal(seen[0], resize(img, (24, 16)))
    torch.testing.assert_close(said, F.normalize(model.gallery(resize(img, (24, 16))), dim=1))


def test_another_network_is_mapped_to_the_gallerys_dimension():
    model = Asymmetric(3, "triplet", **{**SMALL, "reid": "resnet18"}, query=tiny_net.STAGED)
    assert model.dim == 512 and isinstance(model.project, torch.nn.Identity)
    model = Asymmetric(3, "triplet", **{**SMALL, "reid": "mobilenetv2_x1_0"}, query=tiny_net.STAGED)
    assert model.dim == 1280 and model.project.weight.shape == (1280, 512)
    logits, features = model(torch.randn(2, 3, 32, 16))
    assert logits.shape == (2, 3) and features.shape == (2, 1280)
    features.sum().backward()
    assert model.project.weight.grad.norm() > 0


def test_it_starts_as_the_gallery_encoder_which_is_frozen_in_evaluation():
    model = Asymmetric(**SMALL)
    assert model.training and model.query.training and not model.gallery.training
    assert not any(p.requires_grad for p in model.gallery.parameters())
    assert all(p.requires_grad for p in model.query.parameters())
    own, others = model.query.state_dict(), model.gallery.state_dict()
    assert own.keys() == others.keys() and all(torch.equal(own[key], others[key]) for key in own)
    assert not any("classifier" in key for key in own), "nothing that nobody uses"
    before = {key: value.clone() for key, value in others.items()}
    output = model(torch.randn(4, 3, 32, 16), torch.randn(4, 3, 32, 16))
    assert output.query.requires_grad and not output.gallery.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.gallery.state_dict().items())


@pytest.mark.parametrize("size", [(), (24, 16)])
def test_one_network_may_be_both(size):
    model = Asymmetric(3, **SMALL, mode="shared", query_size=size)
    assert model.query_encoder is model.gallery and model.gallery.training
    assert {key.partition(".")[0] for key in model.state_dict()} == {"gallery", "classifier", "threshold", "length"}
    output = model(torch.randn(4, 3, 32, 16), torch.randn(4, 3, 32, 16))
    assert output.query.requires_grad and output.gallery.requires_grad
    assert output.query_logits.shape == output.gallery_logits.shape == (4, 3)


def test_a_gallery_encoder_that_learns_is_a_network_of_its_own():
    model = Asymmetric(3, **SMALL, mode="trained")
    output = model(torch.randn(4, 3, 32, 16), torch.randn(4, 3, 32, 16))
    output.gallery_logits.sum().backward()
    assert all(p.grad is None for p in model.query.parameters())
    assert any(p.grad is not None for p in model.gallery.parameters())


@pytest.mark.parametrize("name", OURS)
def test_our_methods_as_gallery_encoders(name):
    torch.manual_seed(0)
    options = {"pretrained": False, "reid": name, "reid_options": OURS[name], "size": (32, 16)}
    model = Asymmetric(**options).eval()
    sharp, low = batch(64, 32, 32), batch(8, 16, 10)
    with torch.no_grad():
        model.threshold.fill_(1.5)
        as_sharp = {**sharp, "role": ["gallery"] * 3}
        wanted = model.gallery.extract(as_sharp) if hasattr(model.gallery, "extract") else model.gallery(sharp["img"])
        torch.testing.assert_close(model.describe_gallery(sharp["img"]), wanted)
        assert torch.equal(model.extract(as_sharp), wanted)
        # Low queries: as sharp images would be described, not by what the method itself does with them.
        said = model.extract(low)
        torch.testing.assert_close(said, F.normalize(model.describe_gallery(low["img"]), dim=1), rtol=1e-4, atol=1e-5)
    features = model.train()(torch.randn(4, 3, 32, 16))
    assert features.shape == (4, model.dim) and features.requires_grad


def test_a_network_that_is_there_is_taken_as_it_is():
    osnet = host.build_model("osnet_x0_25", 5, pretrained=False).eval()
    before = {key: value.clone() for key, value in osnet.state_dict().items()}
    model = Asymmetric(reid=osnet, size=(32, 16))
    assert model.gallery is osnet
    assert osnet.state_dict().keys() == before.keys()
    img = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(img), F.normalize(osnet(img), dim=1))


def test_weights_and_the_classifier_in_a_file(tmp_path):
    path = tmp_path / "osnet.pth"
    osnet = host.build_model(tiny_net.STAGED, 5, pretrained=False).eval()
    torch.save(osnet.state_dict(), path)
    options = {**SMALL, "reid_weights": str(path)}
    for classifier in ("trained", "frozen"):
        model = Asymmetric(5, **options, classifier=classifier).eval()
        assert torch.equal(model.classifier.weight, osnet.classifier.weight)
        assert torch.equal(model.classifier.bias, osnet.classifier.bias)
        assert model.classifier.weight.requires_grad == (classifier == "trained")
    img = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        assert torch.equal(model.gallery(img), osnet(img)) and torch.equal(model.query(img), osnet(img))
    assert Asymmetric(4, **options).classifier.weight.shape == (4, 512)
    assert Asymmetric(5, **options, classifier="none").classifier is None
    with pytest.raises(ValueError, match=r"osnet\.pth holds no classifier, or several, of 4 identities by 512"):
        Asymmetric(4, **options, classifier="frozen")
    other = host.build_model(tiny_net.STAGED, 5, pretrained=False)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    model = Asymmetric(**options, query_weights=str(tmp_path / "other.pth")).eval()
    with torch.no_grad():
        assert torch.equal(model.query(img), other.eval()(img)) and torch.equal(model.gallery(img), osnet(img))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"mode": "thawed"}, "no mode 'thawed'; allowed: frozen, trained, shared"),
        ({"classifier": "new"}, "no classifier 'new'"),
        ({"mode": "shared", "query": tiny_net.STAGED}, "one network is both encoders"),
        ({"query_size": (32,)}, r"query_size is a height and a width in pixels, not \[32\]"),
        ({"query_size": (8, 8)}, "OSNet takes no images of 8x8: "),
        ({"size": (32, 0)}, "size is a height and a width"),
    ],
)
def test_what_cannot_be(changes, told):
    with pytest.raises(ValueError, match=told):
        Asymmetric(**{**SMALL, **changes})


def test_a_method_without_features_in_training_is_told():
    options = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4, "size": (32, 16)}
    prpr = build_model("prpr", pretrained=False, reid=tiny_net.STAGED, **options)
    with pytest.raises(ValueError, match=r"PRPR gives no features in training; name a .* model\.options\.query"):
        described(prpr.train(), torch.randn(2, 3, 32, 16))
