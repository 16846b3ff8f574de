"""Writes `leveret.sync` from the asynchronous client: `make sync`.

Each class of `FACES` becomes a synchronous one of the same name: its public methods, properties and
attributes with their signatures and docstrings, read from the source of `leveret.client`. What a member
returns or takes decides how it is translated; what cannot be translated stops the generator with a sentence
that says so. Members that are public only among the modules of the client are listed in `FACES`, too: a new
one is part of the synchronous face unless somebody says otherwise.

Needs ruff, which gives the result its form.
"""

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .docstrings import docstring, in_other_words

SYNC = Path(__file__).resolve().parents[1] / "sync"
CLIENT = SYNC.parent / "client"
HEADER = "Written by generate.py from leveret.client.{}: `make sync` writes it anew."


@dataclass(frozen=True)
class FaceOf:
    """A class of the client that has a synchronous face."""

    module: str
    name: str
    internal: frozenset[str] = frozenset()  # public names that are the client's own affair
    is_connection: bool = False  # whose end is the end of the loop
    works_anywhere: bool = False  # its plain methods, and coroutines listed in `here`, may run in any thread
    here: frozenset[str] = frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FACES = (
    FaceOf(
        "connection",
        "Connection",
        _names("topology phase survives message_max_bytes require_open open forget_channel link"),
        is_connection=True,
    ),
    FaceOf(
        "channel",
        "Channel",
        _names(
            "was_opened settler current_transaction require_open abandon ended open resume suspend "
            "consumer_restored writable request start_request send write_batches frame_received "
            "start_consumer cancel_consumer get"
        ),
    ),
    FaceOf("exchange", "Exchange"),
    FaceOf("queue", "Queue"),
    FaceOf("queue", "Iteration"),
    FaceOf(
        "consumer",
        "Consumer",
        _names("number subscription workers waiting delivered link_lost ended"),
    ),
    FaceOf(
        "incoming",
        "IncomingMessage",
        _names("settled_by_delivery ack_taken ack_returned give_back unsettle"),
        works_anywhere=True,
    ),
    FaceOf("processing", "Processing", works_anywhere=True, here=_names("__aenter__ __aexit__")),
)
FUNCTIONS = {"connection": ("connect",)}
ASYNC_ONLY = {"Connector", "run"}  # exported by the client, and of no use here

OF_CALLBACKS = {"Callback": "handler", "OnError": "on_error", "F": None}
"""Names that callbacks.py defines anew, and what it has to translate an argument of that type."""

ENDS = {"close", "cancel", "stop", "__aexit__"}  # nothing is left to do when the connection is closed
SPECIAL = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}


class CannotTranslate(Exception):
    """What to do is in the message."""


# Reading the client


