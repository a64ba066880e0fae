"""Ray Tune, Optuna and MLflow run prompt-tuning trials: plan, schedule, record, track, export."""

from orchestrator.support.own_process import prepare

prepare()
