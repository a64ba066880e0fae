"""The engine that ships: Ray Tune."""

import os

# Before Ray is imported: it would phone home, and print what we say ourselves.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Why a worker died is known when its node is missed, which takes longer than the second that Ray
# waits for the reason: a preempted node would count as a death of the trial's.
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "60000")
# What is written out after Ray has gone takes longer than the minute after which it ends us.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
