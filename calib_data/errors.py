"""The root of every error this toolchain raises on purpose, and those about tasks and data.

A lower package cannot import a higher one, so the hierarchy starts here: `export.errors` and
`deploy.errors` add the errors of their own rooms to it.
"""


class ToolchainError(Exception):
    """Something the user can mend.

    Attributes:
        message: What is wrong and where, in one line.
        remedy: The command, option or edit that mends it, in one line.
        exit_code: What the command line exits with: 1 failed, 2 wrong usage.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(ToolchainError):
    """An argument that can never work, whatever the state of the machine."""

    exit_code = 2


class UnknownTaskError(UsageError):
    """The task name is not in the registry."""


class TaskFileError(UsageError):
    """A user's task file is missing, or does not describe a task."""


class DataNotFoundError(ToolchainError):
    """A data set or one of its files is not where it was looked for."""


class DataFormatError(ToolchainError):
    """A data file exists, but its content is not what its layout promises."""


class NetworkError(ToolchainError):
    """A hub name was given, and the hub does not answer."""


class TokenizationError(ToolchainError):
    """The tokenizer cannot turn an example into tokens the way the task needs it."""
