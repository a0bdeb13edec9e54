"""The one exception that reading, writing and converting weights raises for a user's mistake."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights, a config or a tokenizer that cannot be used; the message is for the user."""
