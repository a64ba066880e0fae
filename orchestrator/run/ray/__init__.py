"""The engine that ships: Ray Tune."""

import os

# Before Ray is imported: its own loggers write files that nobody reads, and phone home.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # we have our own
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Why a worker died is known when its node is missed, which takes longer than the second that Ray
# waits for the reason: a preempted node would count as a death of the trial's.
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "60000")
# What is written out after Ray has gone takes longer than the minute after which it ends us.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
