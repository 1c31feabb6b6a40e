"""Scoring networks: the additive direct network and the published plain slice regression."""
