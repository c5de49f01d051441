"""What is told of replicas and their GPUs; NVIDIA's library is a stand-in at the edge."""

from functools import partial
from types import SimpleNamespace

import orjson

from prefdata.workers.gauges import Gauges, Now, measure_gpu


class NvmlError(Exception):
    """As NVML raises it."""


def nvml(busy):
    """A stand-in for the module `pynvml`, with GPUs of the given utilisation."""

    def handle(which):
        if which not in busy:
            raise NvmlError
        return which

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=busy[gpu]),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=2**30),
        nvmlDeviceGetPowerUsage=lambda gpu: 500_000,
    )


def test_the_record_has_rates_means_and_peaks_of_each_replica(tmp_path):
    looks = iter(
        [
            [Now("lm-0", ("0", "GPU-1"), 10, 1000, 8, 40)],
            [Now("lm-0", ("0", "GPU-1"), 30, 5000, 0, 0)],
        ]
    )
    meter = partial(measure_gpu, nvml({0: 100, "GPU-1": 50}))
    gauges = Gauges(lambda: next(looks), meter, tmp_path / "task")
    gauges.look(100.0)
    gauges.look(110.0)
    assert gauges.told() == {
        "lm-0": {
            "gpus": ("0", "GPU-1"), "answered": 30, "tokens": 5000, "tokens_per_second": 500.0,
            "queue_peak": 40, "utilization_percent": 75.0, "memory_mib_peak": 2048.0,
            "power_watts": 1000.0,
        }
    }  # fmt: skip
    text = (tmp_path / "task.prom").read_text()
    assert "# TYPE prefdata_replica_tokens_total counter" in text
    assert 'prefdata_replica_tokens_total{replica="lm-0"} 5000' in text
    assert 'prefdata_replica_utilization_percent{replica="lm-0"} 75' in text
    lines = [orjson.loads(line) for line in (tmp_path / "task.jsonl").read_bytes().splitlines()]
    assert [(line["at"], line["queue"]) for line in lines] == [(100.0, 40), (110.0, 0)]


def test_a_gpu_that_tells_nothing_and_none_at_all_are_no_errors():
    assert measure_gpu(nvml({}), "7") == (0.0, 0.0, 0.0)
    gauges = Gauges(lambda: [Now("lm-0", (), 1, 1, 0, 0)], None, None)
    gauges.look(0.0)
    assert "power_watts" not in gauges.told()["lm-0"]
