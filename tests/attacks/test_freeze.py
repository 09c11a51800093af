"""freeze: the same function sooner, what is folded and what is not, and a copy that follows a training model."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.nn.utils.parametrizations import weight_norm

from fastadv.attacks import Frozen, freeze, pgd
from fastadv.attacks.model import folding
from fastadv.attacks.model.wrappers import Normalize
from fastadv.train.networks.catalogue import build
from fastadv.train.networks.classifier import Classifier
from tests.attacks.host_reads import HostReads

pytestmark = pytest.mark.filterwarnings("error:freeze")


def with_statistics(model: nn.Module) -> nn.Module:
    """``model`` in eval mode and double precision, with statistics and weights of its own in every BatchNorm."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.uniform_(-1, 1)
            if module.running_var is not None:
                module.running_var.uniform_(0.5, 1.5)
    return model.eval().double()


def assert_same_function(frozen: nn.Module, model: nn.Module, x: Tensor) -> None:
    found, expected = (x.clone().requires_grad_() for _ in range(2))
    logits = frozen(found)
    torch.testing.assert_close(logits, model(expected))
    (by_found,) = torch.autograd.grad(logits.square().sum(), found)
    (by_expected,) = torch.autograd.grad(model(expected).square().sum(), expected)
    torch.testing.assert_close(by_found, by_expected)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet8", (3, 32, 32)), ("resnet56", (3, 32, 32)), ("digits_cnn", (1, 8, 8)), ("digits_small", (1, 8, 8))],
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_our_networks_are_folded_whole(name, shape, channels_last):
    network = build(name, num_classes=10, image_shape=shape)
    model = with_statistics(Classifier(network, [0.5] * shape[0], [0.25] * shape[0]))
    frozen = freeze(model, channels_last=channels_last)
    assert len(frozen.folded) == norms(model)
    assert norms(frozen) == 0
    assert not frozen.kept
    assert not frozen.untraced
    assert_same_function(frozen, model, torch.rand(4, *shape).double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda **k: nn.Conv1d(4, 6, 3, groups=2, **k), nn.BatchNorm1d, (4, 7)),
        (lambda **k: nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", **k), nn.BatchNorm2d, (3, 5, 5)),
        (lambda **k: nn.Conv2d(3, 6, 3, stride=2, **k), nn.SyncBatchNorm, (3, 5, 5)),
        (lambda **k: nn.Conv3d(2, 6, 2, **k), nn.BatchNorm3d, (2, 3, 4, 5)),
        (lambda **k: nn.ConvTranspose2d(3, 6, 3, **k), nn.BatchNorm2d, (3, 4, 4)),
        (lambda **k: nn.Linear(5, 6, **k), nn.BatchNorm1d, (5,)),
    ],
)
def test_every_layer_that_can_be_folded(layer, norm, shape, affine, bias):
    model = with_statistics(nn.Sequential(layer(bias=bias), norm(6, affine=affine), nn.ReLU(), nn.Flatten()))
    frozen = freeze(model)
    assert frozen.folded == (("0", "1"),)
    assert_same_function(frozen, model, torch.rand(4, *shape).double())


class Rejoined(nn.Module):
    """The output of the convolution has a second use."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        out = self.conv(x)
        return (self.bn(out) + out).flatten(1)


class ReadsWeight(Rejoined):
    def forward(self, x):
        return self.bn(self.conv(x)).flatten(1) * self.conv.weight.mean()


class PreActivation(Rejoined):
    def forward(self, x):
        return self.bn(relu(self.conv(x))).flatten(1)


class CalledTwice(nn.Module):
    """One pair on two inputs: folded, as it is the same pair each time."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return (self.bn(self.conv(x)) - self.bn(self.conv(1 - x))).flatten(1)


