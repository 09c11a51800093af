"""Methods by name, with their options: read, checked against the constructor, built, and told apart in tables."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch

from fastadv import distill
from fastadv.distill import KD, TALD, CrossEntropy, Method
from fastadv.train.config.config_model import parse_entries
from fastadv.train.config.methods import METHODS, MethodEntry, check_tables, label_specs, options_of, read_spec
from fastadv.train.runtime.errors import ConfigError


class Stack(Method):
    """Builds on any method, which has to be given."""

    needs_teacher = False

    def __init__(
        self,
        base: Method,
        scale: float | list[float] = 1.0,
        pair: tuple[float, float] = (0.0, 1.0),
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.scale, self.pair, self.network = base, scale, pair, network

    def forward(self, student, teacher, batch):
        return self.base(student, teacher, batch)


@pytest.fixture(autouse=True)
def stack(monkeypatch):
    monkeypatch.setitem(METHODS, "stack", MethodEntry(Stack, "Stack"))


def read(name, *entries):
    return read_spec(name, parse_entries(entries), where="methods")


def test_every_method_of_the_package_has_its_lines():
    found = [name for _, name, is_package in pkgutil.iter_modules(distill.__path__) if not is_package]
    for module in (importlib.import_module(f"{distill.__name__}.{name}") for name in found):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Method) and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                assert getattr(distill, name, None) is kind, f"{module.__name__}: {name} in fastadv/distill/__init__.py"
                assert kind in {each.kind for each in METHODS.values()}, f"{name} in train/config/methods.py"


def test_options_reach_the_constructor_in_their_types():
    method = read("tald", "tald.eps=8/255", "tald.images=none", "tald.clean=false", "tald.samples=none").build()
    assert isinstance(method, TALD)
    assert (method.eps, method.images, method.clean, method.samples) == (8 / 255, None, False, "none")
    method = read("tald", "tald.bounds=[-2.5, 2.5]", "tald.score_scale=2", "tald.bandwidth=median").build()
    assert (method.bounds, method.score_scale, method.bandwidth) == ((-2.5, 2.5), 2.0, "median")
    assert read("tald", "tald.bounds=none").build().bounds is None


def test_what_is_not_given_is_the_constructors_default():
    assert read("kd").build().temperature == KD().temperature
    assert read("tald").build().eps == TALD().eps == 8 / 255
    assert isinstance(read("ce").build(), CrossEntropy)


def test_a_name_of_its_own_is_another_setting_of_a_method():
    entries = ["soft.method=kd", "soft.temperature=9", "kd.temperature=2", "kd.alpha=0.5"]
    soft, hard = read("soft", *entries).build(), read("kd", *entries).build()
    assert (soft.temperature, soft.alpha) == (9.0, 0.5), "what it does not give is that of its method"
    assert (hard.temperature, hard.alpha) == (2.0, 0.5)


def test_a_method_is_built_on_a_setting_with_that_ones_options():
    setting = read("stack", "stack.base=tald", "tald.base=soft", "tald.eps=0.5", "soft.method=kd", "soft.alpha=0.25")
    built = setting.build()
    assert (built.base.eps, built.base.base.alpha) == (0.5, 0.25)
    assert setting.names() == {"stack", "tald", "soft", "kd"}
    assert read("tald", "tald.base=ce").build().base.term == "ce"


def test_a_base_that_is_not_given_has_the_options_of_its_table_too():
    for entries in (("kd.temperature=20",), ("kd.temperature=20", "tald.base=none")):
        spec = read("tald", *entries)
        assert (spec.build().base.term, spec.build().base.temperature) == ("kd", 20.0)
        assert (spec.label, spec.names()) == ("TALD + KD", {"tald", "kd"})
    assert read("tald", "tald.base=ce", "kd.temperature=20").names() == {"tald", "ce"}


def test_a_base_that_is_overridden_is_not_built_on():
    entries = ["stack.base=inner", "inner.method=stack", "inner.base=ce"]
    assert isinstance(read("stack", *entries).build().base.base, CrossEntropy)


def test_a_constructor_takes_the_networks_it_has_arguments_for():
    def network(x):
        return x

    setting = read("outer", "outer.method=stack", "outer.base=stack", "stack.base=kd")
    built = setting.build(network=network, other=network)
    assert built.network is network
    assert built.base.network is network
    assert setting.build().network is None


def test_tables_come_back_as_they_were_given_in_the_types_of_options():
    tables = parse_entries(
        ["tald.eps=8/255", "tald.base=kd", "own.method=tald", "own.images=none", "own.bounds=[0, 1]"]
    )
    assert check_tables(tables) == {
        "tald": {"eps": 8 / 255, "base": "kd"},
        "own": {"method": "tald", "images": None, "bounds": (0.0, 1.0)},
    }


def test_options_are_those_arguments_that_a_recipe_can_hold():
    assert list(options_of(Stack)) == ["base", "scale", "pair"]
    assert [name for name, option in options_of(TALD).items() if option.is_method] == ["base"]


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        (
            "unheard",
            [],
            r"methods: 'unheard', expected one of ce, kd, .*tald.*, or a name with options\.unheard\.method",
        ),
        ("own", ["own.eps=1"], r"methods: 'own', expected one of ce, kd, .*, or a name with options\.own\.method"),
        ("own", ["own.method=unheard"], r"options\.own\.method: 'unheard', expected one of ce, kd"),
        ("kd", ["kd.method=tald"], r"options\.kd\.method: 'tald', but kd is a method itself"),
        ("kd", ["kd.heat=1"], r"options\.kd\.heat: no such option; the options are temperature, alpha"),
        ("ce", ["ce.heat=1"], r"options\.ce\.heat: no such option; it has no options"),
        ("kd", ["kd.alpha=much"], r"options\.kd\.alpha: 'much' \(str\), expected a number"),
        ("tald", ["tald.steps=1.5"], r"options\.tald\.steps: 1\.5 \(float\), expected int"),
        ("tald", ["tald.clean=1"], r"options\.tald\.clean: 1 \(int\), expected true or false"),
        ("tald", ["tald.bounds=[0, 1, 2]"], r"options\.tald\.bounds: .* expected a list of 2"),
        ("tald", ["tald.score_scale=[1]"], r"options\.tald\.score_scale: .* expected a number or .* or str"),
        ("at", ["at.layers=1"], r"options\.at\.layers: 1 \(int\), expected a list"),
        ("tald", ["tald.base=4"], r"options\.tald\.base: 4 \(int\), expected str"),
        ("tald", ["tald.base=unheard"], r"options\.tald\.base: 'unheard', expected one of ce, kd, .*tald"),
        ("stack", [], r"options\.stack\.base: not given, expected METHOD"),
        ("stack", ["stack.base=stack"], r"options\.stack\.base: 'stack' would be built on itself"),
        ("stack", ["stack.base=a", "a.method=stack", "a.base=stack"], r"options\.a\.base: 'stack' would be built"),
    ],
)
def test_what_cannot_be_is_named(name, entries, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        read(name, *entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["x.method=kd", "x.temperature=0"], r"options\.x \(kd\): temperature must be positive and finite, got 0\.0"),
        (["x.method=tald", "x.base=tald", "x.eps=1"], r"options\.x \(tald\): base must be a base loss .*, got TALD"),
        (["x.method=tald", "x.base=kd", "kd.alpha=nan"], r"options\.kd: alpha must be a number, got nan"),
    ],
)
def test_what_the_constructor_refuses_is_named(entries, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        read("x", *entries).build()


def test_a_table_of_no_method_is_named():
    with pytest.raises(ConfigError, match=r"^options: 'tlad', did you mean tald\? expected one of ce, kd"):
        check_tables(parse_entries(["tlad.particles=3"]))


@pytest.mark.parametrize("entry", ["kd", "kd=1", "kd.alpha", ".alpha=1", "kd.alpha=", "a b.alpha=1"])
def test_an_entry_of_another_form_is_refused(entry):
    with pytest.raises(ConfigError, match=r"^option: .*, expected NAME\.KEY=VALUE"):
        parse_entries([entry])


def test_labels_say_the_base_and_the_name_of_a_further_setting():
    entries = ["none.method=tald", "none.samples=none", "plain.method=tald", "plain.base=ce", "tald.eps=0.5"]
    settings = [read(name, *entries) for name in ("ce", "kd", "tald", "none", "plain")]
    assert label_specs(settings, parse_entries(entries)) == {
        "ce": "plain (CE)",
        "kd": "KD",
        "tald": "TALD + KD",
        "none": "TALD + KD (none)",
        "plain": "TALD + plain (CE)",
    }


def test_a_setting_alone_is_not_called_as_the_method_is():
    entries = ["noise.method=tald", "noise.samples=noise", "igdm.base=rslad", "other.method=igdm", "other.base=adaad"]
    settings = [read(name, *entries) for name in ("noise", "other")]
    assert label_specs(settings, parse_entries(entries)) == {"noise": "TALD + KD (noise)", "other": "IGDM + AdaAD"}


def test_further_settings_of_a_method_bear_their_names():
    settings = [read(name, "twin.method=kd") for name in ("kd", "twin")]
    assert label_specs(settings, {}) == {"kd": "KD", "twin": "KD (twin)"}


def test_a_name_that_is_no_folders_is_refused():
    with pytest.raises(ConfigError, match=r"^options: '\.\./up', expected a name of letters, digits, - and _"):
        read_spec("../up", {"../up": {"method": "kd"}}, where="methods")
