"""What ``import opflow`` brings, and when."""

import pickle
import subprocess
import sys

import pytest

import opflow as of


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, opflow; opflow.__version__; print({'numpy', 'scipy', 'pylops'} & set("
    assert python(code + "sys.modules))") == "set()"


@pytest.mark.parametrize("first", ["train", "spectral"])
def test_the_first_name_brings_them_all(first):
    code = f"import opflow as of; of.{first}; print(set(of.__all__) - set(vars(of)))"
    assert python(code) == "set()"


@pytest.mark.thorough
def test_star_import_brings_the_public_names():
    code = "from opflow import *; import opflow; print(set(opflow.__all__) - set(globals()))"
    assert python(code) == "set()"


def test_dir_shows_public_names_alone():
    names = set(dir(of))
    assert {*of.__all__, "plot", "__version__"} <= names
    extras = {"plot", "distributed", "sklearn", "torch", "__version__"}
    assert names <= {*of.__all__, *extras} and len(names) == len(dir(of))


def test_parts_are_there_without_an_import_of_their_own():
    code = "import opflow as of; print(of.plot.COLOURS and of.relu.ReLUNetwork is of.ReLUNetwork)"
    assert python(code) == "True"
    assert of.plot.__name__ == "opflow.plot"


@pytest.mark.parametrize("part", ["features", "hierarchy", "observe", "spectral"])
def test_import_statements_find_what_attributes_find(part):
    name = getattr(of, part).__all__[0]
    early = f"from opflow.{part} import {name}; import opflow as of; "
    late = (
        f"import opflow as of; before = of.{part}.{name}; import opflow.{part}; {name} = before; "
    )
    same = (
        f"import sys; print(of.{part}.{name} is {name}, sys.modules['opflow.{part}'] is of.{part})"
    )
    assert python(early + same) == python(late + same) == "True True"


def test_an_extra_that_is_missing_says_how_it_is_installed():
    code = (
        "import sys; sys.modules['sklearn'] = None\nimport opflow as of\n"
        "try:\n    of.sklearn\nexcept ImportError as error:\n    print(error)"
    )
    assert "'.[sklearn]'" in python(code)


def test_names_that_do_not_exist_are_attribute_errors():
    for name in ("nonsense", "_nonsense", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(of, name)


@pytest.mark.thorough
def test_objects_are_unpickled_by_a_fresh_interpreter():
    data = pickle.dumps(of.ReLUNetwork.random([2, 3], seed=0))
    assert python(f"import pickle; print(pickle.loads({data!r}).widths)") == "(2, 3)"
