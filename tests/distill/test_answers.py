"""Networks that answer with more than logits: every method says what it needs, in one sentence."""

import pytest
from torch import nn

from fastadv import distill
from fastadv.attacks import Logits
from fastadv.distill import Batch

METHODS = {
    **{
        name: getattr(distill, name)
        for name in ("KD", "DKD", "TripletKD", "AIKD", "BSS", "TALD", "IGDM", "ARD", "RSLAD", "IAD", "IADII", "AdaIAD")
    },
    **{name: getattr(distill, name) for name in ("SAAD", "PGDAT", "TRADES", "CrossEntropy")},
    **{f"AdaAD-{inner}": lambda inner=inner: distill.AdaAD(inner=inner) for inner in ("both", "linear", "student")},
}
ALONE = {"PGDAT", "TRADES", "CrossEntropy"}
ANSWERS = {"dict": lambda z: {"logits": z}, "tuple": lambda z: (z, None)}


class Answering(nn.Module):
    def __init__(self, network, answer):
        super().__init__()
        self.network, self.answer = network, answer

    def forward(self, x):
        return self.answer(self.network(x))


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_to_wrap(name, answer, who, student, teacher, batch):
    if who == "teacher" and name in ALONE:
        pytest.skip("it has no teacher")
    good, x = {"student": student, "teacher": teacher}, batch[0]
    method, step = METHODS[name](), Batch(*batch, progress=0.5, seed=1)
    method.build(student, teacher, x, images=len(x))
    answering = Answering(good[who], ANSWERS[answer])
    said = rf"^{who} must give logits \[N, C\], got {answer}; wrap it with lambda x: {who}\("
    with pytest.raises(TypeError, match=said):
        method(**good | {who: answering}, batch=step)
    method(**good | {who: Logits(answering, 0 if answer == "tuple" else "logits")}, batch=step)
