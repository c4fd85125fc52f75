"""What the programs of the Python clients share: where the router is, and which scene is asked for."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Awaitable
from typing import Any

import openai

BASE_URL = os.environ["BASE_URL"]
MODEL = os.environ["MODEL"]
API_KEY = "sk-test"

UNKNOWN_RESPONSE = "resp_" + "0" * 32

# What MODEL-<status> answers with, and the exception that the SDK has for it.
ERRORS = (
    ("400", openai.BadRequestError),
    ("404", openai.NotFoundError),
    ("429", openai.RateLimitError),
    ("500", openai.InternalServerError),
)

# Whatever hangs ends with a traceback that shows where.
_PATIENCE_SECONDS = 100


def client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY)


async def raised(expected: type[BaseException] | tuple[type[BaseException], ...], doing: Awaitable[Any]) -> Any:
    """The exception that it raises, which has to be one of these."""
    try:
        value = await doing
    except expected as error:
        return error
    raise AssertionError(f"returned {value!r} instead of raising {expected}")


def play() -> None:
    """Plays the scene that the command line names, a function of the program."""
    # What goes wrong is raised as well, or expected.
    logging.disable()
    faulthandler.dump_traceback_later(_PATIENCE_SECONDS, exit=True)
    scene = getattr(sys.modules["__main__"], sys.argv[1])
    asyncio.run(scene())
