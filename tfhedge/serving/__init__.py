"""Trained policies as SavedModels, served by TensorFlow Serving, and a client."""

from tfhedge.serving.client import HedgeClient as HedgeClient
