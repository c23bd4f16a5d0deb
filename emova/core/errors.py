"""Errors as types: a caller that must tell cases apart asks for the class, never for words of the message."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Bad input: the message is one line that names the thing, the reason and the fix.

    The command line prints the message alone and exits with 2; a server sends it to its client. It therefore
    never holds another library's message, a traceback or a path that the user did not give.
    """


class TooLongError(InputError):
    """A question has more sound, or more tokens, than one may have; no more of it helps, it must begin anew."""


class BusyError(InputError):
    """All places are taken: the same request may succeed in a moment."""


class ClosedError(InputError):
    """The session or task was closed; another must be opened."""


class UnsupportedModelError(InputError):
    """A faster way to run a model does not know its architecture; the standard way does."""


class InternalFault(RuntimeError):
    """A fault inside that is no user's doing, after it was logged; the message is one line fit to be shown."""

    def __init__(self, message: str = "the reply broke off by a fault inside; ask again") -> None:
        super().__init__(message)


class UnfitReplyError(InternalFault):
    """A reply in whose place another one is written."""


class UncertainReplyError(UnfitReplyError):
    """The model was not sure of its words, and nobody has got them yet."""


class DistractedReplyError(UnfitReplyError):
    """The model was less sure of its words than it is of what its earlier turns are about, and nobody has got them."""


class GarbledReplyError(UnfitReplyError):
    """The model wrote no answer but its format's own words, or a voice that ends before its text is said."""

    def __init__(self) -> None:
        super().__init__("the model lost the thread, so its answer was left out; ask again or begin anew")


def disk_full(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, is that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
