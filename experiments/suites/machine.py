"""The machine that figures come from."""

import os
import platform

import jax


def machine() -> dict[str, object]:
    """Returns what the figures depend on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "jax": jax.__version__,
    }
