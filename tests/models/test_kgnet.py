"""KGNet: its size, what guides what, who goes to which encoder."""

import pytest
import tiny_net
import torch

import torchreid_xres  # noqa: F401 (registers)
from torchreid_xres import host
from torchreid_xres.comparison.complexity import complexity
from torchreid_xres.data.degrade import degrade_tensor, round_trip
from torchreid_xres.inference.branches import sent_to
from torchreid_xres.keypoints import gaussian_maps
from torchreid_xres.models import build_model
from torchreid_xres.models.kgnet import KGNetOutput

TINY = {
    "pretrained": False,
    "reid": tiny_net.STAGED,
    "hourglass": {"stacks": 1, "depth": 2, "width": 8},
    "sr_scale": 4,
    "sr_options": {"features": 8, "groups": 1, "blocks": 1},
    "kgr_blocks": 1,
    "kga_blocks": 1,
}
NO_KEYPOINTS = {"kgr": False, "kga": False}


def tiny(**changes):
    return build_model("kgnet", **{**TINY, **changes})


def finds(model, monkeypatch, points):
    """Let the hourglass find these points (N, 20, 2) in whatever it is shown."""
    monkeypatch.setattr(model.hourglass, "forward", lambda img: gaussian_maps(points, (16, 16)))


@pytest.fixture
def points():
    points = torch.rand(2, 20, 2)
    points[:, ::3] = -1.0
    return points


def shaken(model):
    """The model with an SR module and an alignment that do something: untrained, they change next to nothing."""
    for part in (model.recovery.up, model.alignment):
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return model


def test_two_encoders_share_the_classifier_unless_told():
    model, own = tiny(num_classes=7), tiny(num_classes=7, own_classifiers=True)
    assert model.teacher.classifier is model.student.classifier and model.teacher.trunk is not model.student.trunk
    assert own.teacher.classifier is not own.student.classifier
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, own)]
    assert sizes[1] - sizes[0] == 7 * 128
    model.load_state_dict(own.state_dict())  # of a training before they were shared


# -- the paper's sizes ---------------------------------------------------------------------------------------------


def test_parameters_and_operations_of_table_7():
    model = build_model("kgnet", num_classes=576, pretrained=False, own_classifiers=True)
    img = torch.rand(1, 3, 128, 128)
    counted = complexity(model, (img, img), depth=20)
    assert 64.0e6 < counted.parameters < 64.2e6  # 64.04 M
    assert 8.1e9 < counted.in_layers < 8.3e9  # 8.22 G
    assert 0.09e9 < counted.products < 0.12e9  # inside the SR module's attention, and of the down-sampling


def test_a_query_and_a_gallery_image_take_what_a_pair_takes():
    model, img = tiny(num_classes=7), torch.rand(2, 3, 64, 64)
    batch = {"img": img, "low": torch.tensor([True, False]), "role": ["query", "gallery"]}
    pair = complexity(model, (img[:1], img[1:])).multiply_adds
    assert complexity(model, batch).multiply_adds == pair - 2 * 7 * 128  # no classifiers


@pytest.mark.slow
def test_the_papers_size_takes_a_step_and_evaluates():
    model = host.build_model("kgnet", num_classes=576, pretrained=False)
    lr, hr = torch.randn(2, 2, 3, 128, 128).unbind()
    out = model(lr, hr)
    loss = out.student.logits.logsumexp(1).mean() + out.teacher.logits.logsumexp(1).mean() + out.restored.mean()
    loss.backward()
    assert out.student.feature.shape == out.teacher.feature.shape == (2, 2048)
    with torch.no_grad():
        assert model.eval()(lr).shape == (2, 2048)


# -- guidance ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_small_image_is_found_in_its_enlargement(shared_data):
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    path = sorted((shared_data / "vehicle_2cam" / "images").glob("*_cam1.jpg"))[0]
    small = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    enlarged = to_tensor(small.resize((128, 128), Image.Resampling.BILINEAR))[None]
    model = tiny(sr_scale=8).eval()
    guided = model.guide(model.normalize(enlarged))
    assert (guided.low - to_tensor(small)[None]).abs().mean() < 2 / 255
    blurred = torch.nn.functional.avg_pool2d(enlarged, 8)
    assert (guided.low - to_tensor(small)).abs().mean() < 0.3 * (blurred - to_tensor(small)).abs().mean()


def test_shapes_and_what_is_added(points, monkeypatch):
    model = shaken(tiny())
    finds(model, monkeypatch, points)
    img = torch.randn(2, 3, 64, 64).clamp(-1, 1)
    guided = model.guide(img)
    assert guided.low.shape == (2, 3, 16, 16) and guided.maps.shape == (2, 20, 16, 16)
    assert guided.recovery.shape == (2, 4, 16, 16) and guided.alignment.shape == (2, 3, 64, 64)
    enlarged = model.normalize.undo(img)
    torch.testing.assert_close(guided.restored, enlarged + model.recovery(guided.low, guided.recovery))
    torch.testing.assert_close(guided.aligned, model.alignment(guided.restored, guided.alignment))


