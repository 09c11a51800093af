"""The name that was meant, for messages about one that there is not. Importing this imports no torch."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What other libraries call our arguments.
_SYNONYMS = {
    **dict.fromkeys(("alpha", "eps_iter", "eps_step", "stepsize"), "step_size"),
    **dict.fromkeys(("num_steps", "nb_iter", "n_iter", "num_iter", "iters", "iterations", "max_iter"), "steps"),
    **dict.fromkeys(("epsilon",), "eps"),
    **dict.fromkeys(("p", "ord"), "norm"),
    **dict.fromkeys(("n_restarts", "num_restarts"), "restarts"),
    **dict.fromkeys(("rand_init", "random_init"), "random_start"),
    **dict.fromkeys(("n_queries", "num_queries"), "queries"),
}


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Return a clause for the message of an unknown ``name``: the nearest of ``names``; empty where none is near."""
    known = {_plain(each): each for each in names}
    given = _plain(str(name))
    meant = _SYNONYMS.get(given, "")
    near = [meant] if meant in known else difflib.get_close_matches(given, known, n=1, cutoff=0.7)
    # Of a name as short as pgd, two letters in each other's place are more than a match allows.
    near = near or [each for each in known if sorted(each) == sorted(given)]
    return f", did you mean {known[near[0]]}?" if near else ""


def answers_near_misses(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function``, which answers a keyword that it has not with the nearest that it has: TypeError."""
    names = frozenset(inspect.signature(function).parameters)
    called = f"{function.__qualname__.removesuffix('.__init__')}()"

    @functools.wraps(function)
    def answering(*args: P.args, **keywords: P.kwargs) -> T:
        check_keywords(called, keywords, names)
        return function(*args, **keywords)

    return answering


def check_keywords(called: str, keywords: Iterable[str], names: Iterable[str]) -> None:
    """Raise TypeError for the first of ``keywords`` that is none of ``names``, of what is ``called`` so."""
    for name in keywords:
        if name not in names:
            raise TypeError(f"{called} got an unexpected keyword argument {name!r}{did_you_mean(name, names)}")


def _plain(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "_")
