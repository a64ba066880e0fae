"""Ray Tune, Optuna and MLflow run prompt-tuning trials: plan, schedule, record, track, export."""

from orchestrator.own_process import prepare

prepare()
