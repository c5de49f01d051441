import threading

from waiting import wait_until

from prefdata.storage.journaled import Load, Work
from prefdata.workers.throughput import ROWS, Slowest, Throughput, measure_throughput


def test_a_long_run_keeps_few_samples_and_both_ends():
    work = Work()
    throughput = Throughput(work, most=50)
    halved = 0
    for count in range(5000):
        work.generated = count
        halved += throughput.sample()
    told = throughput.told()
    assert len(told["samples"]) <= 51
    assert halved > 5
    done = [sample[1] for sample in told["samples"]]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 4999)


def work_a_little(work):
    work.completion_tokens += 3
    return True


def test_samples_are_taken_while_the_run_works():
    work, threads = Work(), threading.active_count()
    with measure_throughput(work, seconds=0.01) as throughput:
        throughput.begin("first")
        wait_until(lambda: work_a_little(work) and len(throughput.told()["samples"]) >= 6)
    told = throughput.told()
    assert len(told["samples"]) >= 6
    assert told["passes"][0][1] == "first"
    assert threading.active_count() == threads


def test_only_the_slowest_rows_are_kept():
    slowest = Slowest()
    for number in range(1000):
        slowest.note(f"r{number}", float((number * 37) % 1000))
    rows = slowest.rows()
    assert [seconds for _, seconds in rows] == [float(999 - n) for n in range(ROWS)]


def test_loads_are_told_beside_the_passes():
    work = Work()
    throughput = Throughput(work)
    work.loads += [Load("org/lm", "lm on the CPU"), Load("org/rm", "rm on the CPU")]
    work.loads[0].finish()
    done, going_on = throughput.told()["loads"]
    assert (done[0], len(done)) == ("lm on the CPU", 3)
    assert 0 <= done[1] <= done[2]
    assert (going_on[0], len(going_on)) == ("rm on the CPU", 2)