class TwoNorms(nn.Module):
    """One convolution with a BatchNorm for each of two inputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x):
        return (self.bn[0](self.conv(x)) - self.bn[1](self.conv(1 - x))).flatten(1)


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model[1].register_forward_hook(lambda module, args, output: 3 * output)
    return model


def shared() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm, nn.Flatten())


def pair(conv=None, norm=None) -> nn.Module:
    return nn.Sequential(conv or nn.Conv2d(3, 4, 3), norm or nn.BatchNorm2d(4), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Rejoined, "the output of conv is also used elsewhere"),
        (ReadsWeight, "parameters of conv or of its own are also used elsewhere"),
        (PreActivation, "it does not follow one layer"),
        (TwoNorms, "the output of conv is also used elsewhere"),
        (hooked, "1 has hooks"),
        (shared, "it does not follow one layer"),
        (lambda: pair(norm=Scaled(4)), "it is a Scaled"),
        (lambda: pair(norm=nn.BatchNorm2d(4, track_running_stats=False)), "it has no running statistics"),
        (lambda: pair(conv=weight_norm(nn.Conv2d(3, 4, 3))), "it follows a ParametrizedConv2d"),
        (lambda: pair(conv=nn.ConvTranspose2d(4, 4, 3, groups=2)), "a transposed convolution with groups"),
        (lambda: pair(conv=nn.Identity(), norm=nn.BatchNorm2d(3)), "it follows a Identity"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(make, reason):
    model = with_statistics(make())
    with pytest.warns(UserWarning, match="freeze: BatchNorm .* is not folded"):
        frozen = freeze(model)
    assert not frozen.folded
    assert len(frozen.kept) == norms(model) == norms(frozen)
    assert all(reason in why for why in frozen.kept.values())
    channels = 4 if "groups" in reason else 3
    assert_same_function(frozen, model, torch.rand(4, channels, 5, 5).double())


def test_a_pair_that_is_called_twice_is_folded():
    model = with_statistics(CalledTwice())
    frozen = freeze(model)
    assert len(frozen.folded) == 1
    assert_same_function(frozen, model, torch.rand(4, 3, 5, 5).double())


class Block(nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 4, size), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x))


class Branching(nn.Module):
    """A branch on a value, around parts that can be traced and a pair that cannot."""

    def __init__(self):
        super().__init__()
        self.block = Block(3, 3)
        self.blocks = nn.ModuleList([nn.Sequential(Block(4, 1)), Block(4, 1)])
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.block(x)
        for block in self.blocks:
            x = block(x)
        return self.bn(self.conv(x)) if x.mean() > 0 else x


def test_a_module_that_cannot_be_traced_is_folded_in_parts():
    head = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Branching(), head))
    with pytest.warns(
        UserWarning,
        match=r"freeze: BatchNorm '2.bn' is not folded: nothing that can be traced calls it \(2: .*control flow\)",
    ):
        frozen = freeze(model)
    assert frozen.untraced.keys() == {"2"}
    assert "control flow" in frozen.untraced["2"]
    assert {folded.norm for folded in frozen.folded} == {"1", "2.block.bn", "2.blocks.0.0.bn", "2.blocks.1.bn", "3.2"}
    assert frozen.kept.keys() == {"2.bn"}
    assert_same_function(frozen, model, torch.rand(4, 3, 5, 5).double())


class Branches(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.branches = [network]

    def forward(self, x):
        return self.branches[0](x)


def test_what_is_no_submodule_is_told(network):
    with pytest.warns(UserWarning, match="modules in the list 'branches' are no part of the model"):
        freeze(Branches(network))


class Between(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.last(self.bn(self.conv(x)))


@pytest.mark.parametrize("fused", [False, True])
def test_hooks_see_tensors_alone_and_keep_what_is_behind_them_apart(fused, monkeypatch):
    seen = []

    def hook(module, images, output):
        seen.append(output)
        return 2 * output

    monkeypatch.setattr(Frozen, "_may_be_fused", lambda self, x: fused)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Between(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(75, 5))
    model = with_statistics(model).float()
    model[2].register_forward_hook(hook)
    with pytest.warns(UserWarning, match="BatchNorm '3' is not folded: it follows a Between"):
        frozen = freeze(model)
    assert not seen
    assert frozen.folded == (("2.conv", "2.bn"),)
    x = torch.rand(4, 3, 5, 5)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(frozen(x), model(x))
        assert [type(each) for each in seen] == 4 * [torch.Tensor]
        # One that comes later is called as well.
        frozen.network[0].register_forward_hook(hook)
        assert not torch.allclose(frozen(x), model(x))


def test_train_mode_is_never_folded(network, images):
    with pytest.warns(UserWarning, match="BatchNorm '1' is not folded: it is in train mode"):
        frozen = freeze(network)
    assert norms(frozen) == 1
    assert frozen.network[1].training
    assert not freeze(network.eval()).kept
    network.train()
    network[1].eval()
    assert freeze(network).folded == (("0", "1"),)


def test_no_folding_where_none_is_asked_for(network):
    frozen = freeze(network.eval(), fold_batchnorm=False)
    assert norms(frozen) == 1
    assert frozen.folded == ()
    assert frozen.kept == {}


def test_a_deep_copy_follows_a_deep_copy_of_the_model(network, images):
    frozen = freeze(network.eval())
    other = copy.deepcopy(frozen)
    with torch.no_grad():
        network[5].weight.neg_()
    before = other(images)
    frozen.refresh(), other.refresh()
    assert torch.equal(other(images), before)
    assert not torch.allclose(frozen(images), before)


def test_the_model_is_as_it_was(network, images):
    network.eval()[0].bias.requires_grad_(False)
    network[5].weight.grad = torch.ones_like(network[5].weight)
    before = {name: (tensor, tensor.clone()) for name, tensor in network.state_dict(keep_vars=True).items()}
    flags = [parameter.requires_grad for parameter in network.parameters()]
    frozen = freeze(network, dtype=torch.bfloat16)
    frozen(images)
    for name, tensor in network.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
        assert tensor.is_contiguous()
    assert flags == [parameter.requires_grad for parameter in network.parameters()]
    assert network[5].weight.grad is not None
    assert isinstance(network[1], nn.BatchNorm2d)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.parameters())
    assert not {id(p) for p in frozen.parameters()} & {id(p) for p in network.parameters()}


def test_layers_that_share_a_weight_part(images):
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Flatten()))
    model[2].weight = model[0].weight
    assert_same_function(freeze(model), model, images.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, None])
def test_dtype_and_layout(network, images, dtype):
    frozen = freeze(network.eval(), dtype=dtype)
    expected = dtype or torch.float32
    half = dtype in (torch.float16, torch.bfloat16)
    assert frozen.entry == ("0" if half else None)
    assert frozen.network[0].weight.dtype == frozen.network[0].bias.dtype == (torch.float32 if half else expected)
    assert frozen.network[5].weight.dtype == expected
    assert frozen.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    logits = frozen(images)
    assert logits.dtype == expected
    bound = {torch.float16: 5e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-6)
    difference = frozen.difference(images)
    assert 0 <= difference < bound
    torch.testing.assert_close(difference.double(), (logits.double() - network(images).double()).abs().max())


def test_folding_in_half_precision_rounds_once():
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), *pair())).float()
    exact, _ = folding.folded(model[1], model[2])
    assert torch.equal(freeze(model, dtype=torch.bfloat16).network[1].weight, exact.bfloat16())


def test_refresh_follows_a_training_model(network, images, labels, monkeypatch, as_on_a_device):
    frozen = freeze(network.eval())
    addresses = [tensor.data_ptr() for tensor in frozen.state_dict().values()]
    monkeypatch.setattr(folding, "plan_folding", None)  # nothing is traced again
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    network.train()
    for _ in range(3):
        cross_entropy(network(images), labels).backward()
        optimiser.step()
    assert frozen.difference(images) > 0.1
    with HostReads() as probe:
        frozen.refresh()
        frozen.difference(images)
    assert not probe.found
    assert frozen.difference(images) < 1e-5
    assert addresses == [tensor.data_ptr() for tensor in frozen.state_dict().values()]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert network.training


def test_the_difference_leaves_no_trace(network, images, labels):
    frozen = freeze(network.eval())
    assert not frozen.training
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        frozen.difference(images)
        loss = cross_entropy(network(images), labels)
    loss.backward()
    assert network.training
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_compiled_attack_sees_the_refreshed_weights(network, images, labels):
    frozen = freeze(network.eval())
    frozen(images)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(
            lambda x, y, seed: pgd(frozen, x, y, eps=0.1, steps=2, seed=seed), fullgraph=True, backend="aot_eager"
        )
        first = compiled(images, labels, torch.tensor(1))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.neg_()
        frozen.refresh()
        second = compiled(images, labels, torch.tensor(1))
    assert not torch.equal(first, second)
    assert torch.equal(second, pgd(frozen, images, labels, eps=0.1, steps=2, seed=1))


def test_a_compiled_copy_sees_the_refreshed_weights(network, images, labels):
    frozen, plain = freeze(network.eval()), freeze(network)
    frozen.compile(backend="aot_eager")
    for _ in range(2):
        expected = pgd(plain, images, labels, eps=0.1, norm="l2", steps=3, seed=1)
        torch.testing.assert_close(pgd(frozen, images, labels, eps=0.1, norm="l2", steps=3, seed=1), expected)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.neg_()
        frozen.refresh(), plain.refresh()
    assert not torch.allclose(pgd(plain, images, labels, eps=0.1, norm="l2", steps=3, seed=1), expected)


def test_refresh_refuses_another_structure(network):
    frozen = freeze(network.eval())
    network[5] = nn.Linear(128, 7)
    with pytest.raises(
        ValueError, match=r"network.5.weight|5.weight has shape \[5, 128\] here, in the model \[7, 128\]"
    ):
        frozen.refresh()


def test_attacks_on_the_copy_and_on_the_model_agree(network, images, labels):
    network = network.double()
    expected = pgd(network, images.double(), labels, eps=0.1, norm="l2", seed=0)
    frozen = freeze(network.eval())
    torch.testing.assert_close(pgd(frozen, images.double(), labels, eps=0.1, norm="l2", seed=0), expected)


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.conv(x).view(x.size(0), -1))


class TwoEntries(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return (self.first(x) + self.second(x)).view(x.size(0), -1)


class Parametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.norm, self.conv = nn.Parameter(torch.ones(())), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(self.norm(self.scale * x)).flatten(1)


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (lambda: Classifier(pair(), [0.3] * 3, [0.7] * 3), "network.0"),
        (Views, "conv"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 5)), "1"),
        (TwoEntries, None),
        (Parametrised, None),
        (CalledTwice, None),
        (Branching, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_enter_in_full_precision_where_they_can(make, entry, dtype):
    model, size = with_statistics(make()).float(), 6 if make is Views else 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not folded
        frozen = freeze(model, dtype=dtype, channels_last=False)
    assert frozen.entry == entry
    x = torch.rand(4, 3, size, size)
    assert frozen(x).dtype == dtype
    assert frozen.difference(x) < 0.1 * model(x).abs().max()
    if entry:
        # Less than a unit in the last place of a pixel, of the half precision.
        seen = []
        frozen.network.get_submodule(entry).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        frozen(x), frozen((x + 1e-5).double())
        assert seen[0].dtype == seen[1].dtype == torch.float32
        assert (seen[0] != seen[1]).all()
        assert all(module.mean.dtype == torch.float32 for module in frozen.modules() if isinstance(module, Normalize))
    frozen.refresh()


class WithToken(nn.Module):
    """Whose first parameter is not of the layer through which images enter, as in vision transformers."""

    def __init__(self):
        super().__init__()
        self.token, self.patch, self.head = nn.Parameter(torch.zeros(1, 8)), nn.Linear(75, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.patch(x.flatten(1)) + self.token)


@pytest.mark.parametrize("wrapped", [False, True])
def test_attacks_give_the_images_as_the_copy_takes_them(wrapped):
    frozen = freeze(WithToken().eval(), dtype=torch.bfloat16)
    assert frozen.entry == "patch"
    seen = []
    frozen.network.patch.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    x = torch.rand(4, 3, 5, 5)
    pgd(nn.Sequential(frozen) if wrapped else frozen, x, eps=0.1, steps=1, step_size=0.1, random_start=False)
    assert torch.equal(seen[0], x.flatten(1))


def test_a_weight_of_the_entry_that_another_layer_shares_is_in_half_precision():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    frozen, x = freeze(model, dtype=torch.bfloat16), torch.rand(4, 6)
    assert frozen.entry is None
    assert frozen(x).dtype == torch.bfloat16
    assert frozen.difference(x) < 0.05


def test_a_model_that_views_its_activations_runs_contiguous(images, labels):
    model = Views().eval()
    frozen = freeze(model)
    with pytest.warns(UserWarning, match="runs in the contiguous layout, not in channels_last: view size"):
        attacked = pgd(frozen, images, labels, eps=0.1, seed=0)
    assert torch.equal(attacked, pgd(model, images, labels, eps=0.1, seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(frozen(images), model(images))


def test_images_that_do_not_fit_leave_the_layout_as_it_was(network, images):
    frozen = freeze(network.eval())
    with pytest.raises(RuntimeError, match="channels"):
        frozen(images[:, :1])
    assert frozen.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(frozen(images), network(images))


def test_a_failing_model_raises_its_own_error(images):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model"):
        freeze(Fails())(images)


def test_a_batchnorm_over_another_dimension_than_the_features_is_noticed():
    model = with_statistics(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    frozen = freeze(model)
    with pytest.raises(ValueError, match="after a linear layer takes"):
        frozen(torch.rand(2, 6, 5).double())


def test_the_difference_wants_images(network, images):
    frozen = freeze(network.eval())
    for x, error in ((images[:0], ValueError), (images.tolist(), TypeError)):
        with pytest.raises(error, match="x must"):
            frozen.difference(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_a_model_that_cannot_be_copied_is_named(network, images):
    network.weight = network[0].weight * 2  # as the older weight_norm keeps it
    with pytest.raises(ValueError, match=r"model must be one that copy.deepcopy\(\) can copy, got Only Tensors"):
        freeze(network.eval())
    with pytest.raises(TypeError, match=r"model must be a .* not scripted, got RecursiveScript"):
        freeze(torch.jit.script(nn.Flatten()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet",), "model must be a torch.nn.Module that is not scripted, got str"),
        ((nn.Flatten(), torch.int8), "dtype must be None"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        freeze(arguments[0], dtype=arguments[1] if arguments[1:] else None)
