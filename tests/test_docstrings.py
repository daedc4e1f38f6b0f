"""Docstrings of public names: all parameters, relatives, an example, sections in numpydoc order."""

import re

import pytest

from tests.public import public

numpydoc = pytest.importorskip("numpydoc.validate")

CODES = {
    "EX01",  # no example
    "GL06",  # a section that numpydoc does not know
    "GL07",  # sections out of order
    "GL08",  # no docstring
    "PR01",  # parameters that are not documented
    "PR02",  # parameters that do not exist
    "PR03",  # parameters out of order
    "SA01",  # no See Also
    "SS01",  # no summary
}


class Validator(numpydoc.Validator):
    """Takes an object, and fields of a result that are documented as its attributes."""

    def __init__(self, obj_name):
        config = {"show_class_members": False}
        super().__init__(numpydoc.get_doc_object(obj_name, config=config))

    @property
    def signature_parameters(self):
        return tuple(n for n in super().signature_parameters if not n.startswith("_"))

    @property
    def doc_all_parameters(self):
        attributes = self._doc_parameters(["Attributes"])
        fields = {n: attributes[n] for n in self.signature_parameters if n in attributes}
        return super().doc_all_parameters or fields


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_is_complete(name):
    errors = numpydoc.validate(PUBLIC[name], validator_cls=Validator)["errors"]
    assert [text for code, text in errors if code in CODES] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_parameters_are_described_where_they_are_listed(name):
    listed = numpydoc.get_doc_object(PUBLIC[name], config={"show_class_members": False})
    told = {p.name: " ".join(p.desc) for p in listed["Parameters"]}
    assert not {n: d for n, d in told.items() if re.fullmatch(r"Those of :\w+:`[^`]*`\.", d)}
