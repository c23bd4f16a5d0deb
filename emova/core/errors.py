"""The one error that a user's bad input raises."""


class InputError(ValueError):
    """Bad input: the message is one line that names the thing, the reason and the fix.

    The command line prints the message alone and exits with 2; a server sends it to its client. It therefore
    never holds another library's message, a traceback or a path that the user did not give.
    """
