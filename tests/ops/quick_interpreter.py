"""Triton's interpreter, which prepares Triton's language once a launch in place of once a call inside a kernel."""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Let the interpreter look through Triton's language at the first call of a launch alone.

    At every call of a function from a kernel, of which a launch has hundreds, it looks anew and finds what it put there
    itself: half of the time of the tests in it. Nothing is done without Triton, or where its inner parts are others.
    """
    try:
        import triton.language as language
        from triton.runtime import interpreter
    except ImportError:
        return
    if not hasattr(interpreter, "_patch_lang") or not hasattr(interpreter, "_LangPatchScope"):
        return
    patch, scope_kind = interpreter._patch_lang, interpreter._LangPatchScope
    patched: list[Any] = []

    class Scope(scope_kind):
        def restore(self) -> None:
            super().restore()
            patched.clear()

    def patch_once(function: Any) -> Any:
        used = function.__globals__.values()
        missing = [
            module
            for module in (language, language.core)
            if module not in patched and any(value is module for value in used)
        ]
        if not missing:
            return scope_kind()
        patched.extend(missing)
        scope = Scope()
        scope._changes = patch(function)._changes
        return scope

    interpreter._patch_lang = patch_once
