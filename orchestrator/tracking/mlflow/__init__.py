"""The tracker that ships: MLflow."""