@dataclass
class Source:
    """A module of the client."""

    name: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)  # name -> the statement that imports it
    definitions: dict[str, ast.stmt] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> "Source":
        source = cls(name, ast.parse((CLIENT / f"{name}.py").read_text(encoding="utf-8")))
        statements = list(source.tree.body)
        for statement in source.tree.body:
            if isinstance(statement, ast.If):  # TYPE_CHECKING
                statements += statement.body
        for statement in statements:
            source._note(statement)
        return source

    def _note(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import(names):
                for alias in names:
                    self.imports[alias.asname or alias.name] = ast.unparse(statement)
            case ast.ImportFrom(module, names, level):
                package = f"leveret.client.{module}" if level else module
                for alias in names:
                    self.imports[alias.asname or alias.name] = f"from {package} import {ast.unparse(alias)}"
            case ast.ClassDef(name) | ast.FunctionDef(name):
                self.definitions[name] = statement
            case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                self.definitions[name] = statement

    def class_of(self, name: str) -> ast.ClassDef:
        found = self.definitions.get(name)
        if not isinstance(found, ast.ClassDef):
            raise CannotTranslate(f"client/{self.name}.py has no class {name}; see FACES in generate.py")
        return found


# Types

FACE_MODULES = {face.name: face.module for face in FACES}


class Types(ast.NodeTransformer):
    """Translates annotations of one module, and remembers what must be imported for them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.imports: set[str] = set()
        self.assignments: set[str] = set()

    def translated(self, annotation: ast.expr | None) -> str:
        return "None" if annotation is None else ast.unparse(self.visit(_copy(annotation)))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            result: ast.expr = self.visit(ast.parse(node.value, mode="eval").body)
            return result
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value) == "Literal":
            self.visit(node.value)
            return node
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(self.name(node.id), mode="eval").body

    def name(self, name: str) -> str:
        """How a name of the client's module is written here."""
        module = FACE_MODULES.get(name)
        if module == self.source.name:
            return name
        if module is not None:
            self.imports.add(f"from . import {module} as _{module}")
            return f"_{module}.{name}"
        if name in OF_CALLBACKS:
            self.imports.add("from . import callbacks")
            return f"callbacks.{name}"
        self.needed(name)
        return name

    def needed(self, name: str) -> None:
        """Have a name of the client's module here, too."""
        definition = self.source.definitions.get(name)
        if name in self.source.imports:
            self.imports.add(self.source.imports[name])
        elif isinstance(definition, ast.Assign) and ast.unparse(definition.value).startswith("TypeVar("):
            self.imports.add("from typing import TypeVar")
            self.assignments.add(ast.unparse(definition))
        elif definition is not None:
            self.imports.add(f"from leveret.client.{self.source.name} import {name}")
        elif not hasattr(builtins, name):
            raise CannotTranslate(f"client/{self.source.name}.py does not say what {name} is")


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def faces_in(annotation: ast.expr) -> set[str]:
    """The names of classes with a face that an annotation mentions."""
    found = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isprintable():
            found |= set(re.findall(r"\w+", node.value))
    return found & set(FACE_MODULES)


@dataclass(frozen=True)
class Result:
    """How the result of a member is translated: `text` is the annotation, `form` has `{}` for the value."""

    text: str
    form: str = "return {}"
    is_awaited: bool = False


def result_of(types: Types, annotation: ast.expr | None, *, is_awaited: bool) -> Result:
    """Decide by the annotation of what is returned."""
    if annotation is None:
        raise CannotTranslate("a return annotation is missing")
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    match annotation:
        case ast.Constant(None):
            return Result("None", "{}", is_awaited)
        case ast.Name("Done"):
            return Result("None", "{}", is_awaited)
        case ast.Name(name) if name in FACE_MODULES:
            face = types.name(name)
            return Result(types.translated(annotation), f"return {face}(self._portal, {{}})", is_awaited)
        case ast.Subscript(ast.Name("Opening" | "Awaitable"), inner) if not is_awaited:
            return result_of(types, inner, is_awaited=True)
        case ast.BinOp(ast.Name(name), ast.BitOr(), ast.Constant(None)) if name in FACE_MODULES:
            face = types.name(name)
            text = f"found = {{}}\nreturn None if found is None else {face}(self._portal, found)"
            return Result(types.translated(annotation), text, is_awaited)
        case ast.Subscript(ast.Name("list"), ast.Name(name)) if name in FACE_MODULES:
            face = types.name(name)
            text = f"return [{face}(self._portal, one) for one in {{}}]"
            return Result(types.translated(annotation), text, is_awaited)
    if faces_in(annotation):
        raise CannotTranslate(f"result_of() in generate.py has no rule for {ast.unparse(annotation)}")
    if ast.unparse(annotation) == "Callable[[F], F]":
        types.imports.add("from . import callbacks")
        return Result(types.translated(annotation), "return callbacks.decorator(self._portal, {})")
    return Result(types.translated(annotation), is_awaited=is_awaited)


# Members


@dataclass
class Method:
    """A method (or function) of the client on its way to become a synchronous one."""

    face: FaceOf
    types: Types
    node: ast.FunctionDef | ast.AsyncFunctionDef
    preparations: list[str] = field(default_factory=list)  # statements before the call

    @property
    def name(self) -> str:
        return SPECIAL.get(self.node.name, self.node.name)

    @property
    def is_async(self) -> bool:
        return isinstance(self.node, ast.AsyncFunctionDef)

    def signature(self) -> str:
        arguments = self.node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                argument.annotation = ast.parse(self.types.translated(argument.annotation), mode="eval").body
        for default in (*arguments.defaults, *arguments.kw_defaults):
            for part in ast.walk(default) if default is not None else ():
                if isinstance(part, ast.Name):
                    self.types.needed(part.id)
        return ast.unparse(arguments)

    def passed(self) -> str:
        """The arguments of the call to the client."""
        arguments = self.node.args
        positional = [self._passed(argument) for argument in (*arguments.posonlyargs, *arguments.args)]
        if positional and arguments.args[0].arg == "self":
            del positional[0]
        named = [f"{argument.arg}={self._passed(argument)}" for argument in arguments.kwonlyargs]
        return ", ".join((*positional, *named))

    def _passed(self, argument: ast.arg) -> str:
        annotation = argument.annotation
        if annotation is None:
            return argument.arg
        for name, translate in OF_CALLBACKS.items():
            if translate is not None and ast.unparse(annotation) == name:
                self.types.imports.add("from . import callbacks")
                return f"callbacks.{translate}(self._portal, {argument.arg})"
        match annotation:
            case ast.Subscript(ast.Name("Callable")) if not self.face.works_anywhere:
                self.types.imports.add("from . import callbacks")
                return f"callbacks.told({argument.arg})"
            case ast.Subscript(ast.Name("Iterable")):
                self.preparations.append(f"{argument.arg} = list({argument.arg})  # in this thread")
        if faces_in(annotation):
            self.types.imports.add("from .face import bare")
            return f"bare({argument.arg})"
        return argument.arg

    def written(self, body: str, returns: str, *decorators: str) -> str:
        """The whole method."""
        text = docstring(self.node)
        head = f"def {self.name}({self.signature()}) -> {returns}:"
        return "\n".join((*decorators, head, *_indented(text), *_indented(body), ""))

    def stub(self) -> str:
        """An overload."""
        result = result_of(self.types, self.node.returns, is_awaited=self.is_async)
        self.types.imports.add("from typing import overload")
        return f"@overload\ndef {self.name}({self.signature()}) -> {result.text}: ...\n"

    def translated(self, *, is_overloaded: bool = False) -> str:
        node = self.node
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        passed = self.passed()
        call = f"lambda: self._async.{node.name}({passed})" if passed else f"self._async.{node.name}"
        if "asynccontextmanager" in decorators:
            return self._context_manager(call)
        if node.name == "__aiter__":
            return self._iteration()
        if self._returns_itself():
            return self.written("return self", "Self")
        result = result_of(self.types, node.returns, is_awaited=self.is_async)
        way = self._way(is_awaited=result.is_awaited)
        if "decorator" in result.form:
            return self.written(result.form.format(call), result.text)
        if is_overloaded:  # the client's own overloads are stricter than its implementation
            self.types.imports.add("from typing import Any")
            self.preparations.append(f"method: Any = self._async.{node.name}")
            call = f"lambda: method({passed})"
        body = "".join(f"{line}\n" for line in self.preparations) + result.form.format(
            f"self._portal.{way}({call})"
        )
        if node.name == "__anext__":
            body = f"try:\n{_shifted(body)}\nexcept StopAsyncIteration:\n    raise StopIteration from None"
        return self.written(body, result.text)

    def _way(self, *, is_awaited: bool) -> str:
        """The portal's method for it."""
        if self.node.name in self.face.here:
            return "run_here"
        if not is_awaited:
            return "call_here" if self.face.works_anywhere else "call"
        if self.node.name in ENDS:
            return "close" if self.face.is_connection else "end"
        return "run"

    def _returns_itself(self) -> bool:
        returns = self.node.returns
        return self.node.name == "__aenter__" and isinstance(returns, ast.Name) and returns.id == "Self"

    def _context_manager(self, call: str) -> str:
        match self.node.returns:
            case ast.Subscript(ast.Name("AsyncIterator"), ast.Constant(None)):
                body = f"with self._portal.entered({call}):\n    yield"
            case _:
                raise CannotTranslate(f"{self.name}: only context managers of None are known")
        self.types.imports.add("from contextlib import contextmanager")
        self.types.imports.add("from collections.abc import Iterator")
        return self.written(body, "Iterator[None]", "@contextmanager")

    def _iteration(self) -> str:
        match self.node.returns:
            case ast.Name("Self"):
                return self.written("return self", "Self")
            case ast.Subscript(
                ast.Name("AsyncIterator" | "AsyncGenerator"), ast.Name(name) | ast.Tuple([ast.Name(name), _])
            ):
                face = self.types.name(name)
                self.types.imports.add("from collections.abc import Iterator")
                body = f"return self._portal.iterate(lambda: aiter(self._async), {face})"
                return self.written(body, f"Iterator[{face}]")
        raise CannotTranslate(f"{self.name}: what does it iterate over?")


def _indented(text: str) -> list[str]:
    return [f"    {line}" if line else "" for line in text.splitlines()] if text else []


def _shifted(text: str) -> str:
    return "\n".join(_indented(text))


# Modules


def property_of(face: FaceOf, types: Types, name: str, annotation: ast.expr, text: str = "") -> str:
    result = result_of(types, annotation, is_awaited=False)
    body = "\n".join(_indented("\n".join((text, result.form.format(f"self._async.{name}"))).strip()))
    return f"@property\ndef {name}(self) -> {result.text}:\n{body}\n"


def attributes_of(face: FaceOf, types: Types, class_: ast.ClassDef) -> Iterator[str]:
    """What `__init__` puts into public attributes: properties here."""
    for member in class_.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            arguments = (*member.args.args, *member.args.kwonlyargs)
            annotations = {argument.arg: argument.annotation for argument in arguments}
            for statement in member.body:
                match statement:
                    case ast.AnnAssign(ast.Attribute(ast.Name("self"), name), annotation):
                        found: ast.expr | None = annotation
                    case ast.Assign([ast.Attribute(ast.Name("self"), name)], value):
                        found = _type_of(types.source, value, annotations)
                    case _:
                        continue
                if name.startswith("_") or name in face.internal:
                    continue
                if found is None:
                    raise CannotTranslate(f"{face.name}.{name} needs an annotation in __init__")
                yield property_of(face, types, name, found)


def _type_of(source: Source, value: ast.expr, annotations: dict[str, ast.expr | None]) -> ast.expr | None:
    match value:
        case ast.Name(name) if name in annotations:
            return annotations[name]
        case ast.Name(name) if isinstance(constant := source.definitions.get(name), ast.Assign):
            return _type_of(source, constant.value, {})
        case ast.Call(ast.Name(name)) if name[0].isupper():
            return ast.Name(name)
        case ast.Constant(bool() | int() | str() | float() as constant):
            return ast.Name(type(constant).__name__)
    return None


def members_of(face: FaceOf, types: Types, class_: ast.ClassDef) -> Iterator[str]:
    """Properties and methods, as they follow each other in the source."""
    overloaded = set()
    for member in class_.body:
        if not isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = member.name
        if name in face.internal or (name.startswith("_") and name not in SPECIAL):
            continue
        decorators = {ast.unparse(decorator) for decorator in member.decorator_list}
        method = Method(face, types, member)
        try:
            if "property" in decorators:
                if member.returns is None:
                    raise CannotTranslate("a return annotation is missing")
                yield property_of(face, types, name, member.returns, docstring(member))
            elif "overload" in decorators:
                overloaded.add(name)
                yield method.stub()
            elif decorators - {"asynccontextmanager"}:
                raise CannotTranslate(f"no rule for the decorators {decorators}")
            else:
                yield method.translated(is_overloaded=name in overloaded)
        except CannotTranslate as error:
            raise CannotTranslate(f"{face.name}.{name}: {error}") from None


def class_text(face: FaceOf, types: Types) -> str:
    class_ = types.source.class_of(face.name)
    text = docstring(class_)
    if "See the module's docstring." in text:
        text = f'"""{in_other_words(ast.get_docstring(types.source.tree) or "")}"""'
    members = (*attributes_of(face, types, class_), *members_of(face, types, class_))
    body = "\n".join((text, "__slots__ = ()\n", *members))
    return f"class {face.name}(Face[aio.{face.name}]):\n{_shifted(body)}\n"


def function_text(types: Types, name: str) -> str:
    """A function that opens a connection."""
    node = types.source.definitions.get(name)
    if not isinstance(node, ast.FunctionDef):
        raise CannotTranslate(f"client/{types.source.name}.py has no function {name}; see FUNCTIONS")
    method = Method(FACES[0], types, node)
    passed = method.passed()
    types.imports.add("from .portal import open_connection")
    return method.written(f"return open_connection(lambda: aio.{name}({passed}), Connection)", "Connection")


def module_text(module: str) -> str:
    faces = [face for face in FACES if face.module == module]
    source = Source.read(module)
    types = Types(source)
    classes = [class_text(face, types) for face in faces]
    functions = [function_text(types, name) for name in FUNCTIONS.get(module, ())]
    types.imports |= {f"from leveret.client import {module} as aio", "from .face import Face"}
    if any("-> Self" in text for text in classes):
        types.imports.add("from typing import Self")
    names = " and ".join(f"`{face.name}`" for face in faces)
    intro = f'"""{names} for synchronous code.\n\n{HEADER.format(module)}\n"""\n'
    intro += "from __future__ import annotations  # these modules import each other\n"
    imports, assignments = "\n".join(sorted(types.imports)), "\n".join(sorted(types.assignments))
    return formatted(module, "\n".join((intro, imports, assignments, *classes, *functions)))


def init_text() -> str:
    exported = Source.read("__init__").definitions["__all__"]
    assert isinstance(exported, ast.Assign)
    names = set(ast.literal_eval(exported.value)) - ASYNC_ONLY
    own = {name: module for name, module in FACE_MODULES.items() if name in names}
    own |= {name: module for module, functions in FUNCTIONS.items() for name in functions}
    imports = [f"from .{module} import {name}" for name, module in own.items()]
    imports.append("from .timeout import timeout")
    imports.append(f"from leveret.client import ({', '.join(sorted(names - set(own)))})")
    listed = ", ".join(f'"{name}"' for name in sorted(names | {"timeout"}))
    written_by_hand = ast.get_docstring(ast.parse((SYNC / "__init__.py").read_text(encoding="utf-8")))
    intro = f'"""{written_by_hand}\n"""'
    return formatted("__init__", "\n".join((intro, *imports, f"__all__ = [{listed}]")))


def formatted(module: str, text: str) -> str:
    """As ruff would have it."""
    for command in (["check", "--fix-only", "--select", "I,F401,RET,RUF022"], ["format"]):
        ruff = [sys.executable, "-P", "-m", "ruff", *command, "--quiet"]
        text = subprocess.run(
            [*ruff, "--stdin-filename", SYNC / f"{module}.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def generate() -> dict[Path, str]:
    """All files that are written here, and what they should contain. Raises CannotTranslate."""
    modules = dict.fromkeys(face.module for face in FACES)
    texts = {SYNC / f"{module}.py": module_text(module) for module in modules}
    return texts | {SYNC / "__init__.py": init_text()}


if __name__ == "__main__":
    try:
        for path, text in generate().items():
            path.write_text(text, encoding="utf-8")
    except CannotTranslate as error:
        sys.exit(f"generate.py: {error}")