def test_attention_sums_to_one_and_hidden_points_are_left_out(points, monkeypatch):
    model = tiny()
    finds(model, monkeypatch, points)
    guided = model.guide(torch.randn(2, 3, 64, 64))
    for attention in (guided.recovery, guided.alignment):
        torch.testing.assert_close(attention.sum(dim=1), torch.ones_like(attention[:, 0]))
        assert attention.std() > 0.01
    assert torch.equal(guided.maps.amax(dim=(2, 3)) > 0, points[..., 0] >= 0)


@pytest.mark.parametrize("part", ["recovery", "alignment"])
@torch.no_grad()
def test_permuting_the_faces_changes_the_descriptor(points, monkeypatch, part):
    model = shaken(tiny()).eval()
    finds(model, monkeypatch, points)
    img = torch.randn(2, 3, 64, 64)
    before = model(img)
    layer = getattr(model, part)
    real = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x, attention: real(x, attention.roll(1, dims=1)))
    assert (model(img) - before).abs().max() > 1e-3


@torch.no_grad()
def test_other_keypoints_give_another_descriptor(points, monkeypatch):
    model = shaken(tiny()).eval()
    img = torch.randn(2, 3, 64, 64)
    found = []
    for places in (points, points.roll(1, dims=1)):
        finds(model, monkeypatch, places)
        found.append(model(img))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_an_image_without_any_visible_keypoint_works(monkeypatch):
    model = shaken(tiny(num_classes=3))
    finds(model, monkeypatch, torch.full((2, 20, 2), -1.0))
    img = torch.randn(2, 3, 64, 64)
    guided = model.guide(img)
    assert not guided.maps.any()
    assert torch.equal(guided.recovery, torch.full((2, 4, 16, 16), 0.25))
    torch.testing.assert_close(guided.alignment, torch.full((2, 3, 64, 64), 1 / 3))
    model(img).logsumexp(1).mean().backward()
    grads = [p.grad for p in model.recovery.parameters()] + [p.grad for p in model.alignment.parameters()]
    assert all(grad.isfinite().all() for grad in grads)
    assert model.eval()(img).isfinite().all()


def test_binary_maps_are_not_filtered(monkeypatch):
    model = tiny(hourglass={**TINY["hourglass"], "targets": "binary"})
    maps = torch.zeros(1, 20, 16, 16)
    maps[:, :, 0, 0] = 1.0
    monkeypatch.setattr(model.hourglass, "forward", lambda img: maps)
    assert torch.equal(model.keypoint_maps(torch.randn(1, 3, 64, 64)), maps)
    monkeypatch.setattr(model.hourglass, "targets", "gaussian")
    assert not model.keypoint_maps(torch.randn(1, 3, 64, 64)).any()


def test_the_hourglass_stays_as_it_is_and_everything_else_learns():
    model = shaken(tiny(num_classes=5, reid="osnet_x0_25")).train()
    state = {name: t.clone() for name, t in model.hourglass.state_dict().items()}
    out = model(torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64))
    logits = out.student.logits.logsumexp(1).mean() + out.teacher.logits.logsumexp(1).mean()
    (logits + out.restored.square().mean()).backward()
    assert not model.hourglass.training
    assert all(torch.equal(t, state[name]) for name, t in model.hourglass.state_dict().items())
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    fixed = {f"encoders.{encoder}.bn.bias" for encoder in ("student", "teacher")}
    assert silent == fixed | {f"hourglass.{name}" for name, _ in model.hourglass.named_parameters()}


# -- encoders ------------------------------------------------------------------------------------------------------


def test_the_teacher_starts_as_the_student_and_goes_its_own_way():
    model = tiny(num_classes=3)
    own = model.student.state_dict()
    assert all(torch.equal(t, own[name]) for name, t in model.teacher.state_dict().items())
    common = {id(p) for p in model.teacher.parameters()} & {id(p) for p in model.student.parameters()}
    assert common == {id(model.student.classifier.weight)}


def batch_of(roles, low):
    return {"img": torch.randn(len(low), 3, 64, 64), "role": roles, "low": torch.tensor(low)}


@torch.no_grad()
@pytest.mark.parametrize(
    ("route", "students"),
    [("role", [True, True, False, False, True, False]), ("rate", [True, False, True, False, True, False])],
)
def test_who_goes_to_the_student(route, students):
    model = shaken(tiny(route=route)).eval()
    for p in model.teacher.parameters():
        p.mul_(1.1)
    roles = ["query", "query", "gallery", "gallery", "train", "train"]
    batch = batch_of(roles, [True, False] * 3)
    assert model.taken_as_low(batch).tolist() == students
    assert sent_to(model, batch) == ["query" if is_student else "gallery" for is_student in students]
    found = model.extract(batch)
    student = model(batch["img"])
    teacher = torch.nn.functional.normalize(model.teacher(batch["img"]).descriptor, dim=1)
    for n, is_student in enumerate(students):
        torch.testing.assert_close(found[n], (student if is_student else teacher)[n], rtol=1e-4, atol=1e-5)
        assert (found[n] - (teacher if is_student else student)[n]).abs().max() > 1e-3
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))


