"""A strict stand-in for ``cupy`` and ``cupyx``: NumPy behind a wall, on machines with no GPU.

What it refuses is the point.  Its arrays are no NumPy arrays and cannot become one but by asking
(``.get()``, ``asnumpy``); they do not mix with NumPy operands, NumPy functions or NumPy indices;
reductions give arrays of no dimension; names and keywords are those recorded from the real CuPy
(``cupy_api.json``), so what CuPy lacks does not work here either; an index beyond the end wraps
around, as it does on a device.  Copies on a stream of their own are as late as may be, and what
would be a race is an error (:mod:`tests.device.flights`).  Every transfer is written down with the
line of opflow that made it, see :func:`watch`.

Where CuPy is more lenient than this (NumPy arrays as indices, NumPy functions that dispatch to
CuPy), it would pay with a transfer or a surprise, and nothing here relies on it.
"""

import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from tests.device import flights, nccl

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
PASSED_OVER = (HERE, HERE.parent / "nccl.py", ROOT / "opflow/machine/arrays.py")
API = json.loads((HERE.parent / "cupy_api.json").read_text())


# -- transfers --------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """A transfer: "to device", "to host", "scalar" (to the host), "mpi" or "nccl" (device memory
    that was given to one of them), and who made it."""

    kind: str
    entries: int
    site: str

    @property
    def ours(self) -> bool:
        """Whether opflow made it, and not the test."""
        return self.site.startswith("opflow/")


_log: list[Transfer] | None = None


@contextmanager
def watch() -> Iterator[list[Transfer]]:
    """The transfers made in the block."""
    global _log
    kept, _log = _log, []
    try:
        yield _log
    finally:
        _log = kept


def _note(kind: str, entries: int) -> None:
    if _log is not None:
        _log.append(Transfer(kind, entries, _site()))


def _site() -> str:
    """The nearest line of opflow or of the tests, above `opflow.machine.arrays`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path not in PASSED_OVER and path.is_relative_to(ROOT):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _foreign() -> bool:
    """Whether the code that called NumPy is a library's, and neither opflow's nor a test's."""
    frame = sys._getframe(1)
    while Path(frame.f_code.co_filename) == HERE or "/numpy/" in frame.f_code.co_filename:
        frame = frame.f_back
    return not Path(frame.f_code.co_filename).is_relative_to(ROOT)


# -- signatures -------------------------------------------------------------------------------


@cache
def signature(text: str) -> inspect.Signature:
    """A recorded signature, to bind arguments to."""
    scope: dict = {}
    exec(f"def f{text}: pass", scope)
    return inspect.signature(scope["f"])


def checked(name: str, text: str, args: tuple, kwargs: dict) -> None:
    """Raise ``TypeError``, as CuPy would, for arguments that the real function does not take."""
    try:
        signature(text).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}{text}: {error}") from None


# -- wrapping ---------------------------------------------------------------------------------


