"""Functions by name, as plans write them; a plugin adds its own by the same decorator."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """Functions of one kind by name.

    kind: what a message calls them.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[Function], Function]:
        """Adds the decorated function.  Raises TypeError, with its name, if that is taken."""

        def add(function: Function) -> Function:
            if name in self:
                raise TypeError(f"{self.kind} {name}: is registered twice")
            self[name] = function
            return function

        return add
