"""GPU paths without a GPU: every model's step and extraction on tensors that are on one only by name."""

import pytest
import torch
from every_model import CASES
from fake_gpu import gpu
import traceback

@pytest.mark.parametrize("name", CASES)
def test_probe(name, engine_of):
    engine = engine_of(name)
    batch = next(iter(engine.train_loader))
    with gpu() as found:
        found.move_engine(engine)
        try:
            print(engine.step(batch))
        except Exception as error:
            traceback.print_exc(limit=-7)
        print("STEP", name, "back", dict(found.back), "there", dict(found.there))
        found.back.clear(); found.there.clear()
        engine.set_model_mode("eval")
        try:
            if hasattr(engine.model, "extract"):
                with torch.no_grad():
                    print(engine._described(batch).shape)
        except Exception as error:
            traceback.print_exc(limit=-7)
        print("EXTRACT", name, "back", dict(found.back), "there", dict(found.there))
