"""What a Python function is made of, as a hash: an edit gives another one, a restart does not."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from prefdata.fingerprint import digest

_DIRECT = (str, bytes, int, float, complex, bool, type(None))


def hash_code(function: Any) -> str:
    """32 hex digits of a function's source and of what it closes over, as far as that is known.

    Known are, at any depth: functions and classes of the same package or outside of installed
    ones, values of Python's own types, modules of one's own by their file, and of installed
    packages the names alone. Not known are attributes of other objects, what is imported in the
    function's body, and what it reads from files.
    """
    root = inspect.unwrap(function)
    return digest(*_Walk(str(getattr(root, "__module__", "") or "")).parts(function))


class _Walk:
    """One function and all that hangs on it, each thing once."""

    def __init__(self, module: str) -> None:
        self._package = module.partition(".")[0]
        self._seen: dict[int, Any] = {}  # kept, so that no id is given to another object

    def parts(self, value: Any) -> Iterator[Any]:
        """What makes the value, as JSON-like parts."""
        if isinstance(value, _DIRECT):
            yield repr(value)
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, partial):
            yield from self._all(value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            yield from self._all(value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, ModuleType):
            yield from self._module(value)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                yield from self._all(key, value[key])
        elif isinstance(value, list | tuple):
            yield [type(value).__name__, len(value)]
            yield from self._all(*value)
        elif isinstance(value, set | frozenset):
            yield sorted(map(repr, value))
        else:
            yield from self._all(type(value), getattr(value, "__dict__", None))
            if isinstance(value, Path) or not self._is_own(type(value).__module__):
                yield str(value) if isinstance(value, Path) else type(value).__qualname__

    def _all(self, *values: Any) -> Iterator[Any]:
        for value in values:
            yield from self.parts(value)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        yield [function.__module__, function.__qualname__]
        if not self._is_own(function.__module__):
            return
        yield _source(function)
        yield from self._all(function.__defaults__, function.__kwdefaults__)
        if (wrapped := getattr(function, "__wrapped__", None)) is not None:
            yield from self.parts(wrapped)
        for cell in function.__closure__ or ():
            try:
                yield from self.parts(cell.cell_contents)
            except ValueError:  # a cell without a value yet
                continue
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                yield name
                yield from self.parts(function.__globals__[name])

    def _class(self, kind: type) -> Iterator[Any]:
        yield [kind.__module__, kind.__qualname__]
        if self._is_own(kind.__module__):
            members = (m for m in vars(kind).values() if isinstance(m, FunctionType))
            yield from self._all(*kind.__bases__, *members)
            yield _source(kind)

    def _module(self, module: ModuleType) -> Iterator[Any]:
        yield module.__name__
        file = getattr(module, "__file__", None)
        if file and self._is_own(module.__name__):
            yield Path(file).read_bytes().hex()

    def _is_own(self, module: str) -> bool:
        """Whether a module may be edited: it is the function's package, or is not installed."""
        top = module.partition(".")[0]
        if top == self._package:
            return True
        if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
            return False
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or not {"site-packages", "dist-packages"} & {*Path(file).parts}


def _source(thing: Any) -> Any:
    """The source without comments and layout; where there is none, the bytecode."""
    try:
        text = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return [*_bytecode(code)] if code is not None else None
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of a call
        return text


def _bytecode(code: CodeType) -> Iterator[Any]:
    yield code.co_code.hex()
    yield [*code.co_names, *code.co_varnames]
    for constant in code.co_consts:
        yield from _bytecode(constant) if isinstance(constant, CodeType) else [repr(constant)]


def _names(code: CodeType) -> set[str]:
    """Global names that a function and the functions inside of it may read."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inner))
