"""A machine on which nothing is left over."""

import os
import subprocess
import sys


def fill_the_machine() -> list[subprocess.Popen[bytes]]:
    """Start a process for each processor that never pauses; whoever asks kills them.

    They are nicer than usual, so that the other tests go on; the idle class has a twelfth of their weight.
    """
    return [subprocess.Popen([sys.executable, "-c", "import os; os.nice(15)\nwhile True: pass"]) for _ in range(os.cpu_count() or 1)]
