"""Run the stand-ins alone: `python -m sandbox --port 8889 --data-dir .data/sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

from sandbox.server import serve


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Local stand-ins of the platforms.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("HALL_SANDBOX_PORT", "8889")))
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("HALL_DATA_DIR", ".data")) / "sandbox")
    options = parser.parse_args()
    logging.basicConfig(
        level=os.environ.get("HALL_LOG_LEVEL", "info").upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    task = asyncio.ensure_future(serve(options.port, options.data_dir))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"sandbox: {error}") from error


if __name__ == "__main__":
    asyncio.run(_main())
