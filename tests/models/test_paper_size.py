"""The configurations for full-size training: each front end at its paper's size takes a step and extracts features."""

import pytest
import torch

from torchreid_xres.config import load_config, stage_configs
from torchreid_xres.engine.sr_reid import SRReIDEngine
from torchreid_xres.jobs.run import model_options
from torchreid_xres.models import build_model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlr_market", "bicubic_mlr_market", "srcnn_mlr_market", "rcan_mlr_market", "mlr_vru"])
def test_paper_size_configurations_train_and_extract(repo, name):
    cfg = load_config(repo / "configs" / f"sr_reid_{name}.yaml")
    model = build_model("sr_reid", num_classes=751, pretrained=False, **SRReIDEngine.model_options(cfg))
    lr, hr = torch.rand(2, 2, 3, cfg.data.height, cfg.data.width).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(lr, hr)
    loss = out.identity.float().logsumexp(1).mean() + (out.restored.float() - out.original).abs().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.front_end.parameters() if p.requires_grad)
    with torch.no_grad():
        features = model.eval().extract({"img": lr, "low": torch.tensor([True, False])})
    assert features.shape == (2, 2048) and features.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlr_market", "mlr_cuhk03", "mlr_viper", "mlr_dukemtmcreid", "caviar"])
def test_psh_rnet_takes_a_step_at_paper_size(repo, name):
    cfg = load_config(repo / "configs" / f"psh_rnet_{name}.yaml")
    student = stage_configs(cfg)["student"]
    options = model_options(student, "psh_rnet")
    model = build_model("psh_rnet", num_classes=751, pretrained=False, **options)
    img = torch.rand(2, 3, cfg.data.height, cfg.data.width)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(img, full=True)
    (out.reid.logits.float().logsumexp(1).mean() + out.restored.float().abs().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert model.eval()(img).shape == (2, 6656)


@pytest.mark.slow
def test_an_asymmetric_query_encoder_takes_a_step_at_its_default_sizes():
    model = build_model("asymmetric", num_classes=751, pretrained=False, query="osnet_x0_25", query_size=(128, 64))
    out = model(*torch.rand(2, 2, 3, 256, 128).unbind())
    (1 - torch.cosine_similarity(out.query, out.gallery).mean() + out.query_logits.logsumexp(1).mean()).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused and all(name.startswith("gallery.") for name in unused)
    batch = {"img": torch.rand(2, 3, 256, 128), "size": torch.tensor([[64, 32], [256, 128]]), "role": ["query"] * 2}
    with torch.no_grad():
        assert model.eval().extract(batch).shape == (2, 512)
