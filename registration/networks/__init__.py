"""Networks that predict transforms from a pair of images."""