def inside(x):
    """The NumPy array in a device array; scalars as they are; NumPy arrays are refused."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, np.ndarray) or sp.issparse(x):
        raise TypeError(f"Unsupported type {type(x)}: host and device operands do not mix")
    if isinstance(x, list | tuple):
        return type(x)(inside(part) for part in x)
    if isinstance(x, _sparse):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def device(x):
    """What NumPy computed, on the device: scalars become arrays of no dimension."""
    if isinstance(x, np.ndarray | np.generic):
        return ndarray._of(np.asarray(x))
    if isinstance(x, tuple | list):
        return tuple(device(part) for part in x)
    return x


def _called(function, args, kwargs):
    out = kwargs.get("out")
    args, kwargs = inside(args), {key: inside(value) for key, value in kwargs.items()}
    with np.errstate(all="ignore"):  # a device does not warn
        result = function(*args, **kwargs)
    return out if out is not None else device(result)


def _function(name: str, text: str, function):
    def call(*args, **kwargs):
        checked(name, text, args, kwargs)
        return _called(function, args, kwargs)

    call.__name__ = call.__qualname__ = name.rpartition(".")[2]
    return call


class _Flags:
    def __init__(self, flags) -> None:
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.owndata, self.forc, self.fnc = flags.owndata, flags.forc, flags.fnc


# -- the array --------------------------------------------------------------------------------


class ndarray:
    """A device array."""

    __slots__ = ("__weakref__", "_born", "_memory")
    __module__ = "cupy"
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C") -> None:
        self._memory, self._born = _plain(np.empty(shape, dtype, order)), flights.tick()

    @classmethod
    def _of(cls, array):
        self = object.__new__(cls)
        self._memory, self._born = _plain(array), flights.tick()
        return self

    @property
    def _a(self):
        """The memory, for the stream that computes."""
        if flights.FLIGHTS:
            flights.touch(self._memory)
        return self._memory

    # to the host, and who may

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    # NumPy's functions find CuPy's by their names; libraries may, opflow may not rely on it

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        scalar = any(isinstance(x, np.generic) for x in inputs)  # on the left of an operator
        if method != "__call__" or (not scalar and not _foreign()):
            raise TypeError(f"numpy.{ufunc.__name__} was called on a device array")
        return _called(ufunc, inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if not _foreign():
            raise TypeError(f"numpy.{function.__name__} was called on a device array")
        return getattr(sys.modules["cupy"], function.__name__)(*args, **kwargs)

    def get(self, stream=None, order="C", out=None, blocking=True):
        _note("to host", self.size)
        return self._a.copy(order)

    def _scalar(self):
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        _note("scalar", 1)
        return self._a.item()

    def item(self):
        return self._scalar()

    def __float__(self):
        return float(self._scalar())

    def __int__(self):
        return int(self._scalar())

    def __complex__(self):
        return complex(self._scalar())

    def __bool__(self):
        return bool(self._scalar())

    def tolist(self):
        _note("to host", self.size)
        return self._a.tolist()

    def __str__(self):
        return str(self.get())

    def __repr__(self):
        return repr(self.get())

    def __format__(self, spec):
        return format(self._scalar(), spec) if self.ndim == 0 else format(self.get(), spec)

    def __reduce__(self):
        return sys.modules["cupy"].array, (self.get(),)

    def set(self, arr, stream=None):
        _note("to device", arr.size)
        if stream is not None:
            return flights.launch(self, self._memory, arr, stream, self._born)
        self._a[...] = arr

    # shape and memory

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: _Flags(self._a.flags))
    device = property(lambda self: Device())
    data = property(lambda self: _Pointer(self._a.ctypes.data))
    real = property(lambda self: device(self._a.real))
    imag = property(lambda self: device(self._a.imag))
    T = property(lambda self: device(self._a.T))
    mT = property(lambda self: device(self._a.mT))

    @property
    def __cuda_array_interface__(self):
        """What MPI takes device memory by; an MPI that knows no CUDA finds host memory there."""
        if not self._a.flags.c_contiguous:
            raise BufferError("memory that is not contiguous was given to MPI")
        _note("mpi", self.size)
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3, "strides": None,
                "data": (self._a.ctypes.data, False)}  # fmt: skip

    @property
    def base(self):
        return None if self._a.base is None else device(np.asarray(self._a.base))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        with np.errstate(all="ignore"):
            return device(self._a.astype(dtype, order, copy=copy))

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return device(self._a[_index(self._a, key)])

    def __setitem__(self, key, value):
        with np.errstate(all="ignore"):
            self._a[_index(self._a, key)] = inside(value)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()


class _Pointer(NamedTuple):
    ptr: int


def _plain(array):
    if array.dtype.kind not in "biufc":
        raise TypeError(f"Unsupported dtype {array.dtype}")
    return array


def _index(array, key):
    """An index for NumPy with CuPy's rules: device arrays wrap around, host arrays are refused."""
    keys = key if isinstance(key, tuple) else (key,)
    consumed = sum(
        (part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1)
        for part in keys
        if part is not None and part is not Ellipsis
    )
    out, axis = [], 0
    for part in keys:
        if part is None:
            out.append(part)
        elif part is Ellipsis:
            out.append(part)
            axis += array.ndim - consumed
        elif isinstance(part, ndarray):
            if part.dtype == bool:
                _note("scalar", 1)  # how many there are decides the shape
                axis += part.ndim
                out.append(part._a)
                continue
            if part.dtype.kind not in "iu":
                raise IndexError("arrays used as indices must be of integer or boolean type")
            out.append(part._a % max(array.shape[axis], 1))
            axis += 1
        elif isinstance(part, slice | int | np.integer):
            if isinstance(part, slice):
                for end in (part.start, part.stop, part.step):
                    if isinstance(end, ndarray):
                        raise TypeError("slice indices must be integers, not device arrays")
            out.append(part)
            axis += 1
        else:
            raise TypeError(f"a device array cannot be indexed by {type(part)}")
    return tuple(out) if isinstance(key, tuple) else out[0]


