"""What walks over networks share: which parameters a step gives a gradient, and which are listed as having none."""

import re
from collections import defaultdict

import torch


def awaken(model, monkeypatch):
    """Let a network's start hide nothing of the graph: no unit is off for all of a few images, and nothing is zero."""
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda self, x: torch.nn.functional.leaky_relu(x, 0.1))
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)


def keep_in_evaluation(model, kind):
    """Put the layers of a kind of a network that trains back to evaluation."""
    for module in model.modules():
        if isinstance(module, kind):
            module.eval()


def watch_gradients(model):
    """Return a dictionary that holds a parameter's gradients' norms, summed over the passes of a step, once it has any.

    Some engines take a step in parts, and leave nothing of the first part's gradients.
    """
    norms = defaultdict(float)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:

            def add(p, name=name):
                norms[name] += p.grad.norm().item()

            parameter.register_post_accumulate_grad_hook(add)
    return norms


def without_gradient(model, norms):
    """Return the names of a model's parameters that have got none, or zeros only."""
    return {name for name, _ in model.named_parameters()} - {name for name, norm in norms.items() if norm > 0}


def fitting(model, reasons):
    """Return the names of a model's parameters that a pattern fits, of patterns with reasons; each must fit some."""
    names = {name for name, _ in model.named_parameters()}
    found = {pattern: {name for name in names if re.fullmatch(pattern, name)} for pattern in reasons}
    assert all(found.values()), f"of the listed patterns some fit no parameter: {found}"
    return set().union(*found.values())
