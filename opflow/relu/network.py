"""The network: weights, a readout (fixed or trained), optional biases, layer rates and slopes.

``h^ℓ = a^{ℓ-1} W^ℓᵀ (+ b^ℓ)``, ``a^ℓ = h^ℓ`` where h^ℓ > 0 and ``α_ℓ h^ℓ`` elsewhere,
``f = a^L Vᵀ (+ c)``, for ℓ = 1..L; a layer learns at its own rate η_ℓ.  A network is immutable:
training returns a new one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.interface.keywords import Seed, keywords
from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, Data, to_device
from opflow.machine.files import load_arrays, save_arrays
from opflow.relu import convert
from opflow.relu.fields import Fields
from opflow.relu.inputs import check_inputs
from opflow.relu.network_arrays import NetworkArrays
from opflow.relu.passes import outputs
from opflow.relu.scalings import draw


class ReLUNetwork(NetworkArrays, Pictured):
    r"""A feed-forward network of ReLU, leaky or linear units with a linear readout.

    Parameters
    ----------
    weights : sequence of arrays, W^ℓ of shape (n_ℓ, n_{ℓ-1})
        float32 or float64, one dtype, finite; n_0 = d is the number of input features.
    readout : array of shape (k, n_L) or (n_L,)
        V, the weights of the outputs.
    biases : sequence of arrays of shape (n_ℓ,), or None for a layer without, optional
        Trained like the weights, at the layer's rate.
    rates : sequence of L numbers >= 0, optional
        η_ℓ in ``dW^ℓ/dt = -η_ℓ ∂loss/∂W^ℓ``; ones by default, 0 for a layer that is frozen.
    slope : float or sequence of L floats, default 0
        α_ℓ, what a unit whose h is not positive multiplies it by: 0 for ReLU, 0.01 for
        PyTorch's LeakyReLU, 1 for linear units, -1 for the absolute value.
    readout_rate : float, optional
        η_V, at which the readout and `output_bias` are trained; None for a fixed readout.
    output_bias : array of shape (k,), optional
        c, added to the outputs.

    Attributes
    ----------
    weights, biases : tuple of arrays
        An entry of `biases` is None where a layer has none.
    readout : array (k, n_L)
    output_bias : array (k,) or None
    rates, slopes : tuple of float
    readout_rate : float or None
    widths : tuple of int
        (d, n_1, …, n_L).
    depth, outputs, parameters : int
        L, k, and the number P of trained parameters.
    dtype : dtype

    See Also
    --------
    opflow.Fields : The network on a training set.
    opflow.train : Trains it.
    opflow.collective_kernel : Its neural tangent kernel.
    opflow.torch.kernel : Kernels of other architectures, in PyTorch.

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

    _picture = "network"

    def __repr__(self) -> str:
        chain = "-".join(map(str, (*self.widths, self.outputs)))
        text = f"<ReLUNetwork {chain} {self.dtype}, {self.parameters:,} parameters"
        if any(self.slopes):
            slopes = sorted(set(self.slopes))
            text += f", slope {slopes[0] if len(slopes) == 1 else self.slopes}"
        return text + ", trained readout" * (self.readout_rate is not None) + ">"

    # -- files ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file atomically: complete, or, with ``OSError``, not there."""
        save_arrays(path, self.arrays(), self.settings())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ReLUNetwork:
        """Read what :meth:`save` wrote, or the network of a run from its trajectory's file."""
        arrays, meta = load_arrays(path, "network", "readout")
        return cls.from_arrays(arrays, meta)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], settings: Mapping[str, Any]) -> ReLUNetwork:
        """The network whose ``arrays()`` and ``settings()`` are among others."""
        depth = sum(name.startswith("weight_") for name in arrays)
        return cls(
            [arrays[f"weight_{i}"] for i in range(depth)],
            arrays["readout"],
            biases=[arrays.get(f"bias_{i}") for i in range(depth)],
            rates=settings["rates"],
            slope=settings.get("slope", 0.0),  # not in older files
            readout_rate=settings.get("readout_rate"),
            output_bias=arrays.get("output_bias"),
        )

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
        """Return the fields on a training set: activations kept, the rest on demand.

        Parameters
        ----------
        X, storage, memory, comm
            As in :class:`Fields`.

        Returns
        -------
        Fields

        See Also
        --------
        opflow.Fields : All that is known of them.
        """
        return Fields(self, X, storage=storage, memory=memory, comm=comm)

    def replace(
        self, weights: Sequence[Array], biases: Sequence[Array | None] | None = None
    ) -> ReLUNetwork:
        """The same network with other weights and biases."""
        return ReLUNetwork(
            weights,
            self.readout,
            biases=self.biases if biases is None else biases,
            output_bias=self.output_bias,
            **self.settings(),
        )

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
        other.readout = to_device(other.readout, device)
        if other.output_bias is not None:
            other.output_bias = to_device(other.output_bias, device)
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
        slope: float | Sequence[float] = 0.0,
        readout_rate: float | str | None = None,
        seed: Seed = None,
        rng: Seed = None,
        dtype: DTypeLike = np.float64,
    ) -> ReLUNetwork:
        r"""Draw a random network.

        Parameters
        ----------
        widths : sequence of int
            [d, n_1, …, n_L].
        outputs : int, default 1
            k, the number of outputs.
        scaling : {"ntk", "standard", "mean-field"}
            See Notes.
        bias : bool
            Give every layer a trained bias, zero at the start.
        slope : float or sequence of L floats, default 0
            As of :class:`ReLUNetwork`.
        readout_rate : float or "auto", optional
            As of :class:`ReLUNetwork`; "auto" is that of the scaling.
        seed, rng : int, numpy.random.Generator or None, optional
        dtype : dtype, default float64
            The draw is the same for both dtypes, to rounding.

        See Also
        --------
        opflow.infinite_width : The limit of infinite width.
        opflow.ReLUNetwork.from_torch : A network drawn by PyTorch.

        Notes
        -----
        All draw, after [1]_, :math:`W^\ell \sim N(0, g_\ell/n_{\ell-1})` with
        :math:`g_\ell = 2/(1 + \alpha_\ell^2)`, which is 2 for ReLU.

        ==========  ============================  =========================  =============
        scaling     readout                       rates                      "auto"
        ==========  ============================  =========================  =============
        standard    :math:`V \sim N(0, 1/n_L)`    :math:`1`                  :math:`1`
        ntk         :math:`V \sim N(0, 1/n_L)`    :math:`g_\ell/n_{\ell-1}`  :math:`1/n_L`
        mean-field  :math:`V \sim N(0, 1/n_L^2)`  :math:`n_L`                :math:`1/n_L`
        ==========  ============================  =========================  =============

        "ntk" equals the parametrisation :math:`h = \sqrt{g/n_{in}}\,\tilde W a` with
        :math:`\tilde W \sim N(0, 1)`: same function, and gradient descent on :math:`\tilde W`
        moves W at that rate [2]_.  "mean-field" is that of [3]_.

        References
        ----------
        .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", 2015,
           arXiv:1502.01852.
        .. [2] A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel: Convergence and
           generalization in neural networks", 2018, arXiv:1806.07572.
        .. [3] S. Mei, A. Montanari, P.-M. Nguyen, "A mean field view of the landscape of two-layer
           neural networks", 2018, arXiv:1804.06561.

        Examples
        --------
        >>> import opflow as of
        >>> of.ReLUNetwork.random([10, 4], scaling="ntk", seed=1).rates
        (0.2,)
        """
        generator = np.random.default_rng(rng)
        arguments = draw(widths, outputs, scaling, bias, slope, readout_rate, generator, dtype)
        return cls(**arguments)

    from_torch = classmethod(convert.from_torch)
    from_sklearn = classmethod(convert.from_sklearn)
    to_torch = convert.to_torch
