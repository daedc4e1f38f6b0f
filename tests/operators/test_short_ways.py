"""Small products: how many Python calls lie between ``K @ r`` and the matrix product."""

import sys

import numpy as np

import opflow as of
from opflow.operators import khatri_rao, row_products

#: where the matrix products are made, and what they ask
FILES = {khatri_rao.__file__, row_products.__file__}


def test_few_calls_lie_between_a_product_of_a_kernel_and_the_matrix_product():
    fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    K = of.collective_kernel(fields)
    r = np.ones(3)
    stacks = []

    def look(frame, event, arg):
        if event == "call" and frame.f_code.co_filename in FILES:
            names = []
            while frame.f_code is not start:
                names.append(frame.f_code.co_qualname)
                frame = frame.f_back
            stacks.append(names)

    start = sys._getframe().f_code
    with of.gate_options(threads=1):
        K @ r
        sys.setprofile(look)
        try:
            K @ r
        finally:
            sys.setprofile(None)
    assert stacks and max(map(len, stacks)) <= 12, stacks
