import os
import signal
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from waiting import wait_until

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


ENDLESS = {
    "function": """
import os, re
from pathlib import Path

def spin(text, row):
    Path(f"pids/{os.getpid()}").touch()
    re.search("(a|a)+$", "a" * 60 + "b")  # in C, and holds Python's lock
""",
    "recipe": """
output_dir: out
seed_dataset: {path: prompts.jsonl}
models:
  - {alias: m, model: x, inference_parameters: {temperature: 0.9, max_tokens: 16}}
columns:
  - {name: c, type: candidates, model_alias: m, samples: 3, prompt: "{{ prompt }}"}
  - {name: s, type: verifier, method: function, function: "spins:spin", candidates: c, timeout: 900}
output_projection: {type: preference_pairs, candidates: c, score: s, strategy: best_vs_worst}
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_takes_its_functions_along(tmp_path, number):
    (tmp_path / "pids").mkdir()
    (tmp_path / "spins.py").write_text(ENDLESS["function"])
    (tmp_path / "recipe.yaml").write_text(ENDLESS["recipe"])
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "why"}\n')
    process = forks.Command("build", "recipe.yaml", "--rehearse", cwd=tmp_path)
    wait_until(lambda: [*(tmp_path / "pids").iterdir()], process)
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 130)
    for file in (tmp_path / "pids").iterdir():
        wait_until(lambda pid=int(file.name): not is_alive(pid))


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
