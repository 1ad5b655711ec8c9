"""The mechanism of the exercises: an untried answer stops nothing, a wrong one fails with a message that teaches."""

import math
import reprlib
from collections.abc import Callable, Iterable
from functools import wraps
from numbers import Integral, Real


def exercise(asked: str) -> Callable:
    """Make a check out of a function that asserts what is right of an answer, and returns what to tell then.

    Example:
        >>> @exercise("the sum of 2 and 2")
        ... def check_sum(answer):
        ...     close(answer, 4, "The sum", slips={0: "That is the difference."})
        ...     return "Right: 2 + 2 = 4."
        >>> check_sum(None)
        Not tried yet: give the sum of 2 and 2.
        >>> check_sum(4)
        Right: 2 + 2 = 4.
    """

    def make(check: Callable) -> Callable:
        @wraps(check)
        def checked(answer, *arguments, **named) -> None:
            if answer is None:
                print(f"Not tried yet: give {asked}.")
            else:
                print(check(answer, *arguments, **named))

        return checked

    return make


def number(answer, what: str, least: float | None = None, whole: bool = False) -> float:
    """Return a finite number; `what` is the subject of the sentence that refuses anything else."""
    kind = "a whole number" if whole else "a number"
    is_number = isinstance(answer, Real) and not isinstance(answer, bool) and math.isfinite(answer)
    tensor = " Take `.item()` of a tensor." if type(answer).__module__.startswith("torch") else ""
    assert is_number, f"{what} is {kind}, not {reprlib.repr(answer)}.{tensor}"
    assert not whole or isinstance(answer, Integral) or answer == int(answer), f"{what} is {kind}, not {answer:g}."
    assert least is None or answer >= least, f"{what} is {least:g} or more, not {answer:g}."
    return answer


def close(answer, right: float, what: str, relative: float = 0.02, why: str = "", slips: dict | None = None) -> float:
    """Return the right number but for a share of it. A usual slip, wrong number -> why, is told before `why`."""

    def is_near(value):
        return math.isclose(answer, value, rel_tol=max(relative, 1e-9), abs_tol=1e-9)

    number(answer, what)
    if is_near(right):
        return answer
    shown = f"{int(answer):,}" if answer == int(answer) else f"{answer:g}"
    for wrong, slip in (slips or {}).items():
        assert not is_near(wrong), f"{what} is not {shown}: {slip}"
    direction = "too large" if answer > right else "too small"
    factor = max(answer / right, right / answer) if answer * right > 0 else 1
    times = f"{factor:.3g} times " if factor > 1.1 else ""
    raise AssertionError(f"{what} is not {shown}, which is {times}{direction}. {why}".strip())


def choice(answer, choices: Iterable[str], what: str) -> str:
    """Return the answer if it is one of these names."""
    names = ", ".join(map(repr, choices))
    assert isinstance(answer, str) and answer in choices, f"{what} is one of {names}, not {reprlib.repr(answer)}."
    return answer


def function(answer, what: str) -> Callable:
    """Return the learner's function, which from here on fails with its input and its error in one sentence."""
    assert callable(answer), f"{what} is a function, given by its name without parentheses, not {reprlib.repr(answer)}."

    @wraps(answer)
    def called(*arguments, **named):
        try:
            return answer(*arguments, **named)
        except Exception as error:
            given = ", ".join([*map(reprlib.repr, arguments), *(f"{k}={reprlib.repr(v)}" for k, v in named.items())])
            raise AssertionError(f"{what} fails for ({given}) with {type(error).__name__}: {error}") from error

    return called


def by_letter(answer, letters: Iterable[str], what: str) -> dict:
    """Return a dictionary that gives something to each letter, and to no other."""
    assert isinstance(answer, dict), f"The answer is a dictionary of letter and {what}, not {answer!r}."
    strange = [letter for letter in answer if letter not in letters]
    assert not strange, f"There is no {strange[0]!r}: the letters are {', '.join(letters)}."
    missing = [letter for letter in letters if letter not in answer]
    assert not missing, f"Still without {what}: {', '.join(missing)}."
    return answer


def two_numbers(answer, asked: str) -> tuple[float, float]:
    """Return two whole numbers, 0 or more; `asked` names them, as in "(gained, lost)"."""
    is_two = isinstance(answer, tuple | list) and len(answer) == 2
    assert is_two, f"The answer is two numbers, {asked}, not {answer!r}."
    return tuple(number(value, f"Each of {asked}", 0, True) for value in answer)
