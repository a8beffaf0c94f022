"""Logs CPU, memory, disk, network and GPU use of the driver's machine on the search's run (optional).

MLflow's own monitor writes them directly to the store, not through the event log, so the values of a time
when the store was down are missing.
"""

from typing import Any

INTERVAL_SECONDS = 10.0


def start_monitor(uri: str, run_id: str) -> Any:
    """Start a monitor that logs ``system/…`` metrics to a run every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=INTERVAL_SECONDS, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    return monitor
