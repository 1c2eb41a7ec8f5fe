import json

import pytest

from biaslab.errors import InputError, reading, require_one_of, require_positive


def test_numbers_that_are_not_positive():
    require_positive(limit=None, steps=1)
    with pytest.raises(InputError, match=r"^`every` is expected to be a positive integer but got 0\.$"):
        require_positive(steps=1, every=0)


@pytest.mark.parametrize(("known", "names"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")])
def test_values_that_are_not_known(known, names):
    require_one_of("rule", "a", known)
    with pytest.raises(InputError, match=f"^`rule` is expected to be {names} but got 'x'\\.$"):
        require_one_of("rule", "x", known)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[1,"])
def test_a_file_that_can_not_be_read(tmp_path, content):
    path = tmp_path / "f.json"
    if content is not None:
        path.write_bytes(content)
    with (
        pytest.raises(InputError, match=r"^`path` is expected to be a list, but .*f\.json can't be read.*Give another"),
        reading("path", "a list", path),
    ):
        json.loads(path.read_text(encoding="utf-8"))


def test_an_error_of_ours_stays_as_it_is():
    with pytest.raises(InputError, match=r"^mine$"), reading("path", "a list", "f"):
        raise InputError("mine")