def _operator(name: str, function, inplace: bool = False, reflected: bool = False):
    def call(self, other):
        if getattr(other, "__array_ufunc__", self) is None or isinstance(other, _sparse):
            return NotImplemented
        if not isinstance(other, ndarray | np.ndarray | np.generic | int | float | complex | bool):
            return NotImplemented
        a, b = inside(self), inside(other)
        with np.errstate(all="ignore"):
            if inplace:
                function(a, b, out=a, casting="same_kind")
                return self
            return device(function(b, a) if reflected else function(a, b))

    call.__name__ = name
    return call


_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "matmul": np.matmul, "lshift": np.left_shift,
    "rshift": np.right_shift,
}  # fmt: skip
for _name, _np in _BINARY.items():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__", _np))
    setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__", _np, reflected=True))
    if _name != "matmul":  # CuPy has none
        setattr(ndarray, f"__i{_name}__", _operator(f"__i{_name}__", _np, inplace=True))
for _name, _np in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
                   "eq": np.equal, "ne": np.not_equal}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__", _np))
for _name, _np in {"neg": np.negative, "abs": np.absolute, "invert": np.invert,
                   "pos": np.positive}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", lambda self, _np=_np: device(_np(self._a)))


def _method(name: str, text: str):
    def call(self, *args, **kwargs):
        checked(f"ndarray.{name}", text, args, kwargs)
        return _called(getattr(self._a, name), args, kwargs)

    call.__name__ = name
    return call


for _name, _text in API["classes"]["cupy.ndarray"].items():
    if _text and not hasattr(ndarray, _name) and hasattr(np.ndarray, _name):
        setattr(ndarray, _name, _method(_name, _text))


# -- sparse -----------------------------------------------------------------------------------


