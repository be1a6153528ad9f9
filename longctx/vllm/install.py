"""Everything that the plugin changes in a process of vLLM."""

from __future__ import annotations

from longctx.vllm import version


def install() -> None:
    """See `longctx.vllm.register`."""
    version.check()
    from vllm.model_executor.custom_op import CustomOp, op_registry_oot
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from longctx.vllm import buckets, config_hook, rotary

    if current_platform.is_cpu():
        register_backend(AttentionBackendEnum.CPU_ATTN, "longctx.vllm.choice.CpuBackend")
    if current_platform.is_cuda():
        path = "longctx.vllm.cuda.DualChunkCudaBackend"
        register_backend(AttentionBackendEnum.CUSTOM, path)
    if rotary.REPLACED not in op_registry_oot:
        CustomOp.register_oot(name=rotary.REPLACED)(rotary.FoldedRotary)
    config_hook.install()
    buckets.install()
