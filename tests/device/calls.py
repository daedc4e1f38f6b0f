"""Which CuPy functions and methods a package calls, and whether the real CuPy has them.

``python calls.py PACKAGE API.json`` reads the source of a package and prints what does not fit:
names reached through an array module (``xp.linalg.norm``, ``namespace(x).zeros``, whatever these
are assigned to), and methods and attributes that NumPy or SciPy arrays have, of which a receiver
that is not seen to be on the host may be a device array.  Arguments are bound to the recorded
signatures; where a receiver may be an array or a sparse matrix, one of the two has to fit.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import scipy.sparse as sp

#: calls that give an array module, and the name it goes by as an argument (with _, an attribute)
GIVERS, CONVENTION = {"namespace", "op_namespace", "cupy_module"}, "xp"
#: calls that give an object of CuPy, and its class
MAKERS = {"cupy.cuda.get_current_stream": "cupy.cuda.Stream",
          "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool"}  # fmt: skip
#: what the methods of those give
GIVEN = {"cupy.cuda.Stream.record": "cupy.cuda.Event"}
#: calls that give host data
HOST = {"to_host", "float", "int", "len", "str", "bool", "list", "dict", "set", "sorted", "range"}
ARRAY = {name for name in dir(np.ndarray) if not name.startswith("_")} | {"set"}
SPARSE = {name for name in dir(sp.csr_matrix) if not name.startswith("_")} | {
    "data", "indices", "indptr", "nnz", "format"}  # fmt: skip


@cache
def signature(text: str) -> inspect.Signature:
    scope: dict = {}
    exec(f"def f{text}: pass", scope)
    return inspect.signature(scope["f"])


def misfit(text: str, call: ast.Call) -> str | None:
    """Why the arguments of a call do not fit a signature; None if they do or cannot be seen."""
    if any(isinstance(a, ast.Starred) for a in call.args):
        return None
    if any(k.arg is None for k in call.keywords):
        return None
    try:
        signature(text).bind(*call.args, **{str(k.arg): k.value for k in call.keywords})
    except TypeError as error:
        return str(error)
    return None


class Names:
    """What the names of a scope stand for: array modules, their functions, host data."""

    def __init__(self, outer: "Names | None" = None) -> None:
        self.modules: dict[str, str] = dict(outer.modules) if outer else {}
        self.aliases: dict[str, list[str]] = dict(outer.aliases) if outer else {}
        #: objects of CuPy's other classes; those that `self` holds are known in all methods
        self.objects: dict[str, str] = outer.objects if outer else {}
        self.host: set[str] = set(outer.host) if outer else {"np", "math", "sp", "spla", "json"}
        #: modules, functions and classes of our own, whose attributes are no arrays'
        self.imported: set[str] = set(outer.imported) if outer else set()


class Calls(ast.NodeVisitor):
    """The device calls of one module, as `seen`, and what is wrong with them, as `problems`."""

    def __init__(self, path: str, api: dict) -> None:
        self.path, self.api = path, api
        self.names = Names()
        self.seen: list[str] = []
        self.problems: list[str] = []
        self._calls: set[int] = set()

    # -- what an expression is ------------------------------------------------------------

    def dotted(self, node: ast.AST) -> list[str]:
        """The names in CuPy that an expression stands for; none if it is no part of CuPy."""
        if isinstance(node, ast.Name):
            if node.id in self.names.modules:
                return [self.names.modules[node.id]]
            return self.names.aliases.get(node.id, ["cupy"] if node.id == CONVENTION else [])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return ["cupy"] if node.func.id in GIVERS else []
        if isinstance(node, ast.Attribute):
            if node.attr == f"_{CONVENTION}":
                return ["cupy"]
            return [f"{name}.{node.attr}" for name in self.dotted(node.value)]
        if isinstance(node, ast.IfExp):
            return self.dotted(node.body) + self.dotted(node.orelse)
        return []

    def instance(self, node: ast.AST) -> str | None:
        """The class in CuPy that an expression is an object of, arrays apart."""
        if isinstance(node, ast.Name | ast.Attribute):
            return self.names.objects.get(ast.unparse(node))
        if not isinstance(node, ast.Call):
            return None
        for name in self.dotted(node.func):
            if name in MAKERS or (name in self.api["classes"] and name.startswith("cupy.cuda.")):
                return MAKERS.get(name, name)
        if isinstance(node.func, ast.Attribute):
            return GIVEN.get(f"{self.instance(node.func.value)}.{node.func.attr}")
        return None

    def on_host(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.names.host
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.Dict | ast.List | ast.ListComp):
            return True
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return node.func.id in HOST
            return self.on_host(node.func)
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            return self.on_host(node.value)
        if isinstance(node, ast.BinOp):
            return self.on_host(node.left) and self.on_host(node.right)
        if isinstance(node, ast.UnaryOp):
            return self.on_host(node.operand)
        return False

    # -- scopes and assignments -----------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.Lambda) -> None:
        outer, self.names = self.names, Names(self.names)
        arguments = node.args
        for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            for table in (self.names.modules, self.names.aliases):
                table.pop(a.arg, None)
            self.names.host.discard(a.arg)
            self.names.imported.discard(a.arg)
            if a.annotation is not None and ast.unparse(a.annotation).startswith("np.ndarray"):
                self.names.host.add(a.arg)
        self.generic_visit(node)
        self.names = outer

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if alias.name.partition(".")[0] in ("cupy", "cupyx"):
                self.names.modules[name] = alias.name if alias.asname else name
            else:
                self.names.host.add(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").partition(".")[0] in ("cupy", "cupyx"):
            for alias in node.names:
                self._check(f"{node.module}.{alias.name}", node)
                self.names.modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        else:
            self.names.imported |= {alias.asname or alias.name for alias in node.names}

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            elif isinstance(target, ast.Tuple):
                pairs = [(t, node.value) for t in target.elts]
            for name, value in pairs:
                self._bind(name, value)
                if not isinstance(name, ast.Name):
                    self.visit(name)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self._bind(node.target, node.value)

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        if (cls := self.instance(value)) is not None:
            self.names.objects[ast.unparse(target)] = cls
        if not isinstance(target, ast.Name):
            return
        found = self.dotted(value)
        for table in (self.names.modules, self.names.aliases):
            table.pop(target.id, None)
        self.names.host.discard(target.id)
        self.names.imported.discard(target.id)
        if found and all(name in self.api["modules"] for name in found):
            self.names.modules[target.id] = found[0]
        elif found:
            self.names.aliases[target.id] = found
        elif self.on_host(value):
            self.names.host.add(target.id)

    # -- what is checked ------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        for name in self.dotted(node.func):
            self._check(name, node)
        if isinstance(node.func, ast.Attribute) and not self.dotted(node.func):
            self._calls.add(id(node.func))
            self._method(node.func, node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        found = self.dotted(node)
        for name in found:
            self._check(name, node)
        if not found and id(node) not in self._calls:
            self._method(node, None)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.MatMult) and not self.on_host(node.target):
            self._wrong(node, "CuPy has no @=")
        self.generic_visit(node)

    def _check(self, name: str, node: ast.AST) -> None:
        """A function, constant or module of CuPy by its dotted name, and how it is called."""
        self.seen.append(name)
        modules = self.api["modules"]
        packages = {m.rpartition(".")[0] for m in modules}
        if name in modules or name in packages:
            return
        module, _, attribute = name.rpartition(".")
        if module not in modules and module not in packages:
            return  # an attribute of what was found
        text = modules.get(module, {}).get(attribute)
        if text is None:
            self._wrong(node, f"{module} has no {attribute}")
        elif isinstance(node, ast.Call) and text and (why := misfit(text, node)):
            self._wrong(node, f"{name}{text}: {why}")

    def _method(self, node: ast.Attribute, call: ast.Call | None) -> None:
        """A method or attribute of an object of CuPy, or of what may be a device array."""
        name = node.attr
        if (cls := self.instance(node.value)) is not None:
            self.seen.append(f"{cls}.{name}")
            text = self.api["classes"][cls].get(name)
            if text is None:
                self._wrong(node, f"{cls} has no .{name}")
            elif call is not None and text and (why := misfit(text, call)):
                self._wrong(node, f"{cls}.{name}{text}: {why}")
            return
        flags = isinstance(node.value, ast.Attribute) and node.value.attr == "flags"
        ours = isinstance(node.value, ast.Name) and node.value.id in self.names.imported
        if ours or self.on_host(node.value) or (name not in ARRAY | SPARSE and not flags):
            return
        classes = ["cupy.ndarray"] * (name in ARRAY) + ["cupyx.scipy.sparse.csr_matrix"] * (
            name in SPARSE
        )
        if flags:
            classes = ["cupy._core.flags.Flags"]
        self.seen.append(f"ndarray.{name}")
        texts = [self.api["classes"][cls].get(name) for cls in classes]
        if all(text is None for text in texts):
            self._wrong(node, f"a CuPy array has no .{name}")
        elif call is not None:
            whys = [misfit(text, call) for text in texts if text]
            if whys and all(whys):
                self._wrong(node, f"CuPy's .{name}{next(filter(None, texts))}: {whys[0]}")

    def _wrong(self, node: ast.AST, why: str) -> None:
        self.problems.append(f"{self.path}:{node.lineno}: {why}")


def check(package: Path, api: dict) -> tuple[list[str], list[str]]:
    """What the modules of a package call, and what of it CuPy has not or takes otherwise."""
    seen: list[str] = []
    problems: list[str] = []
    for path in sources(package):
        calls = Calls(str(path.relative_to(package.parent)), api)
        calls.visit(ast.parse(path.read_text()))
        seen += calls.seen
        problems += calls.problems
    return seen, sorted(set(problems))


#: parts that see no device array: pictures and tensors have methods of the same names; and prices
HOST_ONLY = ("plot/", "torch/", "cli/estimate.py")


def sources(package: Path) -> Iterator[Path]:
    for path in sorted(package.rglob("*.py")):
        if not path.relative_to(package).as_posix().startswith(HOST_ONLY):
            yield path


def main() -> None:
    package, api = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    seen, problems = check(package, api)
    print("\n".join(problems))
    names = sorted({name for name in seen if name.startswith("cupy")})
    methods = {name for name in seen if name.startswith("ndarray.")}
    print(f"CuPy {api['version']}: {len(seen)} uses of {len(names)} functions and constants and "
          f"{len(methods)} methods, {len(problems)} problems")  # fmt: skip
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
