"""What the package reads from vLLM's objects, by AST, and whether a wheel's classes have it.

Types are followed as far as they are written down: imported classes, annotated parameters, what
`__init__` keeps of them, `isinstance` guards, `super()`, and the annotations of vLLM's own classes.
What has no type that can be seen is not judged.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Class = tuple[str, str]
"""Module and name of one of vLLM's classes."""


@dataclass(frozen=True)
class Held:
    """An expression's type: a class of vLLM, or an object of it."""

    cls: Class
    instance: bool


@dataclass(frozen=True)
class Read:
    """One attribute of one type, read at one place of the package."""

    held: Held
    name: str
    called: bool
    place: str
    inside: str
    """The method that it is read in."""


class Classes:
    """Looks attributes up in the classes of a wheel."""

    def __init__(self, wheel: Any) -> None:
        self._wheel = wheel
        self._kinds: dict[tuple[Class, str], str] = {}

    def bases(self, cls: Class) -> tuple[list[tuple[str, ast.ClassDef]], bool]:
        """A class and what it inherits from, and whether all of that could be followed."""
        found = self._wheel.class_of(*cls)
        if found is None:
            return [], False
        where, node = found
        chain, whole = [(where, node)], True
        for base in node.bases:
            base = base.value if isinstance(base, ast.Subscript) else base
            text = ast.unparse(base)
            if text.endswith("nn.Module") or text in ("ABC", "object", "Generic", "Protocol"):
                continue
            more, known = self.bases((where, text)) if isinstance(base, ast.Name) else ([], False)
            chain, whole = chain + more, whole and known
        return chain, whole

    def kind(self, cls: Class, name: str) -> str:
        """How a class has an attribute: "method", "static", "class", "value", "", or "unknown"."""
        if (cls, name) not in self._kinds:
            self._kinds[cls, name] = self._kind(cls, name)
        return self._kinds[cls, name]

    def _kind(self, cls: Class, name: str) -> str:
        import torch

        chain, whole = self.bases(cls)
        for _, node in chain:
            for statement in ast.walk(node):
                if isinstance(statement, Function) and statement in node.body:
                    if statement.name == "__getattr__":
                        return "unknown"
                    if statement.name == name:
                        return _method_kind(statement)
                if name in _assigned(statement):
                    return "value"
        if not whole:
            return "unknown"
        if any("nn.Module" in ast.unparse(b) for _, n in chain for b in n.bases) and hasattr(
            torch.nn.Module(), name
        ):
            return "value"
        if hasattr(object, name):
            return "value"
        # Parameters and the like, which vLLM sets on a layer from another class of its module.
        for module in {where for where, _ in chain}:
            if any(name in _set_on(one) for one in ast.walk(self._wheel.tree(module))):
                return "value"
        return ""

    def type_of(self, cls: Class, name: str) -> set[Held]:
        """What vLLM's own annotations say an attribute of an object is."""
        for where, node in self.bases(cls)[0]:
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == name:
                    return self.named(where, one.annotation)
                if isinstance(one, Function) and one.name == name and one.returns is not None:
                    kinds = {ast.unparse(d) for d in one.decorator_list}
                    return self.named(where, one.returns) if "property" in str(kinds) else set()
        return set()

    def named(self, where: str, annotation: ast.expr) -> set[Held]:
        """The classes of the wheel that an annotation of ``where`` names."""
        found = set()
        for node in ast.walk(_unquoted(annotation)):
            if isinstance(node, ast.Name) and self._wheel.class_of(where, node.id) is not None:
                found.add(Held((where, node.id), True))
        return found


def _method_kind(function: Function) -> str:
    names = {ast.unparse(d).rpartition(".")[2] for d in function.decorator_list}
    if "staticmethod" in names:
        return "static"
    if "classmethod" in names:
        return "class"
    return "value" if any("property" in n for n in names) else "method"


def _targets(node: ast.AST) -> list[ast.expr]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    return [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]


def _assigned(node: ast.AST) -> set[str]:
    """Names that a statement of a class sets on it or on an object."""
    return _set_on(node) | {one.id for one in _targets(node) if isinstance(one, ast.Name)}


