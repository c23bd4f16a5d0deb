"""The one error that a user's bad input raises, and how a full disk is known."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Bad input: the message is one line that names the thing, the reason and the fix.

    The command line prints the message alone and exits with 2; a server sends it to its client. It therefore
    never holds another library's message, a traceback or a path that the user did not give.
    """


def disk_full(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, is that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
