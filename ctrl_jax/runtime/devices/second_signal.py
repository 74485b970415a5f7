"""A signal that is heard once: the next of its kind ends the process, whatever that is doing.

Python calls its handlers between two of its own instructions, and the handler of JAX's service
for preemption sets a flag that is set already. So where the main thread is in a compilation or
waits for another process, a second signal would be heard late or never. The kernel can do better:
it takes a handler away as it calls it (SA_RESETHAND), and what is left is the default, to end.
"""

import ctypes


def hear_once(signum: int) -> None:
    """Let the handler that a signal has now, whoever set it, be called once.

    Elsewhere than on Linux with glibc nothing changes.

    Args:
        signum: the signal's number.
    """
    try:
        system = ctypes.CDLL(None)
        set_once, look = system.sysv_signal, system.sigaction
    except (OSError, TypeError, AttributeError):
        return
    set_once.argtypes, set_once.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    action = ctypes.create_string_buffer(256)  # more than its 152 bytes; the handler comes first
    if look(signum, None, action) == 0:
        set_once(signum, ctypes.c_void_p.from_buffer(action))