def _set_on(node: ast.AST) -> set[str]:
    """Names that a statement sets on an object."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
        "register_parameter",
        "register_buffer",
    ):
        first = node.args[0] if node.args else None
        return {str(first.value)} if isinstance(first, ast.Constant) else set()
    return {one.attr for one in _targets(node) if isinstance(one, ast.Attribute)}


def _unquoted(annotation: ast.expr) -> ast.expr:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


class _Reader:
    """Follows types through one file of the package."""

    def __init__(self, path: str, tree: ast.Module, classes: Classes) -> None:
        self.path, self.classes = path, classes
        self.found: list[Read] = []
        self.imports = {
            alias.asname or alias.name: (str(node.module), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm"
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                fields = self._fields(node)
                for one in node.body:
                    if isinstance(one, Function):
                        self._function(one, node, {f"self.{k}": v for k, v in fields.items()})
            elif isinstance(node, Function):
                self._function(node, None, {})

    def _named(self, annotation: ast.expr | None) -> set[Held]:
        if annotation is None:
            return set()
        names = [n.id for n in ast.walk(_unquoted(annotation)) if isinstance(n, ast.Name)]
        return {Held(self.imports[n], True) for n in names if n in self.imports}

    def _fields(self, cls: ast.ClassDef) -> dict[str, set[Held]]:
        """What `__init__` keeps of its annotated parameters."""
        fields: dict[str, set[Held]] = {}
        for init in cls.body:
            if isinstance(init, Function) and init.name == "__init__":
                given = {a.arg: self._named(a.annotation) for a in init.args.args}
                for node in ast.walk(init):
                    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                        for target in node.targets:
                            if isinstance(target, ast.Attribute):
                                fields[target.attr] = given.get(node.value.id, set())
        return fields

    def _function(
        self, function: Function, cls: ast.ClassDef | None, known: dict[str, set[Held]]
    ) -> None:
        known = dict(known)
        given = function.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            known[argument.arg] = self._named(argument.annotation)
        if cls is not None:
            bases = [b.id for b in cls.bases if isinstance(b, ast.Name) and b.id in self.imports]
            # Beside other bases of our own, these may be what super() finds.
            if len(bases) == len(cls.bases):
                known["super()"] = {Held(self.imports[base], True) for base in bases}
        self._block(function.body, known, function.name, frozenset())

    def _block(
        self,
        body: list[ast.stmt],
        known: dict[str, set[Held]],
        inside: str,
        asked: frozenset[tuple[str, str]],
    ) -> None:
        for statement in body:
            if isinstance(statement, Function):
                self._block(statement.body, dict(known), inside, asked)
            elif isinstance(statement, ast.If | ast.While):
                self._look(statement.test, known, inside, asked)
                then = {**known, **self._guards(statement.test)}
                self._block(statement.body, then, inside, asked | _hasattr(statement.test))
                self._block(statement.orelse, dict(known), inside, asked)
            elif isinstance(statement, ast.Assert):
                self._look(statement.test, known, inside, asked)
                known.update(self._guards(statement.test))
            else:
                for child in ast.iter_child_nodes(statement):
                    if isinstance(child, ast.expr):
                        self._look(child, known, inside, asked)
                for name in ("body", "orelse", "finalbody"):
                    self._block(getattr(statement, name, []), known, inside, asked)
                for handler in getattr(statement, "handlers", []):
                    self._block(handler.body, dict(known), inside, asked)
                if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                    known[statement.targets[0].id] = self._type(statement.value, known)

    def _guards(self, test: ast.expr) -> dict[str, set[Held]]:
        """What an `isinstance` that holds says."""
        tests = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else []
        said: dict[str, set[Held]] = {}
        for one in (*tests, test):
            if isinstance(one, ast.Call) and ast.unparse(one.func) == "isinstance":
                names = [n.id for n in ast.walk(one.args[1]) if isinstance(n, ast.Name)]
                ours = not all(name in self.imports for name in names)  # not judged
                types = set() if ours else {Held(self.imports[name], True) for name in names}
                said[ast.unparse(one.args[0])] = types
        return said

    def _look(
        self,
        expression: ast.expr,
        known: dict[str, set[Held]],
        inside: str,
        asked: frozenset[tuple[str, str]],
    ) -> None:
        asked |= _hasattr(expression)
        calls = {id(n.func) for n in ast.walk(expression) if isinstance(n, ast.Call)}
        for node in ast.walk(expression):
            if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            if (ast.unparse(node.value), node.attr) in asked:
                continue
            for held in self._type(node.value, known):
                place = f"{self.path}:{node.lineno}"
                self.found.append(Read(held, node.attr, id(node) in calls, place, inside))

    def _type(self, node: ast.expr, known: dict[str, set[Held]]) -> set[Held]:
        text = ast.unparse(node)
        if text in known:
            return known[text]
        if isinstance(node, ast.Name) and node.id in self.imports:
            return {Held(self.imports[node.id], False)}
        if isinstance(node, ast.BoolOp):
            return {held for value in node.values for held in self._type(value, known)}
        if isinstance(node, ast.IfExp):
            return self._type(node.body, known) | self._type(node.orelse, known)
        if isinstance(node, ast.Attribute):
            kept = [h for h in self._type(node.value, known) if h.instance]
            return {t for h in kept for t in self.classes.type_of(h.cls, node.attr)}
        return set()


def _hasattr(test: ast.expr) -> frozenset[tuple[str, str]]:
    """(object, attribute) of each `hasattr` in a condition."""
    return frozenset(
        (ast.unparse(node.args[0]), str(node.args[1].value))
        for node in ast.walk(test)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "hasattr"
        and isinstance(node.args[1], ast.Constant)
    )


def reads(sources: dict[str, str], classes: Classes) -> Iterator[tuple[Read, str]]:
    """Every read whose type is known, and what is wrong with it in this wheel; "" if nothing.

    Args:
        sources: the text of each file of the package by its path.
    """
    for path, text in sources.items():
        for read in _Reader(path, ast.parse(text), classes).found:
            if not classes.bases(read.held.cls)[0]:
                continue  # no class, or gone: a row of its own among the imports
            kind = classes.kind(read.held.cls, read.name)
            if not kind and read.name == read.inside:
                continue  # an override of what this version does not have is never called
            wrong = "" if kind else "not there"
            if kind == "method" and read.called and not read.held.instance:
                wrong = "a method of an object, called on the class"
            yield read, wrong
