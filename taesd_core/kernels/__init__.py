"""Kernels for CPUs, compiled by LLVM: a network run window by window in float32, the same bits on any processor."""
