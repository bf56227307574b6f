"""How a command ends: bad input with 2, a failed run with 1, each with one line; a bug keeps its traceback."""

import pytest

from stprivacy.errors import RunError, UserError, exit_with_one_line


@pytest.mark.parametrize(
    ("error", "code", "line"), [(UserError("a.csv: bad"), 2, "error: a.csv: bad\n"), (RunError("gone"), 1, "failed: gone\n")]
)
def test_an_error_for_people_ends_a_command_with_one_line_and_its_code(error, code, line, capsys):
    @exit_with_one_line
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_is_no_error_for_people():
    @exit_with_one_line
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()
