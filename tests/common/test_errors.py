"""common/errors.py: user errors are one line, bugs keep their traceback."""


import pytest

from common.errors import UserError, exit_status


def raising(error):
    def work():
        raise error
    return work


def test_exit_status_of_success(capsys):
    assert (exit_status('x.py', lambda: None), exit_status('x.py', lambda: 3)) == (0, 3)
    assert capsys.readouterr() == ('', '')


def test_user_errors_and_interruptions_are_one_line(capsys):
    assert exit_status('x.py', raising(UserError('n=0: must be 1 or more'))) == 1
    assert exit_status('x.py', raising(LookupError('gone')), (UserError, LookupError)) == 1
    assert exit_status('x.py', raising(KeyboardInterrupt), interrupted='interrupted; all is kept') == 130
    assert capsys.readouterr().err == ('x.py: error: n=0: must be 1 or more\nx.py: error: gone\n'
                                       'x.py: interrupted; all is kept\n')


def test_exit_status_leaves_bugs_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status('x.py', raising(ZeroDivisionError()))
