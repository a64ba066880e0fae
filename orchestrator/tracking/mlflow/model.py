"""A bundle as an MLflow model. MLflow runs this file when it loads the model: nothing is pickled.

The input is a column `image` with the bytes of image files; in JSON they are base64.
"""

from typing import Any

import pandas
from mlflow.models.model import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from orchestrator.bundle import load_bundle
from orchestrator.data.pixels import decode


class BundleModel(PythonModel):
    """Loads the bundle among its artifacts; `model_config` may name `weights` and `device`."""

    def load_context(self, context: PythonModelContext) -> None:
        config = context.model_config or {}
        self._model = load_bundle(
            context.artifacts["bundle"],
            weights=config.get("weights"),
            device=config.get("device") or "cpu",
        )

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        context: PythonModelContext,
        model_input: pandas.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pandas.DataFrame:
        """One row (label, class_name, probability) per image."""
        names = [f"row {index}" for index in range(len(model_input))]
        images = [
            decode(content, name) for content, name in zip(model_input["image"], names, strict=True)
        ]
        found = self._model.classify(images, names)
        return pandas.DataFrame(
            {
                "label": [prediction.label for prediction in found],
                "class_name": [prediction.class_name for prediction in found],
                "probability": [prediction.probability for prediction in found],
            }
        )


set_model(BundleModel())
