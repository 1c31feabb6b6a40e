"""Losses that registration networks are trained on, one class per module."""
