"""CPU of the run's own process for each completion: journal, keys, `.map`, sockets, dealing.

    python scripts/bench_dealing.py [--rows 4000] [--profile]

Eight stub replicas answer at once with texts of 1.5 kB, so what is measured is the run. Texts are
drawn, four a row, journaled and written to a folder, as in a run with eight GPUs.
"""

import argparse
import cProfile
import os
import pstats
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

REPLICAS, SAMPLES, CHARACTERS = 8, 4, 1500


def main() -> None:
    """Run the load, print CPU microseconds a completion; as a replica, answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    _measure(16, None)  # what is imported at the first `.map`
    rounds = []
    for _ in range(args.rounds):
        profiler = cProfile.Profile(time.thread_time) if args.profile else None
        rounds.append(_measure(args.rows, profiler))
        print(f"{rounds[-1]:.0f} us of CPU a completion", flush=True)
        if profiler is not None:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    best = min(rounds)
    print(f"best of {len(rounds)}: {best:.0f} us, {1e6 / best:,.0f} completions a second and core")


def _measure(rows: int, profiler: cProfile.Profile | None) -> float:
    """CPU microseconds of this process, all threads, for each completion of one pass."""
    import pyarrow as pa

    from prefdata.fingerprint import TextKeys
    from prefdata.recipe.columns import Candidates
    from prefdata.recipe.schema import InferenceParameters, Model
    from prefdata.run.passes import Sweep, run_pass, window_for
    from prefdata.run.room import room_for
    from prefdata.stages import Tools, fields_of, make_stage
    from prefdata.storage.folders import RowsWriter, count_rows
    from prefdata.storage.journal import Journal
    from prefdata.storage.journaled import Journaled, Opened, Work
    from prefdata.workers.machine import Place
    from prefdata.workers.messages import Order
    from prefdata.workers.pool import Workers

    parameters = InferenceParameters(temperature=0.9, max_tokens=512)
    model = Model(alias="m", model="stub", inference_parameters=parameters)
    column = Candidates(
        name="candidates",
        type="candidates",
        model_alias="m",
        samples=SAMPLES,
        prompt="{{ prompt }}",
    )
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal") as journal:
        out, work = Path(folder), Work()
        source = pa.table(
            {
                "id": [f"{n:020x}" for n in range(rows)],
                "prompt": [f"{n}. " + "Say what it is, and why. " * 10 for n in range(rows)],
            }
        )
        with RowsWriter(out / "0", source.schema) as writer:
            for batch in source.to_batches(1000):
                writer.write(pa.Table.from_batches([batch]))
        order = Order("text", model, "stub", "transformers")
        program = (__file__, "--replica")
        workers = Workers(order, [Place()] * REPLICAS, out / "logs", print, program=program)
        while workers.capacity < REPLICAS * 1024:
            time.sleep(0.05)
        engine = Journaled(Opened(lambda: workers), TextKeys("stub"), journal, work)
        tools = Tools(0, {"m": model}, {"m": engine}, {}, columns=[column], prompt="prompt")
        levels = [[(column.name, make_stage(column, tools))]]
        room = room_for(REPLICAS, SAMPLES * 512 * 4)
        sweep = Sweep(levels, fields_of(column), None, window_for(REPLICAS), room=room)
        start, own = time.process_time(), time.thread_time()
        if profiler is not None:
            profiler.enable()
        run_pass(sweep, out / "0", out / "1", _Silent())
        if profiler is not None:
            profiler.disable()
        spent, own = time.process_time() - start, time.thread_time() - own
        if profiler is not None:
            print(f"of it in the thread of the passes: {own / (rows * SAMPLES) * 1e6:.0f} us")
        assert (count_rows(out / "1"), work.generated) == (rows, rows * SAMPLES)
        workers.close()
    return spent / (rows * SAMPLES) * 1e6


class _Silent:
    def advance(self, rows: int) -> None:
        """Show nothing."""


def _answer(socket: int) -> None:
    """Be a replica."""
    from prefdata.inference import Completion
    from prefdata.workers.worker import serve

    rng = random.Random(os.getpid())
    words = "".join(rng.choices("abcdefghij klmnop", k=4 * CHARACTERS))

    class Words:
        capacity, steps = 1024, 0

        async def ask(self, requests):
            for index, request in enumerate(requests):
                at = request.seed % (3 * CHARACTERS)
                yield index, Completion(words[at : at + CHARACTERS], "stop", 60, 350)

    serve(Connection(socket), lambda order: Words())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replica"]:
        _answer(int(sys.argv[2]))
    else:
        main()
