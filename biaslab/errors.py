"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """An argument, a file or a name is not what was expected.

    The message is one line: the argument in back-ticks, what was expected, what came, and what to do. The command line
    prints it and ends with exit code 2; from Python it is an ordinary ``ValueError``.
    """
