import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.losses.asymmetric import AsymmetricLoss
from torchreid_xres.losses.batch_hard import batch_hard_triplet
from torchreid_xres.losses.contextual import contextual_similarity
from torchreid_xres.losses.regression import regression

NONE = {"absolute": 0.0, "relational": 0.0, "id": 0.0, "triplet": 0.0}
PIDS = torch.tensor([0, 0, 1, 1])


def views():
    return torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)


def test_is_the_weighted_sum_of_its_terms():
    query, gallery = views()
    logits = torch.randn(4, 2)
    found = AsymmetricLoss(6, absolute=2.0, relational=3.0, id=4.0, triplet=5.0)(
        query, gallery, logits=logits, pids=PIDS
    )
    unit = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    expected = {
        "absolute": regression(query, gallery),
        "relational": contextual_similarity(query, gallery, gallery),  # the bank is empty still
        "id": F.cross_entropy(logits, PIDS, label_smoothing=0.1),
        "triplet": batch_hard_triplet(unit[0], PIDS, 0.3, among=unit[1]),
    }
    total = sum(weight * expected[name] for name, weight in zip(expected, (2, 3, 4, 5), strict=True))
    assert found.keys() == {"loss", *expected}
    torch.testing.assert_close(found, {"loss": total, **expected})


@pytest.mark.parametrize("name", NONE)
def test_each_term_alone_gives_gradients_of_its_own(name):
    def gradient(**weights):
        torch.manual_seed(1)
        query, gallery = views()
        loss = AsymmetricLoss(6, **NONE | weights)
        found = loss(query, gallery, logits=query @ torch.randn(6, 2), pids=PIDS)
        assert set(found) == {"loss", *weights}
        found["loss"].backward()
        return query.grad

    alone = gradient(**{name: 1.0})
    torch.testing.assert_close(gradient(**{name: 2.0}), 2 * alone)
    other = next(one for one in NONE if one != name)
    assert alone.norm() > 0 and not torch.allclose(gradient(**{name: 1.0, other: 1.0}), alone)


def test_the_bank_holds_the_last_sharp_features_and_compares_with_those_before():
    loss = AsymmetricLoss(6, **NONE | {"relational": 1.0}, bank=6)
    batches = [views() for _ in range(3)]
    for i, (query, gallery) in enumerate(batches):
        before = torch.cat([gallery for _, gallery in batches[:i]])[-6:] if i else gallery
        found = loss(query, gallery)["loss"]
        assert found.item() == pytest.approx(contextual_similarity(query, gallery, before).item(), rel=1e-5)
    last = torch.cat([gallery for _, gallery in batches])[-6:]
    assert sorted(loss.features.tolist()) == sorted(last.tolist())
    again = AsymmetricLoss(6, **NONE | {"relational": 1.0}, bank=6)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(*batches[0])["loss"], loss(*batches[0])["loss"])


def test_a_batch_larger_than_the_bank():
    loss = AsymmetricLoss(6, bank=3)
    query, gallery = views()
    loss(query, gallery)
    assert sorted(loss.features.tolist()) == sorted(gallery[-3:].tolist())


def test_what_has_no_sharp_view_teaches_its_identity_alone():
    query, gallery = views()
    known = torch.tensor([True, False, False, True])
    found = AsymmetricLoss(6, triplet=1.0)(query, gallery, known=known, pids=PIDS)
    assert found["absolute"].item() == pytest.approx(regression(query[known], gallery[known]).item())
    none = AsymmetricLoss(6)(query, gallery, known=torch.zeros(4, dtype=torch.bool))
    assert none.keys() == {"loss"} and none["loss"].item() == 0
    none["loss"].backward()


def test_a_gallery_encoder_that_learns_has_its_views_among_the_anchors():
    query, gallery = views()
    gallery.requires_grad_()
    loss = AsymmetricLoss(6, **NONE | {"triplet": 1.0})
    both = F.normalize(torch.cat((query, gallery)), dim=1)
    found = loss(query, gallery, pids=PIDS)["loss"]
    assert found.item() == pytest.approx(batch_hard_triplet(both, PIDS.repeat(2)).item())
    found.backward()
    assert gallery.grad.norm() > 0


def test_a_target_of_another_encoder_is_followed_instead():
    query, gallery = views()
    target = torch.randn(4, 6)
    found = AsymmetricLoss(6, **NONE | {"absolute": 1.0})(query, gallery, target)
    assert found["loss"].item() == pytest.approx(regression(query, target).item())


def test_what_cannot_be_learned_from():
    with pytest.raises(ValueError, match="one of absolute, relational, id, triplet must not be 0"):
        AsymmetricLoss(6, **NONE)
    with pytest.raises(ValueError, match="at least 1 feature, not 0"):
        AsymmetricLoss(6, bank=0)
