"""Predictions with an exported file on raw data: `load_model` gives all that it takes.

>>> from fedprune.prediction import load_model
"""

from fedprune.prediction.model import Answer, ExportedModel, Prediction, load_model

__all__ = ["Answer", "ExportedModel", "Prediction", "load_model"]
