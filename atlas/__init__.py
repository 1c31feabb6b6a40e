"""Group-wise registration: many images to one iteratively refined mean image."""
