"""Whose fault it is: every error Flover raises on purpose belongs to one of these classes."""


class FloverError(Exception):
    """Base of all errors that Flover raises on purpose."""


class RequestError(FloverError, ValueError):
    """The caller asked for something that cannot be done; the server answers 400.

    `param` names the field at fault (None when it is the whole request); `code` is OpenAI's short code.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ConfigError(FloverError, ValueError):
    """A flag or a combination of flags cannot be honoured."""


class ModelError(FloverError):
    """Model files are missing, damaged, or of a kind that Flover does not run."""


class EngineError(FloverError):
    """Flover's own fault: a request ended because the engine could not go on with it."""


class EngineDeadError(EngineError):
    """The engine has stopped and takes no more requests."""


class OutOfResourcesError(EngineError):
    """The machine has no descriptor, memory or process left to start an engine with; later there may be one."""


class InvariantError(FloverError, AssertionError):
    """A law of the engine was found broken: a bug, reported loudly and never repaired in silence."""
