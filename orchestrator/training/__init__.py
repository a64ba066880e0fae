"""One configuration, trained on a warm worker: knows no Ray, Optuna or MLflow."""
