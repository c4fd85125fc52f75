"""The exception that each error raises, and what it says."""

from __future__ import annotations

import unittest
from typing import Any

import openai

import sdk

UNKNOWN = "resp_" + "0" * 32


class Errors(unittest.TestCase):
    def setUp(self) -> None:
        self.client = self.enterContext(sdk.client())

    def raised(self, expected: type[openai.APIStatusError], **request: Any) -> openai.APIStatusError:
        with self.assertRaises(expected) as raised:
            self.client.responses.create(**{"model": "sdk-error", "input": "Hi"} | request)
        self.assertIs(type(raised.exception), expected)
        return raised.exception

    def test_errors_of_the_upstream_keep_their_class(self) -> None:
        for status, expected in (
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (403, openai.PermissionDeniedError),
            (404, openai.NotFoundError),
            (409, openai.ConflictError),
            (422, openai.UnprocessableEntityError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ):
            for stream in (False, True):
                with self.subTest(status=status, stream=stream):
                    error = self.raised(expected, model=f"sdk-error-{status}", stream=stream)
                    self.assertEqual(error.status_code, status)
                    self.assertTrue(error.code is None or isinstance(error.code, str))
                    if status in (429, 503):
                        self.assertEqual(error.response.headers["retry-after"], "7")

    def test_an_unusable_answer_is_a_server_error(self) -> None:
        error = self.raised(openai.InternalServerError, model="sdk-error-garbage")
        self.assertEqual((error.status_code, error.code), (502, "bad_upstream_response"))

    def test_a_bad_request_names_its_parameter(self) -> None:
        for request, param in (
            ({"temperature": "hot"}, "temperature"),
            ({"input": [{"role": "user", "content": 1}]}, "input"),
            ({"background": True}, "background"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"prompt": {"id": "pmpt_1"}}, "prompt"),
            ({"metadata": {"key": "x" * 513}}, "metadata"),
            ({"previous_response_id": UNKNOWN, "conversation": "conv_1"}, ""),
        ):
            with self.subTest(request):
                error = self.raised(openai.BadRequestError, **request)
                self.assertEqual(error.type, "invalid_request_error")
                self.assertTrue(error.param.startswith(param), error.param)

    def test_an_unknown_parent_is_a_bad_request(self) -> None:
        error = self.raised(openai.BadRequestError, previous_response_id=UNKNOWN)
        self.assertEqual((error.code, error.param), ("previous_response_not_found", "previous_response_id"))
        self.assertIn(f"Previous response with id '{UNKNOWN}' not found.", str(error))

    def test_an_unknown_response_is_not_found(self) -> None:
        responses = self.client.responses
        for use in (responses.retrieve, responses.delete, responses.input_items.list):
            with self.assertRaises(openai.NotFoundError) as raised:
                use(UNKNOWN)
            self.assertEqual((raised.exception.type, raised.exception.code), ("invalid_request_error", None))

    def test_only_background_responses_are_cancelled(self) -> None:
        response = self.client.responses.create(model="sdk-error", input="Hi")
        with self.assertRaisesRegex(openai.BadRequestError, "background=true"):
            self.client.responses.cancel(response.id)


if __name__ == "__main__":
    sdk.main()
