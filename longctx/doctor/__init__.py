"""What this machine has, and whether what it offers computes right: `longctx info` and `doctor`.

    info      versions, devices, features and kernels, each with its reason; runs no kernel
    checks    every kernel and dtype in a process of its own, against float64

Knows no model.
"""