class _sparse:
    """What the three formats share; a SciPy matrix with the same wall around it."""

    __array_priority__ = 101
    __array_ufunc__ = None
    format = ""

    def __init__(self, arg1, shape=None, dtype=None, copy=False) -> None:
        make = getattr(sp, f"{self.format}_matrix")
        if isinstance(arg1, _sparse):
            arg1 = arg1._s
        elif sp.issparse(arg1):
            _note("to device", arg1.nnz)
        elif isinstance(arg1, np.ndarray):
            raise TypeError(f"Unsupported initializer format: {type(arg1)}")
        else:
            arg1 = inside(arg1)
        self._s = make(arg1, shape=shape, dtype=dtype, copy=copy)
        if self._s.dtype.char not in "?fdFD":
            raise ValueError("Only bool, float32, float64, complex64 and complex128 are supported")

    @staticmethod
    def _of(matrix):
        cls = {"csr": csr_matrix, "csc": csc_matrix, "coo": coo_matrix}[matrix.format]
        self = object.__new__(cls)
        self._s = matrix
        return self

    @classmethod
    def _result(cls, x):
        return cls._of(x) if sp.issparse(x) else device(np.asfortranarray(x))

    def __getattr__(self, name):
        if name not in API["classes"][f"cupyx.scipy.sparse.{self.format}_matrix"]:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self._s, name)
        if not callable(value):
            return self._of(value) if sp.issparse(value) else device(value)
        text = API["classes"][f"cupyx.scipy.sparse.{self.format}_matrix"][name]

        def call(*args, **kwargs):
            checked(f"{type(self).__name__}.{name}", text, args, kwargs)
            args = [a._s if isinstance(a, _sparse) else inside(a) for a in args]
            result = value(*args, **{k: inside(v) for k, v in kwargs.items()})
            if isinstance(result, np.matrix):
                result = np.asarray(result)
            return self._of(result) if sp.issparse(result) else device(result)

        return call

    def get(self, stream=None):
        _note("to host", self._s.nnz)
        return self._s.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a host NumPy array via __array__ is not allowed.")

    def __getitem__(self, key):
        parts = key if isinstance(key, tuple) else (key,)
        out = []
        for axis, part in enumerate(parts):
            if isinstance(part, ndarray):
                out.append(part._a % self._s.shape[axis])
            elif isinstance(part, slice | int):
                out.append(part)
            else:
                raise TypeError(f"a device matrix cannot be indexed by {type(part)}")
        return self._result(self._s[tuple(out) if isinstance(key, tuple) else out[0]])

    def __matmul__(self, other):
        if isinstance(other, _sparse):
            return self._of((self._s @ other._s).tocsr())
        if isinstance(other, np.ndarray) or sp.issparse(other):
            raise TypeError(f"Unsupported type {type(other)}")
        if not isinstance(other, ndarray):
            return NotImplemented
        if other.ndim > 2:
            raise ValueError("could not interpret dimensions")
        return device(np.asfortranarray(self._s @ other._a))

    def __rmatmul__(self, other):
        if not isinstance(other, ndarray):
            return NotImplemented
        return (self.T @ other.T).T

    def __mul__(self, other):
        return self._of(self._s * other) if np.isscalar(other) else self.__matmul__(other)

    def __rmul__(self, other):
        return self._of(other * self._s) if np.isscalar(other) else NotImplemented

    def __neg__(self):
        return self._of(-self._s)

    def __abs__(self):
        return self._of(abs(self._s))

    def __add__(self, other):
        if isinstance(other, ndarray):
            return device(np.asarray(self._s + other._a))
        return self._of((self._s + other._s).tocsr()) if isinstance(other, _sparse) else (
            NotImplemented)  # fmt: skip

    __radd__ = __add__

    def __reduce__(self):
        return type(self), (self.get(),)


def _format(name: str):
    return type(f"{name}_matrix", (_sparse,), {"format": name, "__module__": "cupyx.scipy.sparse"})


csr_matrix, csc_matrix, coo_matrix = _format("csr"), _format("csc"), _format("coo")


# -- modules ----------------------------------------------------------------------------------


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    if isinstance(a, list | tuple) and any(isinstance(part, ndarray) for part in a):
        return device(np.asarray(np.stack([inside(part) for part in a]), dtype))
    if sp.issparse(a) or isinstance(a, _sparse):
        raise TypeError(f"Unsupported type {type(a)}")
    host = np.array(a, dtype=dtype)
    _note("to device", host.size)
    return device(host)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    out = asarray(obj, dtype)
    return out.copy() if copy and out is obj else out


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray | _sparse) else np.asarray(a, order=order)


def get_array_module(*args):
    on_device = any(isinstance(x, ndarray | _sparse) for x in args)
    return sys.modules["cupy"] if on_device else np


class Device:
    """One of :data:`DEVICES`; the current one by default."""

    current = 0
    #: free and total
    mem_info = (8 << 30, 16 << 30)

    def __init__(self, device=None) -> None:
        self.id = Device.current if device is None else device
        self.pci_bus_id = f"0000:0{self.id}:00.0"

    def __enter__(self):
        return self

    def __exit__(self, *args) -> None:
        pass

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    __hash__ = object.__hash__

    def use(self) -> None:
        if self.id >= DEVICES:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        Device.current = self.id

    def synchronize(self) -> None:
        for flight in list(flights.FLIGHTS):
            flight.release()


#: how many there are
DEVICES = 2


class LinearOperator:
    """An operator given by its products."""

    def __init__(self, shape, matvec, rmatvec=None, matmat=None, dtype=None, rmatmat=None) -> None:
        self.shape, self.dtype, self.matvec = shape, np.dtype(dtype), matvec


