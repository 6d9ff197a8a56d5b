"""A module that hangs while it is imported, in an executor process of the tests."""

import time

time.sleep(1000)
