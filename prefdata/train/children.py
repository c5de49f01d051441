"""Commands that a training runs as processes of their own. Knows no training."""

import ctypes
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prefdata.errors import PrefdataError, Say

_PR_SET_PDEATHSIG = 1


def run_child(
    words: Sequence[str], environment: Mapping[str, str] | None = None, say: Say | None = None
) -> int:
    """Run a command and return its exit code; it ends with this process, however that ends.

    `say`: gets each line that it prints; stderr does where it is left out.

    Raises:
        PrefdataError: there is no such command.
    """
    try:
        child = subprocess.Popen(
            words, stdout=subprocess.PIPE if say else sys.stderr, env=environment,
            preexec_fn=_end_with_the_parent(), text=True, errors="replace",
        )  # fmt: skip
    except OSError as err:
        raise PrefdataError(f"{words[0]!r} cannot be run: {err}; mend the command") from err
    try:
        if say and child.stdout:
            for line in child.stdout:
                say(line.rstrip("\n"))
        return child.wait()
    except BaseException:  # Ctrl-C, which it hears too
        child.terminate()
        child.wait()
        raise


def fill_in(line: str, places: Mapping[str, object]) -> list[str]:
    """The words of a command line as a shell reads them, `{name}` filled in."""
    words = shlex.split(line)
    for name, value in places.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    return words


def _end_with_the_parent() -> Callable[[], object] | None:
    """What the child does first; all that it needs is loaded before it is forked."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM)
