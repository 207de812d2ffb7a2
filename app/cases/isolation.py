"""Reading what strangers have made, in a process of its own that has little memory, little time, and no secret.

PDFs and pictures are read by large C libraries, and a small file may unpack to any size. Each file gets a fresh process: when it eats memory,
hangs or crashes, that process ends and the hall does not. `python -m app.cases.isolation <task>`: options as one line of JSON and
the file on stdin, an answer as one line of JSON and bytes on stdout. About a quarter of a second each.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

MEMORY_BYTES = 1024 * 1024 * 1024
CPU_S = 10
WALL_S = 30
_MOST_BYTES_OUT = 16 * 1024 * 1024
_ROOT = Path(__file__).resolve().parents[2]
# task -> module and function: (file, **options) -> (answer, bytes).
_TASKS = {
    "check_pdf": ("app.cases.pdf_check", "check_pdf"),
    "preview": ("app.cases.previews", "draw"),
}
_at_once = asyncio.Semaphore(2)


class Failed(Exception):
    """The process ended without an answer: out of memory or time, or crashed. The text says how."""


async def run(task: str, content: bytes, options: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], bytes]:
    """Return what a task says of a file, and the bytes it made. Two at a time.

    Raises:
        Failed.
    """
    async with _at_once:
        # Nothing of our environment: settings hold keys.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(_ROOT)!r}); import app.cases.isolation as i; i.main()",
            task,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"}, cwd="/",
        )  # fmt: skip
        try:
            async with asyncio.timeout(WALL_S):
                out, _err = await process.communicate(json.dumps(options or {}).encode() + b"\n" + content)
        except TimeoutError as error:
            raise Failed("too slow") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0 or not out or len(out) > _MOST_BYTES_OUT:
        log.info("isolation.failed", task=task, returncode=process.returncode)
        raise Failed(f"ended with {process.returncode}")
    line, _, made = out.partition(b"\n")
    return json.loads(line), made


def main() -> None:
    """Run one task inside its own process."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    module, name = _TASKS[sys.argv[1]]
    options, _, content = sys.stdin.buffer.read().partition(b"\n")
    answer, made = getattr(importlib.import_module(module), name)(content, **json.loads(options))
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + made)
    sys.stdout.buffer.flush()
    os._exit(0)  # libraries take their time to tidy up, and there is nothing to tidy


if __name__ == "__main__":
    main()
