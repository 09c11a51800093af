"""Triton's interpreter made quicker: the same checks and the same numbers, without what it does again at every call.

Most of its time goes into types. Where Triton's inner parts are others than those that are replaced here, nothing is.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Replace what is slow, in this process; nothing is done without Triton or where it does not interpret."""
    try:
        import triton
        from triton.language import core
        from triton.language.semantic import TritonSemantic
        from triton.runtime import interpreter
    except ImportError:
        return
    inner = (
        (interpreter, ("_patch_lang", "_LangPatchScope", "_get_np_dtype", "interpreter_semantic")),
        (TritonSemantic, ("binary_op_sanitize_overflow_impl", "broadcast_impl_value")),
        (core, ("block_type", "constexpr", "tensor", "tuple")),
    )
    if not triton.knobs.runtime.interpret or not all(hasattr(part, name) for part, names in inner for name in names):
        return
    _prepare_the_language_once(interpreter)
    _know_numpy_types(interpreter, core)
    _leave_out_what_is_not_asserted(TritonSemantic)
    _know_shapes(core, TritonSemantic)


def _prepare_the_language_once(interpreter: Any) -> None:
    """Leave Triton's language as the interpreter needs it; it would prepare it anew in each launch and call."""
    prepare, scope_kind = interpreter._patch_lang, interpreter._LangPatchScope
    prepared: set[str] = set()

    def prepare_once(function: Any) -> Any:
        # Functions of a module use the same parts of the language.
        if function.__module__ not in prepared:
            prepare(function)
            prepared.add(function.__module__)
        # Who restores this scope restores nothing.
        return scope_kind()

    interpreter._patch_lang = prepare_once


def _know_numpy_types(interpreter: Any, core: Any) -> None:
    """Keep the table of types, which is made at every call."""
    find = interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def find_once(kind: Any) -> Any:
        if isinstance(kind, core.block_type):
            kind = kind.element_ty
        if isinstance(kind, core.pointer_type):
            return find(kind)
        if kind.name not in known:
            known[kind.name] = find(kind)
        return known[kind.name]

    interpreter._get_np_dtype = find_once


def _leave_out_what_is_not_asserted(semantic_kind: Any) -> None:
    """Look for overflows of integers where a debug build asserts them; Triton computes them always, and drops them."""
    check = semantic_kind.binary_op_sanitize_overflow_impl

    def check_where_asserted(self: Any, *arguments: Any) -> None:
        if self.builder.options.debug:
            check(self, *arguments)

    semantic_kind.binary_op_sanitize_overflow_impl = check_where_asserted


def _know_shapes(core: Any, semantic_kind: Any) -> None:
    """Keep the shapes of blocks and of tensors, which are checked, wrapped and written out for every result."""
    plain_block, blocks = core.block_type.__init__, {}
    shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(getattr(size, "value", size) for size in shape)
        if sizes not in blocks:
            plain_block(self, element_ty, shape)
            blocks[sizes] = (self.shape, self.numel, str(self.shape))
            return
        self.shape, self.numel, written = blocks[sizes]
        self.element_ty = element_ty
        self.name = f"<{written}, {element_ty}>"

    def tensor(self: Any, handle: Any, type: Any) -> None:
        sizes = tuple(type.shape) if type.is_block() else ()
        if sizes not in shapes:
            plain_tensor(self, handle, type)
            shapes[sizes] = (self.shape, self.numel)
            return
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shapes[sizes]

    plain_tensor = core.tensor.__init__

    def broadcast(self: Any, left: Any, right: Any) -> tuple[Any, Any]:
        a, b = left.type, right.type
        alike = a.is_block() == b.is_block() and (not a.is_block() or a.shape is b.shape)
        return (left, right) if alike else plain_broadcast(self, left, right)

    plain_broadcast = semantic_kind.broadcast_impl_value
    semantic_kind.broadcast_impl_value = broadcast
    core.block_type.__init__ = block
    core.tensor.__init__ = tensor
