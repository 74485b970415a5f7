"""What chips can do at most: memory, arithmetic, and how fast bytes move.

All numbers are the makers' own peaks, which no program reaches: times that follow from them are
floors. `memory` of a TPU is what its compiler lets a program use, as its refusals say.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peaks of one device.

    Args:
        name: what people call it.
        memory: bytes that a program may use.
        flops: multiplications and additions per second, inputs in bfloat16, without sparsity.
        bandwidth: bytes per second between the chip and its memory.
        interconnect: bytes per second that it can send to other chips of its kind, over all of its
            links together: half of what makers call bidirectional.
        source: where the numbers are from.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    interconnect: float
    source: str


_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"

CHIPS: dict[str, Chip] = {
    "TPU v4": Chip("v4", 32 * GIB, 275e12, 1228e9, 150e9, _CLOUD + "v4"),
    "TPU v5 lite": Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 200e9, _CLOUD + "v5e"),
    "TPU v5": Chip("v5p", int(95.73 * GIB), 459e12, 2765e9, 600e9, _CLOUD + "v5p-training"),
    "TPU v6 lite": Chip("v6e", int(31.24 * GIB), 918e12, 1638e9, 400e9, _CLOUD + "v6e"),
    "NVIDIA A100-SXM4-40GB": Chip("A100", 40 * GIB, 312e12, 1555e9, 300e9, _NVIDIA + "a100/"),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 80 * GIB, 312e12, 2039e9, 300e9, _NVIDIA + "a100/"),
    "NVIDIA H100 80GB HBM3": Chip("H100", 80 * GIB, 989e12, 3350e9, 450e9, _NVIDIA + "h100/"),
    "NVIDIA H200": Chip("H200", 141 * 10**9, 989e12, 4800e9, 450e9, _NVIDIA + "h200/"),
}
"""By the name that JAX gives a device's kind."""


def chip_of(kind: str) -> Chip | None:
    """Return what is known of a device, None where its peaks are not in the table.

    Args:
        kind: `device_kind` of a device of JAX.
    """
    return CHIPS.get(kind)
