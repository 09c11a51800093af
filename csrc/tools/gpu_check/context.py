"""What an error can leave behind in a process that computes on a GPU."""

from __future__ import annotations


def lost_context() -> str:
    """Return the error that every later call to the device would raise; nothing where there is none.

    A recording that fails may leave its stream current, on which what follows would be neither ordered nor recorded.
    """
    import torch  # here, so that who only names this waits for nothing

    if not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    current = torch.cuda.current_stream()
    return "" if current == torch.cuda.default_stream() else f"{current} was left current"
