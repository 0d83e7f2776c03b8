"""The last: whether every operation of botocore's model was called by the tests before it."""

import unittest

from endpoint import STAND_IN, called, client

# Those of functions that run have tests of their own.
INVOKING = {"Invoke", "InvokeAsync", "InvokeWithResponseStream"}


class Coverage(unittest.TestCase):
    def test_every_operation_was_called(self):
        if not STAND_IN:
            self.skipTest("tests that would boot machines were left out")
        missing = set(client().meta.service_model.operation_names) - INVOKING - called
        self.assertEqual(missing, set())
