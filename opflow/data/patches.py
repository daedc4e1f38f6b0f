"""Patches of images as rows of inputs: a network on them is a convolution."""

from __future__ import annotations

import math

from opflow.machine.arrays import (
    Array,
    Data,
    Index,
    check_integer,
    check_real,
    module_name,
    namespace,
)


class Patches:
    """Patches of images, each a row that is copied out when it is read; see :func:`patches`."""

    def __init__(self, images: Array, size: int, stride: int) -> None:
        self.images = images
        self.size = size
        self.stride = stride
        self._where = module_name(images)
        windows = self._windows()
        self.dims = windows.shape[:3]
        self.shape = (math.prod(self.dims), math.prod(windows.shape[3:]))
        self.dtype = images.dtype

    def __repr__(self) -> str:
        many, high, wide = self.dims
        rows = f"{self.shape[0]}x{self.shape[1]} {self.dtype}"
        return f"<Patches {rows} of {many} images, {high}x{wide} of each>"

    def __getitem__(self, index: Index) -> Array:
        """The patches of a slice, an integer or an array of integers."""
        xp = namespace(self.images)
        if isinstance(index, slice):
            rows = xp.arange(*index.indices(self.shape[0]))
        else:
            rows = xp.asarray(index)
        found = self._windows()[xp.unravel_index(rows, self.dims)]
        return found.reshape(*rows.shape, self.shape[1])

    def _windows(self) -> Array:
        """A view of the images, (N, H', W', size, size, C)."""
        xp = namespace(self.images)
        sides = (self.size, self.size)
        windows = xp.lib.stride_tricks.sliding_window_view(self.images, sides, axis=(1, 2))
        return xp.moveaxis(windows[:, :: self.stride, :: self.stride], 3, -1)


def patches(images: Data, size: int, stride: int = 1) -> Patches:
    r"""Return the patches of images as inputs, by which a network becomes a convolutional layer.

    Parameters
    ----------
    images : array or memory map (N, H, W) or (N, H, W, C)
        Channels last; on the host or a device, referenced and not copied.
    size : int
        Height and width of a patch, at most those of an image.
    stride : int, default 1
        Pixels from a patch to the next one, in both directions.

    Returns
    -------
    Patches
        Read by rows like a matrix on disk, of `shape` (N·H'·W', size·size·C) with
        H' = (H − size) // stride + 1 and W' alike; `dims` is (N, H', W'), the shape of one output
        of a network on all patches.

    See Also
    --------
    opflow.train : Its `measurement` pools outputs over patches.
    opflow.measured_kernel : The kernel of pooled outputs.
    opflow.RowMatrix : The matrix of all patches as an operator.
    opflow.Streamed : Moves patches of images on the host to a device.

    Notes
    -----
    Row (n, y, x) is ``images[n, y*stride:y*stride+size, x*stride:x*stride+size].ravel()``.  All
    patches meet the same weights, so one layer is a convolution, with

    .. math:: h_{nyx} = \sum_{ijc} W_{ijc}\, x_{n,\,y s+i,\,x s+j,\,c} + b

    for a stride s, and W¹ as ``W.reshape(-1, size, size, C).transpose(0, 3, 1, 2)`` is the weight
    of PyTorch's ``Conv2d``.  Pad the images for a convolution with padding.  Blocks of rows are
    copied out of a strided view of the images (of a memory map only what they touch is read): a
    pass never holds all patches, which are up to size² times as large as the images.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = of.patches(np.arange(16.0).reshape(1, 4, 4), size=2, stride=2)
    >>> X.shape, X.dims
    ((4, 4), (1, 2, 2))
    >>> X[:2]
    array([[0., 1., 4., 5.],
           [2., 3., 6., 7.]])
    >>> of.ReLUNetwork.random([4, 8], seed=0)(X).reshape(X.dims).shape
    (1, 2, 2)
    """
    images = check_real(images, "images")
    if images.ndim not in (3, 4):
        raise ValueError(
            "images must be (images, height, width) or (images, height, width, channels), not "
            f"{images.shape}"
        )
    size = check_integer(size, "size", 1, min(images.shape[1:3]))
    stride = check_integer(stride, "stride", 1)
    return Patches(images if images.ndim == 4 else images[..., None], size, stride)