@torch.no_grad()
@pytest.mark.parametrize("low", [True, False])
def test_a_batch_of_one_kind_runs_one_path(monkeypatch, low):
    model = tiny().eval()
    idle = model.teacher if low else model.student
    monkeypatch.setattr(idle, "forward", None)
    role = "query" if low else "gallery"
    assert model.extract(batch_of([role] * 3, [low] * 3)).shape == (3, 128)


def test_the_hosts_engines_get_what_they_expect():
    img = torch.randn(2, 3, 64, 64)
    assert tiny(num_classes=5).train()(img).shape == (2, 5)
    logits, features = tiny(num_classes=5, loss="triplet").train()(img)
    assert logits.shape == (2, 5) and features.shape == (2, 128)
    assert tiny().train()(img).shape == (2, 128)
    assert not any("classifier" in name for name, _ in tiny().named_parameters())


def test_one_encoder_sees_both_views_in_one_pass(monkeypatch):
    model = tiny(num_classes=5, dual=False)
    assert model.teacher is model.student and list(model.encoders) == ["student"]
    seen = []
    model.student.trunk.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    lr, hr = torch.randn(2, 3, 3, 64, 64).unbind()
    out = model(lr, hr)
    assert isinstance(out, KGNetOutput) and seen == [6]
    assert len(out.student.feature) == len(out.teacher.logits) == 3
    model.eval()
    torch.testing.assert_close(model(lr, hr).teacher.feature, model.student(hr).feature, rtol=1e-4, atol=1e-5)
    batch = batch_of(["query", "gallery"], [True, False])
    torch.testing.assert_close(model.extract(batch)[0], model(batch["img"])[0])
    assert tiny(dual=False).eval()(lr, hr).student.logits is None


# -- parts ---------------------------------------------------------------------------------------------------------


def test_parts_that_are_off_are_not_there():
    whole = {name.split(".")[0] for name, _ in tiny().named_parameters()}
    assert whole == {"hourglass", "recovery", "alignment", "encoders"}
    parts = {name.split(".")[0] for name, _ in tiny(**NO_KEYPOINTS).named_parameters()}
    assert parts == {"recovery", "encoders"}
    assert tiny(kgr=False).recovery.fusion is None and tiny(kga=False).alignment is None
    plain = tiny(**NO_KEYPOINTS, sr="bicubic", dual=False)
    assert {name.split(".")[0] for name, _ in plain.named_parameters()} == {"encoders"}
    img = torch.randn(2, 3, 64, 64).clamp(-1, 1)
    torch.testing.assert_close(plain.guide(img).aligned, plain.normalize.undo(img))
    for changes in ({"kgr": False}, {"kga": False}, NO_KEYPOINTS):
        assert tiny(**changes).eval()(img).shape == (2, 128)


def test_disjoint_faces_leave_shared_points_to_front_and_back(monkeypatch):
    corner = torch.full((1, 20, 2), -1.0)
    corner[0, 12] = 0.5  # right front roof corner: front and right
    for disjoint, sides in ((False, True), (True, False)):
        model = tiny(disjoint=disjoint)
        finds(model, monkeypatch, corner)
        front, back, side = model.guide(torch.randn(1, 3, 64, 64)).alignment[0, :, 32, 32]
        assert front > back and (side > back) == sides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sr": "rcan"}, "no SR module 'rcan'; allowed: omni_sr, bicubic"),
        ({"route": "size"}, "no route 'size'; allowed: role, rate"),
        ({"sr": "bicubic"}, "set kgr False"),
        ({"sr_options": {"features": 6}}, "multiple of 4"),
    ],
)
def test_parts_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_sides_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"at sr_scale 4 .* not \(66, 64\)"):
        tiny()(torch.zeros(2, 3, 66, 64))
    with pytest.raises(ValueError, match="must be multiples of 16"):
        tiny()(torch.zeros(2, 3, 72, 64))


def test_a_trained_hourglass_is_loaded_whole(tmp_path):
    trained = build_model("hourglass_vehicle20", **TINY["hourglass"])
    torch.save(trained.state_dict(), tmp_path / "hourglass.pth")
    model = tiny(hourglass_weights=tmp_path / "hourglass.pth")
    assert torch.equal(model.hourglass.heads[0].weight, trained.heads[0].weight)
    with pytest.raises(ValueError, match="does not fit StackedHourglass"):
        tiny(hourglass={"stacks": 2, "depth": 2, "width": 8}, hourglass_weights=tmp_path / "hourglass.pth")


def test_low_views_of_training_are_what_the_student_takes():
    """The loader's low view is the enlargement that the network expects: x_lr is found in it again."""
    model, hr = tiny(), torch.rand(1, 3, 64, 64)  # pixels that know nothing of each other are the worst case
    low = degrade_tensor(hr, (16, 16), "bicubic")
    lr = round_trip(hr, (16, 16), "bicubic")
    found = model.guide(model.normalize(lr)).low
    blurred = degrade_tensor(lr, (16, 16), "area")
    assert (found - low).abs().mean() < 0.6 * (blurred - low).abs().mean()
