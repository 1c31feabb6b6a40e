"""Semi-synthetic calcium: plaques of known mass in real or digital backgrounds."""
