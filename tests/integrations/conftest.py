"""A package with the public names, attributes and arithmetic of torchattacks 3, for where that is not installed."""

import importlib
import importlib.util
import sys

import pytest

STAND_IN = """
import torch
from torch import nn
from torch.nn import functional as F

__version__ = "3.5.1"


class Attack:
    def __init__(self, name, model):
        self.attack, self.model = name, model
        self.device = next(model.parameters()).device
        self.targeted = False
        self._normalise = None
        self._target_of = None

    def set_normalization_used(self, mean, std):
        shape = [1, -1, 1, 1]
        self._normalise = [torch.tensor(values).view(shape) for values in (mean, std)]

    def set_mode_targeted_by_function(self, target_map_function):
        self.targeted, self._target_of = True, target_map_function

    def get_target_label(self, images, labels):
        return self._target_of(images, labels)

    def get_logits(self, inputs):
        if self._normalise is not None:
            inputs = (inputs - self._normalise[0].to(inputs)) / self._normalise[1].to(inputs)
        return self.model(inputs)

    def __call__(self, images, labels=None):
        training = self.model.training
        self.model.eval()
        try:
            return self.forward(images, labels)
        finally:
            self.model.train(training)

    def _cost(self, images, labels):
        labels = self.get_target_label(images, labels) if self.targeted else labels
        return lambda x: (-1 if self.targeted else 1) * nn.CrossEntropyLoss()(self.get_logits(x), labels)

    @staticmethod
    def _slope(cost, x):
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(cost(leaf), leaf)[0]

    def _inside(self, x, images):
        return torch.clamp(images + torch.clamp(x - images, min=-self.eps, max=self.eps), min=0, max=1).detach()


class FGSM(Attack):
    def __init__(self, model, eps=8 / 255):
        super().__init__("FGSM", model)
        self.eps = eps

    def forward(self, images, labels):
        slope = self._slope(self._cost(images, labels), images)
        return torch.clamp(images + self.eps * slope.sign(), min=0, max=1).detach()


class PGD(Attack):
    def __init__(self, model, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True):
        super().__init__("PGD", model)
        self.eps, self.alpha, self.steps, self.random_start = eps, alpha, steps, random_start

    def forward(self, images, labels):
        cost, x = self._cost(images, labels), images.clone().detach()
        if self.random_start:
            x = torch.clamp(x + torch.empty_like(x).uniform_(-self.eps, self.eps), min=0, max=1)
        for _ in range(self.steps):
            x = self._inside(x + self.alpha * self._slope(cost, x).sign(), images)
        return x


class MIFGSM(Attack):
    def __init__(self, model, eps=8 / 255, alpha=2 / 255, steps=10, decay=1.0):
        super().__init__("MIFGSM", model)
        self.eps, self.alpha, self.steps, self.decay = eps, alpha, steps, decay

    def forward(self, images, labels):
        cost, x, momentum = self._cost(images, labels), images.clone().detach(), torch.zeros_like(images)
        for _ in range(self.steps):
            slope = self._slope(cost, x)
            momentum = slope / torch.mean(torch.abs(slope), dim=(1, 2, 3), keepdim=True) + momentum * self.decay
            x = self._inside(x + self.alpha * momentum.sign(), images)
        return x


class TPGD(Attack):
    def __init__(self, model, eps=8 / 255, alpha=2 / 255, steps=10):
        super().__init__("TPGD", model)
        self.eps, self.alpha, self.steps = eps, alpha, steps

    def forward(self, images, labels=None):
        clean = F.softmax(self.get_logits(images).detach(), dim=1)
        cost = lambda x: nn.KLDivLoss(reduction="sum")(F.log_softmax(self.get_logits(x), dim=1), clean)
        x = torch.clamp(images + 0.001 * torch.randn_like(images), min=0, max=1)
        for _ in range(self.steps):
            x = self._inside(x + self.alpha * self._slope(cost, x).sign(), images)
        return x


class PGDL2(Attack):
    def __init__(self, model, eps=1.0, alpha=0.2, steps=10, random_start=True, eps_for_division=1e-10):
        super().__init__("PGDL2", model)
        self.eps, self.alpha, self.steps, self.random_start = eps, alpha, steps, random_start
        self.eps_for_division = eps_for_division

    def forward(self, images, labels):
        cost, x = self._cost(images, labels), images.clone().detach()
        lengths = lambda y: torch.norm(y.view(len(y), -1), p=2, dim=1).view(-1, 1, 1, 1)
        if self.random_start:
            noise = torch.empty_like(x).normal_()
            share = torch.zeros(len(x), 1, 1, 1).to(x).uniform_(0, 1)
            x = torch.clamp(x + noise * (share / lengths(noise) * self.eps), min=0, max=1)
        for _ in range(self.steps):
            slope = self._slope(cost, x)
            delta = x + self.alpha * slope / (lengths(slope) + self.eps_for_division) - images
            x = torch.clamp(images + delta * torch.clamp(self.eps / lengths(delta), max=1), min=0, max=1).detach()
        return x
"""


@pytest.fixture(params=["stand-in", "installed"])
def torchattacks(request, tmp_path, monkeypatch):
    """The stand-in, and the real one where it is installed."""
    if request.param == "installed":
        yield pytest.importorskip("torchattacks", reason="torchattacks is not installed (pip install torchattacks)")
        return
    (tmp_path / "torchattacks.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchattacks", raising=False)
    importlib.invalidate_caches()
    library = importlib.import_module("torchattacks")
    yield library
    sys.modules.pop("torchattacks", None)
