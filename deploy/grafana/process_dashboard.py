"""The dashboard Process: processes, GPUs, and what other exporters know of containers and devices."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Row

NO_GPU = "no GPU"
NO_NVML = "no GPU, or no nvidia-ml-py"
NO_CADVISOR = "cAdvisor is not scraped"
NO_DCGM = "no GPU, or DCGM exporter is not scraped"
POD = "$run-(oatmill-)?(replay|learner|actor|evaluator)-.*"
"""The names of the pods of a release of the Helm chart."""
GPU_OF = "{{pod}}{{Hostname}} GPU {{gpu}}"


def by_pod(value: str) -> str:
    """An expression over containers, by pod, or by name of container on hosts whose targets have the label `run`.

    Args:
        value: PromQL, with CHOSEN in the place of the labels that choose the run's containers.
    """
    pods = value.replace("CHOSEN", f'namespace="$namespace",pod=~"{POD}",container!="",container!="POD"')
    hosts = value.replace("CHOSEN", 'namespace="$namespace",run="$run",pod="",name!=""')
    return f"sum by (pod) ({pods}) or sum by (name) ({hosts})"


def by_gpu(metric: str, factor: str = "") -> str:
    """A metric of DCGM exporter by pod, or by host where its target has the label `run`.

    Unless Prometheus keeps the exporter's own labels (honorLabels), those of the pod that uses the GPU begin with `exported_`.

    Args:
        metric: its name.
        factor: what is done to its values, such as ` / 100`.
    """
    kept = f'{metric}{{namespace="$namespace",pod=~"{POD}"}}'
    renamed = f'{metric}{{exported_namespace="$namespace",exported_pod=~"{POD}"}}'
    hosts = f'{metric}{{namespace="$namespace",run="$run",pod="",exported_pod=""}}'
    moved = f'label_replace({renamed}, "pod", "$1", "exported_pod", "(.*)")'
    return f"max by (pod, gpu) ({kept} or {moved}){factor} or max by (Hostname, gpu) ({hosts}){factor}"


PROCESSES: list[Panel | Row] = [
    Row("Processes"),
    Panel(
        "CPU",
        "Number of CPU cores that each process uses; for actors, that of all together.",
        "short",
        [Query("rate(oatmill_process_cpu_seconds_total[$__rate_interval])", "{{process}}")],
    ),
    Panel(
        "Memory",
        "Resident memory of each process, and of all actors together. Pages that processes share are counted for each of them.",
        "bytes",
        [Query("oatmill_process_resident_memory_bytes", "{{process}}")],
    ),
    Panel(
        "Time of a learner step, by phase",
        "Mean time of each phase. The phases are stacked, and their sum is the time of a learner step.",
        "s",
        [
            Query(
                "sum by (phase) (rate(oatmill_learner_step_seconds_sum[$__rate_interval]))"
                " / on () group_left () sum(rate(oatmill_learner_steps_total[$__rate_interval]) > 0)",
                "{{phase}}",
            )
        ],
        stacked=True,
    ),
    Panel(
        "Time by phase, 99th percentile",
        "The 99th percentile of each phase's time.",
        "s",
        [
            Query(
                "histogram_quantile(0.99, sum by (le, phase) (rate(oatmill_learner_step_seconds_bucket[$__rate_interval])))",
                "{{phase}}",
            )
        ],
        log=True,
    ),
    Panel(
        "Open files and sockets",
        "It should not grow steadily.",
        "none",
        [Query("oatmill_process_open_fds", "{{process}}")],
    ),
    Panel("Threads", "It should not grow steadily.", "none", [Query("oatmill_process_threads", "{{process}}")]),
    Panel(
        "Process uptime",
        "A drop means that the process was restarted.",
        "s",
        [Query("time() - oatmill_process_start_time_seconds", "{{process}}")],
    ),
    Panel(
        "Versions",
        "The versions of each role. Roles of one run should have the same.",
        "none",
        [Query("count by (job, version, python, torch) (oatmill_build_info)")],
        "table",
        columns={"job": "Role", "version": "oatmill", "python": "Python", "torch": "torch"},
    ),
]

GPUS: list[Panel | Row] = [
    Row("GPUs of the learner's ranks"),
    Panel(
        "GPU utilisation",
        "Fraction of the time in which the GPU computed anything. If it is low while the learner does not wait for data, "
        "larger minibatches use the GPU better.",
        "percentunit",
        [Query("oatmill_gpu_utilization_ratio", "{{process}}")],
        high=1,
        empty=NO_NVML,
    ),
    Panel(
        "GPU memory used",
        "Memory that all processes on the GPU use. It is normal that torch keeps what it had once.",
        "bytes",
        [
            Query("oatmill_gpu_memory_used_bytes", "{{process}}"),
            Query("max(oatmill_gpu_memory_capacity_bytes)", "capacity"),
        ],
        dashed="capacity",
        empty=NO_GPU,
    ),
    Panel(
        "GPU memory of the rank",
        "Allocated: the rank's tensors. Reserved: what torch holds for them. If allocated grows steadily, memory leaks.",
        "bytes",
        [
            Query("oatmill_gpu_memory_allocated_bytes", "{{process}} allocated"),
            Query("oatmill_gpu_memory_reserved_bytes", "{{process}} reserved"),
        ],
        empty=NO_GPU,
    ),
    Panel(
        "GPU power",
        "Power draw of each GPU. An idle GPU draws a fraction of its limit.",
        "watt",
        [Query("oatmill_gpu_power_watts", "{{process}}")],
        width=6,
        empty=NO_NVML,
    ),
    Panel(
        "GPU temperature",
        "A GPU that is too hot lowers its clock by itself.",
        "celsius",
        [Query("oatmill_gpu_temperature_celsius", "{{process}}")],
        width=6,
        low=None,
        empty=NO_NVML,
    ),
]

OTHER_EXPORTERS: list[Panel | Row] = [
    Row("Other exporters: containers by cAdvisor, GPUs by DCGM exporter"),
    Panel(
        "CPU of containers",
        "Number of CPU cores that each pod of the run uses, by cAdvisor; those of all actors and of the evaluator, too.",
        "short",
        [Query(by_pod("rate(container_cpu_usage_seconds_total{CHOSEN}[$__rate_interval])"), "{{pod}}{{name}}", every_run=True)],
        empty=NO_CADVISOR,
    ),
    Panel(
        "Memory of containers",
        "Working set of each pod of the run, by cAdvisor. At its limit the container is killed.",
        "bytes",
        [Query(by_pod("container_memory_working_set_bytes{CHOSEN}"), "{{pod}}{{name}}", every_run=True)],
        empty=NO_CADVISOR,
    ),
    Panel(
        "GPU utilisation by DCGM",
        "As above, but measured at each scrape, so it also shows a GPU whose rank hangs.",
        "percentunit",
        [Query(by_gpu("DCGM_FI_DEV_GPU_UTIL", " / 100"), GPU_OF, every_run=True)],
        width=8,
        high=1,
        empty=NO_DCGM,
    ),
    Panel(
        "GPU memory by DCGM",
        "Used memory of each GPU.",
        "bytes",
        [Query(by_gpu("DCGM_FI_DEV_FB_USED", " * 1024 * 1024"), GPU_OF, every_run=True)],
        width=8,
        empty=NO_DCGM,
    ),
    Panel(
        "GPU power by DCGM",
        "Power draw of each GPU.",
        "watt",
        [Query(by_gpu("DCGM_FI_DEV_POWER_USAGE"), GPU_OF, every_run=True)],
        width=8,
        empty=NO_DCGM,
    ),
]

PROCESS = Dashboard(
    "process",
    "Process",
    "What the run's processes, containers and GPUs use.",
    [*PROCESSES, *GPUS, *OTHER_EXPORTERS],
)
