import signal
import subprocess
import sys

import pytest

DEAF = """
import signal, sys
from prefdata.run import ending

ending.LAST_SECONDS = 1
signal.signal(signal.SIGTERM, ending.interrupt)
signal.signal(signal.SIGINT, ending.interrupt)
while True:
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        if sys.argv[1] == "hears":
            sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("kind", "code"), [("hears", 130), ("deaf", -signal.SIGALRM)])
def test_a_signal_ends_the_process_whatever_it_is_doing(number, kind, code):
    with subprocess.Popen([sys.executable, "-c", DEAF, kind], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == code
