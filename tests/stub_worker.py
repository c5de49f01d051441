"""A worker whose engine does what its chats tell it to. Run by test_workers.py."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from zlib import crc32

from prefdata.errors import PrefdataError
from prefdata.inference import Completion, Failure
from prefdata.workers.worker import serve


class Stub:
    """Completes chats, or scores them."""

    capacity, steps = 16, 0

    def __init__(self, ask):
        self.ask = ask


async def complete(requests):
    for index, request in enumerate(requests):
        words = request.messages[0]["content"].split()
        if "poison" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in words:
            threading.Event().wait()
        if "bug" in words:
            raise ZeroDivisionError("a bug in the engine")
        if "refuse" in words:
            yield index, Failure("refused", "the row asked for it")
            continue
        if "misfit" in words:
            raise PrefdataError("the recipe is wrong")
        for gate in (word[6:] for word in words if word.startswith("until=")):
            Path(f"{gate}-{words[0]}-{os.getpid()}").touch()
            while not Path(gate).exists():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.002)
        yield index, Completion(f"{words[0]} {request.seed} {os.getpid()}", "stop", 1, 1)


async def score(requests):
    for index, request in enumerate(requests):
        words = request.messages[0]["content"].split()
        for told in (word[7:] for word in words if word.startswith("scored=")):
            Path(f"{told}-{words[0]}-{index}").touch()
        yield index, (float(crc32(request.messages[-1]["content"].encode())),)


def open_engine(order):
    print(f"thoughts: {order.model.inference_parameters.max_reasoning_tokens}", flush=True)
    if order.role == "reward":
        return Stub(score)
    if order.path == "no such model":
        raise PrefdataError("there is no such model")
    if order.path == "dies":
        print("out of memory, says the driver", flush=True)
        os._exit(9)
    if order.path == "has a child":
        # with so much memory that the system takes a while to end it
        program = "held = b'x' * 2**28; import time; time.sleep(999)"
        subprocess.Popen([sys.executable, "-c", program])
    return Stub(complete)


serve(Connection(int(sys.argv[1])), open_engine)
