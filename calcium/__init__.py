"""Calcium scoring: the Agatston reference, the direct networks and what surrounds them."""
