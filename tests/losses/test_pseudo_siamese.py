"""PS-HRNet's equation 11 against a loop."""

import pytest
import torch

from torchreid_xres.losses.pseudo_siamese import pseudo_siamese_loss


def outputs():
    return {"seq1": torch.randn(3, 4), "seq5": torch.randn(3, 7), "logits": torch.randn(3, 5)}


@pytest.mark.parametrize("terms", [["seq1"], ["seq5", "logits"], ["seq1", "seq5", "logits"]])
def test_is_equation_11_with_means(terms):
    teacher, student = outputs(), outputs()
    expected = 0.0
    for term in terms:
        pairs = list(zip(teacher[term].flatten().tolist(), student[term].flatten().tolist(), strict=True))
        expected += sum(abs(t - s) for t, s in pairs) / len(pairs)
    assert pseudo_siamese_loss(teacher, student, terms).item() == pytest.approx(expected, rel=1e-5)


def test_is_zero_where_both_agree_and_pulls_only_the_student():
    teacher, student = outputs(), outputs()
    assert pseudo_siamese_loss(teacher, teacher, list(teacher)) == 0
    for tensor in (*teacher.values(), *student.values()):
        tensor.requires_grad_(True)
    pseudo_siamese_loss(teacher, student, ["seq1"]).backward()
    assert student["seq1"].grad is not None and student["seq5"].grad is None
    assert all(tensor.grad is None for tensor in teacher.values())


def test_an_output_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"some of seq1, seq5, logits, not \['seq9'\]"):
        pseudo_siamese_loss(outputs(), outputs(), ["seq9"])
    with pytest.raises(ValueError, match=r"not \[\]"):
        pseudo_siamese_loss(outputs(), outputs(), [])
