"""The service's own rule: it starts without torch."""

import subprocess
import sys


def test_service_loads_no_torch() -> None:
    code = (
        "import sys, service.app, service.cli, service.sweeper, service.up\n"
        "loaded = {'torch', 'transformers', 'peft', 'worker'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
