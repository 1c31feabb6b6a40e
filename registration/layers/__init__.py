"""Keras layers of registration networks, one public class per module.

Every layer computes in float32, whatever the global precision policy: float16 steps by
0.25 at an index of 300, which is far too coarse for coordinates.
"""
