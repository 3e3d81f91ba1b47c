import copy
import pickle

import pytest

from duly.task import given
from duly.task import given as given_again


def test_it_says_what_it_is():
    assert repr(given) == "given"


def test_copies_and_pickles_are_the_one_instance():
    assert copy.deepcopy(given) is given is given_again
    assert pickle.loads(pickle.dumps(given)) is given


def test_asking_it_for_something_says_who_should_have_given_it():
    with pytest.raises(AttributeError, match="'attempt' was asked of a parameter that Duly gives"):
        _ = given.attempt
