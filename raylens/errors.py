"""What a person did that cannot be done: one sentence, and no traceback."""


class RequestError(Exception):
    """Something asked for cannot be done. Its text says what was given, what would do, and which setting to change.

    Every verb prints it as one line and exits with 2.
    """


class ConfigError(RequestError):
    """A setting, a name or a combination of them is wrong."""


class DataError(RequestError):
    """A data set is missing, broken, or does not fit the others."""


def first_line(error: BaseException) -> str:
    """What another package says is wrong, for the end of a sentence."""
    return str(error).strip().split("\n")[0] or type(error).__name__
