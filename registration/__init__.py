"""Registration between two images: networks, transforms, metrics and geometry."""