def cg(A, b, x0=None, *, rtol=1e-5, atol=0.0, maxiter=None, M=None, callback=None):
    """Conjugate gradients, with the stopping rule and the callback of CuPy."""
    precondition = (lambda r: r) if M is None else M.matvec
    limit = max(float(atol), rtol * float(np.linalg.norm(b._a)))
    x = device(np.zeros_like(b._a)) if x0 is None else x0
    r, direction, before = b - A.matvec(x), None, None
    steps = maxiter or 10 * b.size
    for _ in range(steps):
        z = precondition(r)
        rho = np.vdot(r._a, z._a)
        direction = z if before is None else z + direction * (rho / before)
        image = A.matvec(direction)
        length = rho / np.vdot(direction._a, image._a)
        x, r, before = x + direction * length, r - image * length, rho
        if callback is not None:
            callback(x)
        if np.linalg.norm(r._a) <= limit:
            return x, 0
    return x, steps


OWN = {
    "cupy": {
        "ndarray": ndarray, "asarray": asarray, "array": array, "asnumpy": asnumpy,
        "asanyarray": asarray, "get_array_module": get_array_module,
        "get_default_memory_pool": lambda: flights.POOL,
    },
    "cupy.cuda": {
        "Device": Device, "is_available": lambda: True, "Stream": flights.Stream,
        "Event": flights.Event, "get_current_stream": flights.get_current_stream,
        "MemoryPool": flights.MemoryPool, "get_elapsed_time": flights.get_elapsed_time,
    },
    "cupy.cuda.runtime": {
        "getDeviceCount": lambda: DEVICES, "driverGetVersion": lambda: 0,
        "runtimeGetVersion": lambda: 0,
        "getDeviceProperties": lambda device: {"name": b"the stand-in for CuPy"},
    },
    "cupyx": {"empty_pinned": flights.empty_pinned},
    "cupyx.scipy.sparse.linalg": {"LinearOperator": LinearOperator, "cg": cg},
    "cupyx.scipy.sparse": {
        "csr_matrix": csr_matrix, "csc_matrix": csc_matrix, "coo_matrix": coo_matrix,
        "spmatrix": _sparse, "issparse": lambda x: isinstance(x, _sparse),
        "isspmatrix": lambda x: isinstance(x, _sparse),
    },
}  # fmt: skip
BEHIND = {
    "cupy": np, "cupy.linalg": np.linalg, "cupy.fft": np.fft, "cupy.random": np.random,
    "cupyx.scipy.linalg": scipy.linalg, "cupy.lib.stride_tricks": np.lib.stride_tricks,
}  # fmt: skip


def _missing(name: str):
    def call(*args, **kwargs):
        raise NotImplementedError(f"CuPy has {name}, but the stand-in does not")

    return call


def _member(module: str, name: str, text: str):
    own = OWN.get(module, {}).get(name)
    if own is not None:
        return own
    behind = getattr(BEHIND.get(module), name, None)
    if behind is None:
        return _missing(f"{module}.{name}")
    if isinstance(behind, type) or not callable(behind):
        return behind  # dtypes, constants
    return _function(f"{module}.{name}", text or "(*args, **kwargs)", behind)


def modules() -> dict[str, ModuleType]:
    """Modules with the names that the real ones have, and no other."""
    made: dict[str, ModuleType] = {}
    for name in [*API["modules"], "cupyx.scipy"]:
        module = made[name] = ModuleType(name, f"A stand-in for {name}.")
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        for key, text in API["modules"].get(name, {}).items():
            setattr(module, key, _member(name, key, text))
        if "." in name and (above := made.get(name.rpartition(".")[0])) is not None:
            setattr(above, name.rpartition(".")[2], module)
    made["cupy.cuda.nccl"] = made["cupy.cuda"].nccl = nccl.module(_note)
    made["cupyx"].scipy = made["cupyx.scipy"]
    for name in made:
        if name.startswith("cupyx.scipy."):
            setattr(made["cupyx.scipy"], name.split(".")[2], made[".".join(name.split(".")[:3])])
    made["cupy"].__version__ = API["version"]
    made["cupy"].newaxis = None
    return made


def install() -> None:
    """Make ``import cupy`` find the stand-in, before PyLops looks for it."""
    if "pylops" in sys.modules:
        raise RuntimeError("PyLops has been imported already, and found no CuPy")
    sys.modules.update(modules())
