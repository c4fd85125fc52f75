"""What the tests of the OpenAI SDK share: its clients, and an end for tests that hang."""

from __future__ import annotations

import faulthandler
import os
import unittest

import openai

BASE_URL = os.environ["BASE_URL"]

# A file of tests takes a few seconds. Whatever hangs ends with a traceback that shows where.
_PATIENCE_SECONDS = 120


def client() -> openai.OpenAI:
    return openai.OpenAI(base_url=BASE_URL, api_key="sk-test", max_retries=0)


def async_client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key="sk-test", max_retries=0)


def main() -> None:
    faulthandler.dump_traceback_later(_PATIENCE_SECONDS, exit=True)
    unittest.main()
