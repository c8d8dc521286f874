"""Ray: from a Run to workers, trials and searches."""

import os

ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or workers of `uv run` wait for an environment of their own
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # reports are fetched this often; 2 s by default
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # an autoscaled node takes minutes
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables, which verbose=0 silences only this way
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # how Ray 2.60 will do it, without its warning
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a trace for each; raylens tells the last line and where the rest is
    # Memory of a step is kept for the next one: benchmarks/README.md.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's goes on to a leaderboard of what Ctrl+C has cut short
}

# Ray reads some of them when it is imported, so they are set before any module here does.
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
