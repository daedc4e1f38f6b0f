"""Record what the real CuPy has: ``python record.py > cupy_api.json`` where its wheel is installed.

No device and no CUDA library is needed: functions are introspected, methods written in Cython are
read off the first line of their docstrings, and modules that cannot be imported without CUDA are
parsed.  Standard library only, besides CuPy itself.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

#: modules that opflow or PyLops reach, and the classes whose methods they call
MODULES = ["cupy", "cupy.linalg", "cupy.random", "cupy.fft", "cupy.cuda", "cupy.cuda.runtime",
           "cupyx", "cupyx.scipy.sparse", "cupyx.scipy.sparse.linalg", "cupyx.scipy.linalg",
           "cupyx.scipy.fft", "cupyx.scipy.ndimage", "cupyx.scipy.signal",
           "cupy.lib", "cupy.lib.stride_tricks"]  # fmt: skip
CLASSES = ["cupy.ndarray", "cupy._core.flags.Flags", "cupy.ufunc", "cupy.cuda.Stream",
           "cupy.cuda.Event", "cupy.cuda.Device", "cupy.cuda.MemoryPool",
           "cupyx.scipy.sparse.csr_matrix", "cupyx.scipy.sparse.csc_matrix",
           "cupyx.scipy.sparse.coo_matrix"]  # fmt: skip
UFUNC_KEYWORDS = ["out", "dtype", "casting", "where", "order", "subok", "axis"]


def ufunc_keywords(cupy) -> list[str]:
    """What a ufunc takes, found by asking: a wrong keyword is refused before the device is."""
    taken = []
    for name in UFUNC_KEYWORDS:
        try:
            cupy.add(1, 2, **{name: None})
        except TypeError as error:
            if "Wrong arguments" in str(error) or "unexpected keyword" in str(error):
                continue
        except Exception:
            pass
        taken.append(name)
    return taken


def tidy(signature: inspect.Signature) -> str:
    """Names, kinds and whether there is a default; annotations and values do not matter."""
    parameters = [
        p.replace(annotation=p.empty, default=None if p.default is not p.empty else p.empty)
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    return str(inspect.Signature(parameters))


def keywords(source: str) -> list[str]:
    """Names that a function takes out of its ``**kwargs``."""
    code = re.sub(r"#.*", "", source)
    return re.findall(r"kwargs\.(?:pop|get)\(\s*['\"](\w+)", code)


def spelled(function, signature: inspect.Signature) -> str:
    """The signature with what ``**kwargs`` stands for written out, where that can be read."""
    parameters = list(signature.parameters.values())
    if parameters and parameters[-1].kind is parameters[-1].VAR_KEYWORD:
        try:
            found = keywords(inspect.getsource(function))
        except (OSError, TypeError):
            found = []
        if found:
            parameters[-1:] = [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
                for name in dict.fromkeys(found)
            ]
            signature = signature.replace(parameters=parameters)
    return tidy(signature)


def from_docstring(thing) -> str:
    """The signature that Cython writes on the first line of a docstring."""
    first = (inspect.getdoc(thing) or "").partition("\n")[0]
    match = re.match(r"[\w.]+\((.*)\)", first)
    if match is None:
        return "(*args, **kwargs)"
    inside = re.sub(r"(?<=[(,\s])_?[A-Za-z_]+\s+(?=[a-z_]\w*\s*[,=)])", "", f"({match[1]})")
    try:
        arguments = ast.parse(f"def f{inside}: pass").body[0].args
    except SyntaxError:
        return "(*args, **kwargs)"
    return parsed(arguments)


def parsed(arguments: ast.arguments) -> str:
    """The same text from a syntax tree."""
    plain = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    required = len(plain) - len(arguments.defaults)
    parts = [name if i < required else f"{name}=None" for i, name in enumerate(plain)]
    if arguments.vararg is not None:
        parts.append("*" + arguments.vararg.arg)
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [
        a.arg if default is None else f"{a.arg}=None"
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg is not None:
        parts.append("**" + arguments.kwarg.arg)
    return f"({', '.join(p for p in parts if p != 'self')})"


def described(thing, ufunc: str) -> str:
    """A signature, or "" for what is not called."""
    if not callable(thing):
        return ""
    if type(thing).__name__ == "ufunc":
        return ufunc
    if type(thing).__name__ == "_GUFunc":
        return tidy(inspect.signature(thing))
    try:
        return spelled(thing, inspect.signature(thing))
    except (ValueError, TypeError):
        return from_docstring(thing)


def parsed_module(name: str) -> dict[str, str]:
    """The names of a package that cannot be imported, from its source."""
    package = name.rpartition(".")
    path = Path(importlib.import_module(package[0]).__path__[0]) / package[2]
    found = {}
    for node in ast.parse((path / "__init__.py").read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.module.startswith(name):
            continue
        source = path / (node.module.removeprefix(name).strip(".").replace(".", "/") + ".py")
        tree = ast.parse(source.read_text()) if source.exists() else ast.Module([], [])
        functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        for alias in node.names:
            function = functions.get(alias.name)
            key = alias.asname or alias.name
            if not key.startswith("_"):
                found[key] = "(*args, **kwargs)" if function is None else parsed(function.args)
    return found


def main() -> None:
    import cupy

    ufunc = f"(*args, {', '.join(f'{name}=None' for name in ufunc_keywords(cupy))})"
    modules, classes = {}, {}
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            modules[name] = parsed_module(name)
            continue
        modules[name] = {
            key: described(getattr(module, key), ufunc)
            for key in sorted(vars(module))
            if not key.startswith("_") and key != "annotations"
            and not inspect.ismodule(getattr(module, key))
        }  # fmt: skip
    for name in CLASSES:
        head, _, tail = name.rpartition(".")
        cls = getattr(importlib.import_module(head), tail)
        classes[name] = {
            key: described(getattr(cls, key), ufunc)
            for key in sorted(dir(cls))
            if not key.startswith("_")
            or re.fullmatch(r"__(i?(add|sub|mul|matmul|truediv)|index)__", key)
        }
        if name.startswith("cupyx.scipy.sparse"):  # set by the constructor, not on the class
            fields = {"coo": ("data", "row", "col")}.get(cls.format, ("data", "indices", "indptr"))
            classes[name] |= dict.fromkeys(fields, "")
    json.dump({"version": cupy.__version__, "modules": modules, "classes": classes}, sys.stdout,
              indent=0, sort_keys=True)  # fmt: skip


if __name__ == "__main__":
    main()
