"""The network: weights, a fixed readout, optional biases and layer rates.

``h^ℓ = a^{ℓ-1} W^ℓᵀ (+ b^ℓ)``, ``a^ℓ = max(h^ℓ, 0)``, ``f = a^L Vᵀ``, for ℓ = 1..L; a layer
learns at its own rate η_ℓ.  A network is immutable: training returns a new one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from opflow.interface.keywords import Seed, keywords
from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, Data, namespace, to_device, to_host
from opflow.machine.files import load_arrays, save_arrays
from opflow.relu.fields import Fields
from opflow.relu.from_torch import torch_arrays
from opflow.relu.inputs import check_inputs
from opflow.relu.parameters import checked_biases, checked_rates, checked_readout, checked_weights
from opflow.relu.passes import outputs
from opflow.relu.scalings import draw


class ReLUNetwork(Pictured):
    r"""A feed-forward ReLU network with a fixed linear readout.

    Parameters
    ----------
    weights : sequence of arrays, W^ℓ of shape (n_ℓ, n_{ℓ-1})
        float32 or float64, one dtype, finite; n_0 = d is the number of input features.
    readout : array of shape (k, n_L) or (n_L,)
        V, not trained.
    biases : sequence of arrays of shape (n_ℓ,), or None for a layer without, optional
        Trained like the weights, at the layer's rate.
    rates : sequence of L positive numbers, optional
        η_ℓ in ``dW^ℓ/dt = -η_ℓ ∂loss/∂W^ℓ``; ones by default.

    Attributes
    ----------
    weights, biases : tuple of arrays
        An entry of `biases` is None where a layer has none.
    readout : array (k, n_L)
    rates : tuple of float
    widths : tuple of int
        (d, n_1, …, n_L).
    depth, outputs, parameters : int
        L, k, and the number P of trained parameters.
    dtype : dtype

    Notes
    -----
    Weights are referenced, not copied.  Rates express the NTK and mean-field parametrisations.

    Examples
    --------
    >>> import opflow as of
    >>> net = of.ReLUNetwork.random([4, 8, 8], seed=0)
    >>> net.depth, net.widths, net.parameters
    (2, (4, 8, 8), 96)
    """

    def __init__(
        self,
        weights: Sequence[Array],
        readout: Array,
        *,
        biases: Sequence[Array | None] | None = None,
        rates: Sequence[float] | None = None,
    ) -> None:
        self.weights = checked_weights(weights)
        self.readout = checked_readout(readout, len(self.weights[-1]))
        self.biases = checked_biases(biases, self.weights)
        self.rates = checked_rates(rates, len(weights))
        arrays = [*self.parameter_list(), self.readout]
        namespace(*arrays)  # raises where they are not at one place
        dtypes = sorted({str(a.dtype) for a in arrays})
        if len(dtypes) > 1:
            raise TypeError(f"weights, readout and biases mix {' and '.join(dtypes)}")

    # -- shape ----------------------------------------------------------------------------

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weights[0].shape[1], *(W.shape[0] for W in self.weights))

    @property
    def depth(self) -> int:
        return len(self.weights)

    @property
    def outputs(self) -> int:
        return int(self.readout.shape[0])

    @property
    def parameters(self) -> int:
        return sum(int(p.size) for p in self.parameter_list())

    def digest(self) -> str:
        """SHA-256 of all numbers of the network, by which runs and ranks compare networks."""
        found = hashlib.sha256(repr((self.widths, self.rates, str(self.dtype))).encode())
        for array in (*self.weights, *self.biases, self.readout):
            if array is not None:
                found.update(np.ascontiguousarray(to_host(array)).data)
        return found.hexdigest()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.readout.dtype)

    _picture = "network"

    def __repr__(self) -> str:
        chain = "-".join(map(str, (*self.widths, self.outputs)))
        return f"<ReLUNetwork {chain} {self.dtype}, {self.parameters:,} parameters>"

    # -- files ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file atomically: complete, or, with ``OSError``, not there."""
        save_arrays(path, self.arrays(), {"rates": self.rates})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ReLUNetwork:
        """Read what :meth:`save` wrote, or the network of a run from its trajectory's file."""
        arrays, meta = load_arrays(path, "network", "readout")
        return cls.from_arrays(arrays, meta["rates"])

    def arrays(self) -> dict[str, Array]:
        """The arrays of the network by the names they have in a file."""
        arrays = {f"weight_{i}": W for i, W in enumerate(self.weights)}
        arrays |= {f"bias_{i}": b for i, b in enumerate(self.biases) if b is not None}
        return arrays | {"readout": self.readout}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], rates: Sequence[float]) -> ReLUNetwork:
        """The network whose :meth:`arrays` are among others."""
        depth = sum(name.startswith("weight_") for name in arrays)
        weights = [arrays[f"weight_{i}"] for i in range(depth)]
        biases = [arrays.get(f"bias_{i}") for i in range(depth)]
        return cls(weights, arrays["readout"], biases=biases, rates=rates)

    # -- use ------------------------------------------------------------------------------

    def __call__(self, X: Data) -> Array:
        """Outputs f of shape (N, k), computed in row blocks.

        Parameters
        ----------
        X : array (N, d), rows on disk, sparse matrix or operator
            Of the network's dtype, or converted to it, with a warning where that rounds.

        Notes
        -----
        Costs 2·N·P flops; memory beyond the result does not grow with N (it does, as N·n_1, for
        a sparse matrix or an operator).
        """
        return outputs(self, check_inputs(X, self))

    def fields(
        self,
        X: Data,
        *,
        storage: str | None = None,
        memory: float | str | None = None,
        comm: object = None,
    ) -> Fields:
        """The fields on a training set: activations kept, the rest on demand.

        Parameters
        ----------
        X, storage, memory, comm
            As in :class:`Fields`.
        """
        return Fields(self, X, storage=storage, memory=memory, comm=comm)

    def replace(
        self, weights: Sequence[Array], biases: Sequence[Array | None] | None = None
    ) -> ReLUNetwork:
        """The same readout and rates with other weights and biases."""
        if biases is None:
            biases = self.biases
        return ReLUNetwork(weights, self.readout, biases=biases, rates=self.rates)

    def moved(self, weights: Sequence[Array], biases: Sequence[Array | None]) -> ReLUNetwork:
        """As :meth:`replace`, for arrays a step has just made: shapes are not checked again."""
        other = object.__new__(ReLUNetwork)
        other.__dict__ = self.__dict__ | {"weights": tuple(weights), "biases": tuple(biases)}
        return other

    def parameter_list(self) -> list[Array]:
        """The trained arrays ``[W^1, b^1, W^2, …]``, a bias only where a layer has one."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [p for pair in pairs for p in pair if p is not None]

    def parameter_rates(self) -> list[float]:
        """η of each array of :meth:`parameter_list`."""
        pairs = zip(self.rates, self.biases, strict=True)
        return [rate for rate, b in pairs for _ in range(1 if b is None else 2)]

    def with_parameters(self, parameters: Sequence[Array]) -> ReLUNetwork:
        """The network with the arrays that :meth:`parameter_list` would give; not checked."""
        rest = iter(parameters)
        weights = []
        biases = []
        for b in self.biases:
            weights.append(next(rest))
            biases.append(None if b is None else next(rest))
        return self.moved(weights, biases)

    def parameter_slices(self) -> list[tuple[slice, slice | None]]:
        """Where W^ℓ and b^ℓ stand among the flattened parameters; None without a bias."""
        places: list[tuple[slice, slice | None]] = []
        start = 0
        for W, b in zip(self.weights, self.biases, strict=True):
            weight = slice(start, start + W.size)
            bias = None if b is None else slice(weight.stop, weight.stop + b.size)
            places.append((weight, bias))
            start = weight.stop if bias is None else bias.stop
        return places

    def to(self, device: str) -> ReLUNetwork:
        """This network with its arrays on another device.

        Parameters
        ----------
        device : {"cpu", "gpu"}
            Host memory, or the current CUDA device through CuPy.

        Notes
        -----
        Arrays that are there already are referenced, not copied.  Inputs and targets have to be
        where the network is: nothing is moved unasked.

        Examples
        --------
        >>> import opflow as of
        >>> net = of.ReLUNetwork.random([4, 8], seed=0)
        >>> net.to("cpu").weights[0] is net.weights[0]
        True
        """
        other = self.with_parameters([to_device(p, device) for p in self.parameter_list()])
        other.readout = to_device(self.readout, device)
        return other

    # -- making one -----------------------------------------------------------------------

    @classmethod
    @keywords
    def random(
        cls,
        widths: Sequence[int],
        *,
        outputs: int = 1,
        scaling: str = "ntk",
        bias: bool = False,
        seed: Seed = None,
        rng: Seed = None,
        dtype: DTypeLike = np.float64,
    ) -> ReLUNetwork:
        r"""A random network.

        Parameters
        ----------
        widths : sequence of int
            [d, n_1, …, n_L].
        outputs : int, default 1
            k.
        scaling : {"ntk", "standard", "mean-field"}
            See Notes.
        bias : bool
            Give every layer a trained bias, zero at the start.
        seed, rng : int, numpy.random.Generator or None, optional
        dtype : dtype, default float64
            The draw is the same for both dtypes, to rounding.

        Notes
        -----
        All draw :math:`W^\ell \sim N(0, 2/n_{\ell-1})`.

        ============  ===========================  ==============================
        scaling       readout                      rates
        ============  ===========================  ==============================
        standard      :math:`V \sim N(0, 1/n_L)`   :math:`\eta_\ell = 1`
        ntk           :math:`V \sim N(0, 1/n_L)`   :math:`\eta_\ell = 2/n_{\ell-1}`
        mean-field    :math:`V \sim N(0, 1/n_L^2)` :math:`\eta_\ell = n_L`
        ============  ===========================  ==============================

        "ntk" equals the parametrisation :math:`h = \sqrt{2/n_{in}}\,\tilde W a` with
        :math:`\tilde W \sim N(0, 1)`: same function, and gradient descent on :math:`\tilde W`
        moves W at that rate.

        Examples
        --------
        >>> import opflow as of
        >>> of.ReLUNetwork.random([10, 4], scaling="ntk", seed=1).rates
        (0.2,)
        """
        generator = np.random.default_rng(rng)
        return cls(**draw(widths, outputs, scaling, bias, generator, dtype))

    @classmethod
    def from_torch(cls, module: object) -> ReLUNetwork:
        """The network of a ``torch.nn.Sequential`` of ``Linear`` and ``ReLU``.

        Parameters
        ----------
        module : torch.nn.Sequential
            Linear, ReLU, …, Linear, ReLU, Linear; the last Linear is the readout and must have
            ``bias=False``.

        Notes
        -----
        Weights are copied to host memory in their dtype; rates are 1.
        """
        weights, readout, biases = torch_arrays(module)
        return cls(weights, readout, biases=biases)
