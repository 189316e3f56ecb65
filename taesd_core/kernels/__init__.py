"""Kernels for CPUs, compiled by Numba: a network run window by window in float32, the same bits on any processor."""
